from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainingArguments

from jobs import JOBS, get_job
from jobs.answering.answers import load_answering_model
from jobs.backbone import tokenizers
from jobs.dataset.data import Data
from jobs.mc import TASK as MC
from jobs.mc import McParams
from jobs.params import TrainingParams, device_batch
from jobs.qa import TASK as QA
from jobs.qa import QaParams
from jobs.task import Task
from jobs.training import arguments, batches, predict, train
from jobs.training import trainer as training
from jobs.training.arguments import training_arguments
from jobs.training.batches import batched_by_length, batches_by_tokens
from jobs.training.precision import UsedPrecision
from tests.support import zoo
from tests.support.spaces import EPOCH, SMALL


@given(st.integers(1, 256), st.integers(1, 64), st.integers(1, 8))
def test_batches_of_the_devices_make_the_effective_batch(share: int, most: int, workers: int) -> None:
    size = device_batch(share * workers, most, workers)
    assert 1 <= size <= most
    assert share % size == 0


def test_a_batch_that_cannot_be_shared_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot be divided among 3 workers"):
        device_batch(8, 8, 3)


def test_accumulation_makes_up_for_small_devices(tmp_path: Path) -> None:
    args = training_arguments(TrainingParams(effective_batch_size=8, per_device_train_batch_size=1), tmp_path)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (1, 8)
    args = training_arguments(
        TrainingParams(effective_batch_size=8, per_device_train_batch_size=2), tmp_path, workers=2
    )
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (2, 2)


@pytest.mark.parametrize(
    ("ratio", "steps", "expected"),
    [(0.1, 0, 100), (0.0, 1500, 1500), (0.0, 1, 1), (0.0, 0, 0), (0.999, 0, 999)],
)
def test_warm_up_by_ratio_or_by_steps(tmp_path: Path, ratio: float, steps: int, expected: int) -> None:
    args = training_arguments(TrainingParams(warmup_ratio=ratio, warmup_steps=steps), tmp_path)
    assert args.get_warmup_steps(1000) == expected


def test_evaluation_checkpoint_and_log_share_their_rhythm(tmp_path: Path) -> None:
    by_epoch, by_steps = (
        training_arguments(TrainingParams(), tmp_path),
        training_arguments(TrainingParams(eval_steps=7), tmp_path),
    )
    assert {by_epoch.eval_strategy, by_epoch.save_strategy, by_epoch.logging_strategy} == {"epoch"}
    assert {by_steps.eval_strategy, by_steps.save_strategy, by_steps.logging_strategy} == {"steps"}
    assert by_steps.eval_steps == by_steps.save_steps == by_steps.logging_steps == 7


LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=300).map(np.array)


@given(LENGTHS, st.integers(1, 16), st.integers(0, 2**32 - 1), st.integers(0, 9))
def test_every_input_is_seen_once_an_epoch(lengths: Any, size: int, seed: int, epoch: int) -> None:
    order = batched_by_length(lengths, size, seed, epoch)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert order.tolist() == batched_by_length(lengths, size, seed, epoch).tolist()


def test_training_batches_are_alike_in_length_in_an_order_of_their_own_each_epoch() -> None:
    lengths = np.random.default_rng(0).integers(50, 512, 1000)
    orders = [batched_by_length(lengths, 8, 42, epoch) for epoch in (0, 1)]
    assert orders[0].tolist() != orders[1].tolist()
    for order in orders:
        longest = lengths[order].reshape(-1, 8).max(axis=1)
        assert 8 * longest.sum() < 1.1 * lengths.sum()  # drawn at random it is 1.6
        assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.2  # neither short nor long ones first


@given(LENGTHS, st.integers(1, 16))
def test_evaluation_batches_hold_every_input_once_and_no_more_tokens_than_the_longest(lengths: Any, size: int) -> None:
    batches = batches_by_tokens(lengths, size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(len(rows) * lengths[rows].max() <= size * lengths.max() for rows in batches)
    assert len(batches) <= -(-len(lengths) // size)
    small = batches_by_tokens(lengths, size, 100)
    assert sorted(np.concatenate(small).tolist()) == list(range(len(lengths)))
    assert all(len(rows) == 1 or len(rows) * lengths[rows].max() <= 100 for rows in small)


@pytest.mark.parametrize(
    ("task", "params"),
    [
        (QA, QaParams(backbone="scratch:1x32x2", max_length=64, doc_stride=16, per_device_eval_batch_size=4)),
        (MC, McParams(backbone="scratch:1x32x2", max_length=96, per_device_eval_batch_size=2)),
    ],
)
def test_batches_by_tokens_give_the_logits_and_the_loss_of_one_input_at_a_time(
    task: Task, params: TrainingParams, few: Data, tmp_path: Path
) -> None:
    tokenizer = tokenizers.load_tokenizer(params.backbone, few.paragraphs)
    inputs = task.inputs(params, tokenizer, few, few.valid, tmp_path)
    model = task.model(params, tokenizer).eval()
    trainer = training.BatchTrainer(
        score=lambda logits: {"sum": float(sum(part.sum() for part in logits))},
        model=model,
        args=training_arguments(params, tmp_path),
        data_collator=batches.keep_batch,
        eval_dataset=training.input_dataset(task, inputs, range(len(inputs)), params),
        compute_loss_func=task.loss,
    )
    metrics = trainer.evaluate()
    losses, alone = [], []
    for row in range(len(inputs)):
        batch = task.collate(inputs, [row], params)
        with torch.inference_mode():
            output = model(**batch) if task.loss is None else model(**{**batch, "labels": None})
            losses.append(float(output.loss if task.loss is None else task.loss(output, batch["labels"])))
        alone.append([output[name][0].numpy() for name in output if name.endswith("logits")])
    assert metrics["eval_loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    for kind, table in enumerate(predict.predict(task, model, inputs, params)):
        for number, (line, parts) in enumerate(zip(table, alone, strict=True)):
            own = inputs.lengths()[number] if task is QA else len(parts[kind])
            np.testing.assert_allclose(line[:own], parts[kind][:own], atol=1e-5)


@pytest.fixture
def cudnn_attention() -> Iterator[Callable[[], bool]]:
    """Enable cuDNN's attention, and return the function that says whether it still is."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield torch.backends.cuda.cudnn_sdp_enabled
    torch.backends.cuda.enable_cudnn_sdp(before)


class Begun(Exception):
    """Ends a training that has begun."""


def test_training_does_not_use_the_attention_of_cudnn(
    cudnn_attention: Callable[[], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_data(location: str) -> Data:
        raise Begun

    monkeypatch.setattr(training, "read_data", read_data)
    with pytest.raises(Begun):
        train(QA, QaParams(), "sample", tmp_path, lambda *_: None)
    assert not cudnn_attention()


def test_answers_do_not_use_the_attention_of_cudnn(
    cudnn_attention: Callable[[], bool], few: Data, tmp_path: Path
) -> None:
    params = QaParams(backbone="scratch:1x32x2", max_length=64, doc_stride=16)
    tokenizer = tokenizers.load_tokenizer(params.backbone, few.paragraphs)
    inputs = QA.inputs(params, tokenizer, few, few.valid, tmp_path)
    predict.predict(QA, QA.model(params, tokenizer), inputs, params)
    assert not cudnn_attention()


class TwoGpus(TrainingArguments):  # type: ignore[misc]
    """What transformers makes of a process that sees two GPUs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._n_gpu = 2


def test_a_process_trains_on_one_gpu_though_it_sees_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "TrainingArguments", TwoGpus)
    params = TrainingParams(effective_batch_size=8, per_device_train_batch_size=2)
    made = training_arguments(params, tmp_path)
    assert (made.n_gpu, made.train_batch_size, made.gradient_accumulation_steps) == (1, 2, 4)
    assert training_arguments(params, tmp_path).parallel_mode.name == "NOT_PARALLEL"


class Recorder:
    """Stands in for TrainingArguments and keeps what it is given."""

    n_gpu = 1

    def __init__(self, **given: Any) -> None:
        self.given = given


@pytest.mark.parametrize("name", ["bf16", "fp16", "tf32", "fp32"])
def test_trainer_computes_in_the_precision_that_was_chosen(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "TrainingArguments", Recorder)
    given = training_arguments(TrainingParams(), tmp_path, precision=UsedPrecision(name)).given
    assert (given["bf16"], given["fp16"]) == (name == "bf16", name == "fp16")
    assert given["logging_nan_inf_filter"] is (name == "fp16")


def test_a_stored_model_answers_as_it_did_whatever_padding_its_tokenizer_has(few: Data, tmp_path: Path) -> None:
    """A RoBERTa with BERT's vocabulary whose config has RoBERTa's padding: it counts positions from this id."""
    backbone = Path(zoo.build("roberta-bert-vocabulary", tmp_path / "roberta"))
    config = json.loads((backbone / "config.json").read_text(encoding="utf-8"))
    (backbone / "config.json").write_text(json.dumps({**config, "pad_token_id": 1}), encoding="utf-8")
    params = McParams(backbone=str(backbone), num_train_epochs=1, learning_rate=1e-3, max_length=64)
    reports: list[tuple[dict[str, float], Path]] = []
    train(MC, params, few.location, tmp_path, lambda *one: reports.append(one))
    model = load_answering_model(reports[0][1], "mc", tmp_path / "cache")
    assert model.network.config.pad_token_id == 1
    (scores,) = model.logits(MC.inputs(model.params, model.tokenizer, few, few.valid, tmp_path / "cache"))
    before = json.loads((reports[0][1] / "predictions.json").read_text(encoding="utf-8"))
    for own, row in zip(scores, before, strict=True):
        assert own[: len(row["scores"])].tolist() == pytest.approx(row["scores"], abs=1e-6)


def with_old_names(backbone: Path) -> str:
    """Name a BERT's weights as TensorFlow did, and as the files of bert-base-chinese still do."""
    file = backbone / "model.safetensors"
    renamed = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in load_file(file).items()
    }
    save_file(renamed, file, {"format": "pt"})
    return str(backbone)


@pytest.mark.parametrize("kind", ["bert", "nomic_bert"])
def test_a_backbone_whose_files_have_other_names_of_weights_resumes_to_the_same_metrics(
    kind: str, few: Data, tmp_path: Path
) -> None:
    backbone = zoo.build(kind, tmp_path / kind)
    if kind == "bert":
        backbone = with_old_names(Path(backbone))
    params = QaParams(backbone=backbone, num_train_epochs=2, learning_rate=1e-2, max_length=64, doc_stride=16)
    runs: list[list[tuple[dict[str, float], Path]]] = [[], []]
    for place, report in enumerate(runs):
        workdir = tmp_path / str(place)
        workdir.mkdir()
        resume_from = {"resume_from": runs[0][0][1]} if place else {}
        train(QA, params, few.location, workdir, lambda *one, report=report: report.append(one), **resume_from)
    (_, whole), (resumed,) = [[metrics for metrics, _ in report] for report in runs]
    assert resumed == whole


def first_step(name: str, data: Data, workdir: Path, **knobs: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss and the gradients of the first optimizer step of a training, before they are clipped."""
    job, losses, found = get_job(name), [], {}
    assert job.task is not None
    common = {**EPOCH, "effective_batch_size": 8, "max_grad_norm": 1e9}
    workdir.mkdir()
    trainer = training.make_trainer(
        job.task, job.params(**{**common, **SMALL[name], **knobs}), data.location, workdir, lambda *_: None
    )

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
            found.update({key: one.grad.clone() for key, one in model.named_parameters() if one.grad is not None})
            raise Begun

    step = trainer.training_step
    trainer.add_callback(Stop())
    summed = patch.object(trainer, "training_step", lambda *given: losses.append(step(*given)) or losses[-1])
    with summed, patch("gc.collect"), pytest.raises(Begun):  # Trainer collects garbage, of which tests have much
        trainer.train()
    return float(sum(losses)), found


@pytest.mark.parametrize("name", JOBS)
def test_the_loss_and_the_gradients_are_the_same_for_any_batch_on_the_device(
    name: str, few: Data, tmp_path: Path
) -> None:
    sizes = [(8, False), (8, True), (2, False), (1, True)]
    whole, *others = (
        first_step(
            name, few, tmp_path / f"{size}-{again}", per_device_train_batch_size=size, gradient_checkpointing=again
        )
        for size, again in sizes
    )
    assert whole[1]
    for loss, gradients in others:
        assert loss == pytest.approx(whole[0], abs=1e-5)
        assert gradients.keys() == whole[1].keys()
        for key, gradient in gradients.items():
            torch.testing.assert_close(gradient, whole[1][key], rtol=1e-5, atol=1e-5)

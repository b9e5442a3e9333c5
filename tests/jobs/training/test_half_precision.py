"""Products in 16 bits: masks and losses stay finite, and a step that fp16's scaler skips ends no training.

CPUs compute our own code in fp16 too. Only the scaler, which accelerate makes for GPUs, is put in here.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

from jobs import JOBS, get_job
from jobs.answering import answers
from jobs.backbone import tokenizers
from jobs.dataset.data import Data
from jobs.job import ParamError
from jobs.mc import ABSENT, candidate_loss
from jobs.model import attention, dropout
from jobs.model.attention import layout
from jobs.params import TrainingParams
from jobs.qa import TASK as QA
from jobs.qa import QaParams
from jobs.training import train
from jobs.training import trainer as training
from jobs.training.conditions import conditions_in, recorded_conditions
from jobs.training.precision import FP32, Hardware, UsedPrecision
from jobs.training.predict import predict
from jobs.training.trainer import BatchTrainer, make_trainer, span_loss
from tests.jobs.model.test_attention import config
from tests.support.spaces import SMALL

HALF = [torch.bfloat16, torch.float16]
PRECISIONS = {torch.bfloat16: UsedPrecision("bf16"), torch.float16: UsedPrecision("fp16")}
FAR = 60_000.0  # the largest number of fp16 is 65,504


def losses_and_gradients(name: str, data: Data, folder: Path, dtype: torch.dtype | None) -> tuple[float, Tensor, Any]:
    """Return the loss and the gradients of one batch of different lengths, and the logits of its questions."""
    job = get_job(name)
    params = job.params(**{"backbone": "scratch:1x32x2", **SMALL[name]})
    task = job.task
    assert task is not None
    tokenizer = tokenizers.load_tokenizer(params.backbone, data.paragraphs)
    inputs = task.inputs(params, tokenizer, data, data.train[:3], folder / "cache")
    torch.manual_seed(0)
    model = dropout.quicken(task.model(params, tokenizer))
    batch = task.collate(inputs, range(3), params)
    labels = batch.get("labels")
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        given = {key: value for key, value in batch.items() if task.loss is None or key != "labels"}
        outputs = model.train()(**given)
        loss = span_loss(outputs, batch) if labels is None else candidate_loss(outputs, labels)
    assert loss.dtype == torch.float32
    loss.backward()
    gradients = torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
    logits = predict(task, model, inputs, params, PRECISIONS.get(dtype, UsedPrecision()))  # type: ignore[arg-type]
    return float(loss.detach()), gradients, logits


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", sorted(JOBS))
def test_a_step_in_16_bits_is_finite_and_near_that_in_32(
    name: str, dtype: torch.dtype, few: Data, tmp_path: Path
) -> None:
    loss, gradients, logits = losses_and_gradients(name, few, tmp_path, dtype)
    exact, expected, wanted = losses_and_gradients(name, few, tmp_path, None)
    assert loss == pytest.approx(exact, rel=0.02)
    assert gradients.isfinite().all()
    assert (gradients - expected).norm() < 0.2 * expected.norm()
    for own, right in zip(logits, wanted, strict=True):
        assert own.dtype.name == "float32"
        assert abs(own - right).max() < 0.02


@pytest.mark.parametrize("dtype", HALF)
def test_the_candidates_loss_is_computed_in_32_bits(dtype: torch.dtype) -> None:
    logits = torch.tensor([[FAR, -FAR, 0.0], [0.1, 0.3, 0.2]], dtype=dtype, requires_grad=True)
    labels = torch.tensor([[ABSENT, 2, ABSENT], [ABSENT, 3, ABSENT]])
    loss = candidate_loss({"logits": logits}, labels)
    expected = candidate_loss({"logits": logits.detach().float()}, labels)
    assert (loss.dtype, loss.item()) == (torch.float32, expected.item())
    assert loss.item() == pytest.approx(FAR, rel=0.1)  # 120,000 for two questions, more than fp16 holds
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", HALF)
def test_the_spans_loss_is_computed_in_32_bits_without_padding(dtype: torch.dtype) -> None:
    logits = torch.tensor([[FAR, -FAR, FAR]], dtype=dtype, requires_grad=True)
    batch = {name: torch.tensor([1]) for name in ("start_positions", "end_positions")}
    batch["attention_mask"] = torch.tensor([[1, 1, 0]])
    loss = span_loss({"start_logits": logits, "end_logits": logits}, batch)
    assert (loss.dtype, loss.item()) == (torch.float32, pytest.approx(2 * FAR, rel=0.01))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_a_hidden_key_stays_finite_with_any_score(dtype: torch.dtype) -> None:
    """The dtype's minimum and a negative score would be -inf; a row in which all are -inf gives NaN."""
    tokens = torch.tensor([[2, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    plan = layout(tokens, 2, dtype)
    for mask in (plan.local, plan.wide):
        for score in (-20.0, -1000.0, 1000.0):
            assert (mask + torch.full_like(mask, score)).isfinite().all()
        assert ((mask + 1000).exp() == 0)[mask < 0].all()


@pytest.mark.parametrize("dtype", HALF)
def test_attention_on_a_gpu_has_no_nan_in_rows_of_padding(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU computes the scores in 16 bits, with PyTorch's attention; a CPU's takes the same dtypes."""

    def on_gpu(query: Tensor, key: Tensor, value: Tensor, added: Tensor, rate: float) -> Tensor:
        return scaled_dot_product_attention(query, key, value, attn_mask=added, dropout_p=rate)

    monkeypatch.setattr(attention, "attend", on_gpu)
    tokens = torch.tensor([[2] + 150 * [1] + 40 * [0], 191 * [0]])
    module = attention.in_blocks(LongformerSelfAttention(config(16), 0)).eval()
    states = (30 * torch.randn(2, 191, 16)).requires_grad_()
    with torch.autocast("cpu", dtype):
        (outputs,) = module(states, layout(tokens, 8, dtype))
    assert outputs.isfinite().all()
    outputs.float().sum().backward()
    assert states.grad is not None
    assert states.grad.isfinite().all()


@pytest.mark.parametrize("dtype", HALF)
def test_quick_dropout_has_no_nan_where_all_keys_are_hidden(dtype: torch.dtype) -> None:
    key, value = (40 * torch.randn(1, 2, 6, 8, dtype=dtype) for _ in range(2))
    hidden = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    outputs, _ = dropout.attention(torch.nn.Identity(), -key.abs(), key.abs(), value, hidden, dropout=0.1)
    assert outputs.isfinite().all()


def scaled(trainer: BatchTrainer, scale: float) -> BatchTrainer:
    """Scale the losses and cast as accelerate does on a GPU: it refuses to do so on a CPU (accelerate 1.x)."""
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    trainer.accelerator.native_amp = True
    trainer.accelerator.state._mixed_precision = "fp16"
    return trainer


def overflow_once(model: torch.nn.Module) -> None:
    """Make the logits of one batch in training overflow."""
    seen = []

    def hook(module: torch.nn.Module, args: Any, output: Any) -> Any:
        seen.append(module.training)
        return output * (math.inf if sum(seen) == 5 and module.training else 1)

    model.qa_outputs.register_forward_hook(hook)


@pytest.fixture
def in_fp16(few: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, list[Any]]]:
    """Train in fp16 for an epoch with a scale, and return the model and the reports."""

    def run(scale: float, change: Callable[[torch.nn.Module], None] = lambda _: None) -> tuple[Any, list[Any]]:
        reports: list[Any] = []
        monkeypatch.setattr(training, "training_precision", lambda *_: UsedPrecision("fp16"))
        params = QaParams(backbone="scratch:1x32x2", num_train_epochs=1, learning_rate=1e-3, **SMALL["qa"])
        with conditions_in({}):
            trainer = make_trainer(QA, params, few.location, tmp_path, lambda *one: reports.append(one))
            change(trainer.model)
            scaled(trainer, scale).train()
            assert recorded_conditions()["precision"] == "fp16"
        return trainer, reports

    return run


@pytest.mark.parametrize("overflows", [False, True])
def test_steps_that_the_scaler_skips_are_no_divergence(
    in_fp16: Callable[..., tuple[Any, list[Any]]], overflows: bool
) -> None:
    """The scale is far too large at first, so that the gradients of the first steps overflow."""
    trainer, reports = in_fp16(2.0**26, overflow_once if overflows else lambda _: None)
    assert trainer.accelerator.scaler.get_scale() < 2.0**26
    assert all(weight.isfinite().all() for weight in trainer.model.parameters())
    ((metrics, checkpoint),) = reports
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["train_loss"] > 1
    assert metrics["step"] == trainer.state.max_steps
    assert json.loads((checkpoint / "job.json").read_text())["conditions"]["precision"] == "fp16"


@pytest.fixture
def reader(few: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Train, or answer with, a reader in a precision; return how float32 products were computed in each step."""

    def run(used: UsedPrecision, answering: bool, fails: bool = False) -> list[str]:
        monkeypatch.setattr(training, "training_precision", lambda *_: used)
        params = QaParams(backbone="scratch:1x32x2", num_train_epochs=1, **SMALL["qa"])
        workdir = tmp_path / f"{used.name}-{fails}"
        workdir.mkdir()
        trainer = make_trainer(QA, params, few.location, workdir, lambda *_: None)
        seen = []

        def hook(*_: Any) -> None:
            seen.append(torch.get_float32_matmul_precision())
            if fails:
                raise ConnectionError

        trainer.model.register_forward_pre_hook(hook)
        with suppress(ConnectionError):
            if answering:
                tokenizer = tokenizers.load_tokenizer(params.backbone, few.paragraphs)
                predict(QA, trainer.model, QA.inputs(params, tokenizer, few, few.valid, tmp_path), params, used)
            else:
                trainer.train()
        return seen

    return run


@pytest.mark.parametrize("answering", [False, True])
def test_trainings_and_answers_set_tf32_and_reset_it(reader: Callable[..., list[str]], answering: bool) -> None:
    """A GPU that has TF32 uses it for products that stay in float32, unless fp32 is asked for."""
    for used, fails in ((UsedPrecision("tf32", True), False), (UsedPrecision("tf32", True), True), (FP32, False)):
        assert set(reader(used, answering, fails)) == {"high" if used.tf32 else "highest"}
        assert torch.get_float32_matmul_precision() == "highest"


def test_a_trial_on_a_device_that_lacks_its_precision_fails_in_one_line(few: Data, tmp_path: Path) -> None:
    params = QaParams(backbone="scratch:1x32x2", precision="fp16", **SMALL["qa"])
    with pytest.raises(ParamError, match="the CPU has no fp16, which needs a GPU; choose auto"):
        train(QA, params, few.location, tmp_path / "trial", lambda *_: None)
    assert not (tmp_path / "trial").exists()


@pytest.mark.parametrize(
    ("conditions", "device", "expected"),
    [
        ({"precision": "bf16", "device": "A100"}, Hardware("cuda", "H100", (9, 0)), "bf16"),
        ({"precision": "bf16", "device": "A100"}, Hardware(bf16=True), "fp32"),
        ({"precision": "bf16", "device": "CPU"}, Hardware(bf16=True), "bf16"),
        ({}, Hardware(bf16=True), "fp32"),
        (None, Hardware(bf16=True), "fp32"),  # of an earlier version
    ],
)
def test_a_checkpoint_answers_in_the_precision_that_it_records(
    conditions: dict[str, str] | None, device: Hardware, expected: str, checkpoints: dict[str, Path],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoints["qa"], folder)
    told = json.loads((folder / "job.json").read_text())
    told.pop("conditions")
    told |= {} if conditions is None else {"conditions": conditions}
    (folder / "job.json").write_text(json.dumps(told))
    monkeypatch.setattr(answers, "this_device", lambda: device)
    assert answers.load_answering_model(folder, "qa", tmp_path).precision.name == expected


def test_answers_that_fp16_cannot_hold_are_computed_in_fp32(few: Data, tmp_path: Path) -> None:
    params = QaParams(backbone="scratch:1x32x2", **SMALL["qa"])
    tokenizer = tokenizers.load_tokenizer(params.backbone, few.paragraphs)
    inputs, model = QA.inputs(params, tokenizer, few, few.valid, tmp_path), QA.model(params, tokenizer)
    exact, _ = predict(QA, model, inputs, params)
    rounded, _ = predict(QA, model, inputs, params, UsedPrecision("fp16"))
    assert (rounded != exact).any()
    model.qa_outputs.register_forward_hook(lambda module, args, output: output * 2.0**20 / 2.0**20)
    again, _ = predict(QA, model, inputs, params, UsedPrecision("fp16"))
    assert (again == exact).all()


def test_workers_on_different_gpus_train_in_what_both_have_and_record_both(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Hardware("cuda", "Tesla T4", (7, 5))
    monkeypatch.setattr(training, "this_device", lambda: Hardware("cuda", "A100", (8, 0)))
    monkeypatch.setattr(training.workers, "gather_on_first", lambda own: [own, other, other])
    noted: dict[str, Any] = {}
    with conditions_in(noted):
        assert training.agreed_precision(TrainingParams()) == UsedPrecision("fp16")
    assert noted == {"precision": "fp16", "device": "A100, Tesla T4"}
    with pytest.raises(ParamError, match=r"Tesla T4 \(capability 7\.5\) has no bf16"):
        training.agreed_precision(TrainingParams(precision="bf16"))

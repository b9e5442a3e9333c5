"""Two workers train as one does: real processes that talk over gloo, on the sample's first questions, with backbones
that drop nothing, so that all that may differ is the order of additions."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib import import_module
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs import checkpoint, get_job
from jobs.backbone import tokenizers
from jobs.dataset.data import Data, read_data
from jobs.dataset.sample import sample_files
from jobs.job import ParamError
from jobs.model import backbones
from jobs.params import TrainingParams, check_workers, device_batch, smaller
from jobs.qa import QaParams
from jobs.training import workers
from jobs.training.arguments import layer_classes, leaves_unused, training_arguments
from jobs.training.batches import WorkerBatch, WorkerSampler, batched_by_length, split_step, worker_turns
from jobs.training.trainer import check_sharding
from tests.support.ranks import (
    Seen,
    in_a_group_of_others,
    meeting,
    on_ranks,
    refusals,
    watched,
    whole_resumed_and_sharded,
)
from tests.support.spaces import SMALL
from tests.support.zoo import build

pytestmark = pytest.mark.timeout(600)  # each rank imports torch and transformers anew
VALID = 9
# Questions to train on, rows of a step and most at once on a worker. Of qa's 51 and mc's 19 rows 3 are left for the
# last step of an epoch, of longformer's 38 6, to be read by two workers in other batches than by one.
SIZES = {"qa": (24, 8, 8), "mc": (19, 4, 1), "longformer": (19, 16, 2)}
EPOCHS = 2


def written(folder: Path, train: int) -> Data:
    sample = sample_files()
    rows = {"train": sample["train"][:train], "valid": sample["valid"][:VALID], "context": sample["context"]}
    for name, content in rows.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return read_data(str(folder))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return written(tmp_path_factory.mktemp("data"), 17)


@pytest.fixture(scope="module")
def backbone(data: Data, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small random BERT that drops nothing."""
    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = tokenizers.load_tokenizer("scratch:1x32x2", data.paragraphs)
    torch.manual_seed(0)
    model = backbones.load_model("scratch:1x32x2", "AutoModelForQuestionAnswering", tokenizer, 512)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    return str(folder)


def params_of(name: str, backbone: str, **changes: Any) -> TrainingParams:
    small: dict[str, Any] = {
        **SMALL[name],
        "backbone": backbone,
        "learning_rate": 1e-3,
        "num_train_epochs": EPOCHS,
        "effective_batch_size": SIZES[name][1],
        "per_device_train_batch_size": SIZES[name][2],
        "per_device_eval_batch_size": 2,
    }
    return get_job(name).params(**{**small, **changes})  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Compared:
    """A training by one worker, and what the ranks of two did in turn."""

    name: str
    params: TrainingParams
    data: Data
    alone: Seen
    on_rank: list[dict[str, Any]]
    home: Path

    @property
    def ranks(self) -> list[Seen]:
        return [done["whole"] for done in self.on_rank]

    @property
    def resumed(self) -> list[Seen]:
        return [done["resumed"] for done in self.on_rank]


@pytest.fixture(
    scope="module", params=["qa", *(pytest.param(name, marks=pytest.mark.long) for name in ("mc", "longformer"))]
)
def compared(request: pytest.FixtureRequest, backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    home, name = tmp_path_factory.mktemp("sweep"), request.param
    data, params = written(tmp_path_factory.mktemp("data"), SIZES[name][0]), params_of(name, backbone)
    on_rank = on_ranks(whole_resumed_and_sharded, home, name, params, data.location)
    alone = watched(tmp_path_factory.mktemp("alone"), name, params, data.location, "whole")
    return Compared(name, params, data, alone, on_rank, home)


def predictions(seen: Seen) -> list[dict[str, Any]]:
    return list(json.loads((seen.reports[-1][1] / checkpoint.PREDICTIONS).read_text(encoding="utf-8")))


@pytest.mark.slow
def test_two_workers_report_the_metrics_of_one(compared: Compared) -> None:
    assert len(compared.alone.reports) == EPOCHS
    for (one, _), (two, _) in zip(compared.alone.reports, compared.ranks[0].reports, strict=True):
        assert two == pytest.approx(one, abs=1e-3)


@pytest.mark.slow
def test_two_workers_answer_each_question_once_and_as_one_does(compared: Compared) -> None:
    """Scores aside: a bias that all logits share has no gradient but rounding, which Adam makes steps of."""
    one, two = predictions(compared.alone), predictions(compared.ranks[0])
    assert [prediction["id"] for prediction in two] == [question.id for question in compared.data.valid]
    for ours, theirs in zip(one, two, strict=True):
        assert theirs.keys() == ours.keys()
        assert all(theirs[name] == ours[name] for name in ours if not name.startswith("score"))


@pytest.mark.slow
def test_every_rank_reports_the_same_metrics_and_checkpoints(compared: Compared) -> None:
    assert compared.ranks[0].reports == compared.ranks[1].reports


@pytest.mark.slow
def test_the_ranks_train_on_each_row_once_an_epoch_in_the_steps_of_one_worker(compared: Compared) -> None:
    ranks = [seen.trained for seen in compared.ranks]
    assert len(ranks[0]) == len(ranks[1])
    rows = [row for rank in ranks for rows, weight in rank for row in rows if weight]
    assert sorted(rows) == sorted(row for rows, _ in compared.alone.trained for row in rows)
    assert {row: rows.count(row) for row in rows} == dict.fromkeys(range(len(set(rows))), EPOCHS)


@pytest.mark.slow
def test_rank_0_alone_writes_checkpoints_and_they_are_whole_with_every_ranks_random_state(compared: Compared) -> None:
    assert [seen.published for seen in compared.ranks] == [EPOCHS, 0]
    saved = [folder for _, folder in compared.ranks[0].reports]
    assert sorted((compared.home / "whole").iterdir()) == saved
    assert [checkpoint.damage(folder) for folder in saved] == [None] * EPOCHS
    *earlier, last = [checkpoint.load_json(folder / checkpoint.MANIFEST).keys() for folder in saved]
    for names, folder in zip(earlier, saved, strict=False):
        assert {"rng_state_0.pth", "rng_state_1.pth"} < names
        states = [torch.load(folder / f"rng_state_{rank}.pth", weights_only=False)["cpu"] for rank in (0, 1)]
        assert not torch.equal(*states)  # workers that drop the same numbers would average less
    assert checkpoint.state_files(last) == set()


@pytest.mark.slow
def test_a_disk_that_is_full_in_the_thread_of_rank_0_ends_every_rank(compared: Compared) -> None:
    text = "OSError: [Errno 28] No space left on device"
    assert [done["full"] for done in compared.on_rank] == [text, f"WorkerError: rank 0: {text}"]


@pytest.mark.slow
def test_each_text_is_tokenized_once_for_all_ranks(compared: Compared) -> None:
    assert sum(seen.tokenized for seen in compared.ranks) == compared.alone.tokenized > 0
    assert sum(seen.tokenized for seen in compared.resumed) == 0


@pytest.mark.slow
def test_ranks_that_resume_go_on_and_end_as_uninterrupted_ones(compared: Compared) -> None:
    for whole, resumed in zip(compared.ranks, compared.resumed, strict=True):
        assert [metrics for metrics, _ in resumed.reports] == [metrics for metrics, _ in whole.reports[1:]]


@pytest.mark.slow
def test_one_worker_goes_on_from_the_checkpoint_of_two(compared: Compared) -> None:
    middle = compared.ranks[0].reports[0][1]
    alone = watched(compared.home, compared.name, compared.params, compared.data.location, "alone", middle)
    assert alone.reports[-1][0] == pytest.approx(compared.alone.reports[-1][0], abs=1e-3)


@pytest.mark.slow
def test_workers_that_share_the_weights_report_the_metrics_of_one_and_resume(compared: Compared) -> None:
    for done in compared.on_rank:
        assert all(0.3 < held < 0.7 for held in done["held"])
        sharded = [metrics for metrics, _ in done["sharded"].reports]
        assert sharded == [pytest.approx(metrics, abs=1e-3) for metrics, _ in compared.alone.reports]
        assert [metrics for metrics, _ in done["sharded_resumed"].reports] == sharded[1:]


@pytest.mark.slow
def test_a_checkpoint_of_shared_weights_is_whole_and_loads_in_one_process(compared: Compared, tmp_path: Path) -> None:
    """Trained on at a rate that moves no weight, it gives the loss that was reported with it."""
    (_, earlier), (metrics, saved) = compared.on_rank[0]["sharded"].reports
    assert {"optimizer.bin", "pytorch_model_fsdp.bin"} < checkpoint.state_files([one.name for one in earlier.iterdir()])
    assert checkpoint.state_files([path.name for path in saved.iterdir()]) == set()
    assert checkpoint.damage(saved) is None
    assert "model.safetensors" in checkpoint.answering_part(saved)
    still = replace(compared.params, backbone=str(saved), learning_rate=1e-30, num_train_epochs=1)
    ((again, _),) = watched(tmp_path, compared.name, still, compared.data.location, "still").reports
    assert again["eval_loss"] == pytest.approx(metrics["eval_loss"], abs=1e-6)


@pytest.mark.long
def test_workers_train_a_model_that_leaves_parameters_unused(data: Data, tmp_path: Path) -> None:
    """An XLNet has an embedding of masked tokens, which no reader needs."""
    params = params_of("qa", build("xlnet", tmp_path / "xlnet"), num_train_epochs=1)
    first, second = on_ranks(watched, tmp_path, "qa", params, data.location, "together")
    assert len(first.reports) == 1
    assert first.reports == second.reports


@pytest.mark.slow
def test_a_group_that_is_there_already_is_used_and_dropout_goes_on_where_it_was(data: Data, tmp_path: Path) -> None:
    params = params_of("qa", "scratch:1x32x2", train_sampling_strategy="random", eval_steps=3)
    (whole, resumed), (other, _) = on_ranks(in_a_group_of_others, tmp_path, "qa", params, data.location)
    assert len(whole.reports) > EPOCHS
    assert whole.reports == other.reports
    assert [metrics for metrics, _ in resumed.reports] == [metrics for metrics, _ in whole.reports[1:]]


@pytest.mark.slow
def test_what_rank_0_does_for_all_reaches_all_and_so_does_its_failure(tmp_path: Path) -> None:
    text = "OSError: [Errno 28] No space left on device"
    assert on_ranks(meeting, tmp_path) == [
        {"rank": 0, "failure": text, "told": "by rank 0", "gathered": ["of rank 0", "of rank 1"]},
        {"rank": 1, "failure": f"WorkerError: rank 0: {text}", "told": "by rank 0", "gathered": []},
    ]


@pytest.mark.slow
def test_what_workers_cannot_do_is_refused_by_every_rank(data: Data, backbone: str, tmp_path: Path) -> None:
    changes = [{"effective_batch_size": 3}, {"fsdp": True}]
    messages = [
        "effective_batch_size: an effective batch of 3 cannot be divided among 2 workers: use a multiple of 2",
        "fsdp: fsdp shards a model over GPUs and these workers have none: set fsdp to false",
    ]
    assert on_ranks(refusals, tmp_path, params_of("qa", backbone), data.location, changes) == [messages, messages]


@pytest.mark.parametrize(("kind", "searched"), [("bert", False), ("longformer", False), ("xlnet", True)])
def test_unused_parameters_are_searched_for_where_an_architecture_may_have_some(
    kind: str, searched: bool, tmp_path: Path
) -> None:
    name = build(kind, tmp_path / kind)
    model = backbones.load_model(name, "AutoModelForQuestionAnswering", tokenizers.load_tokenizer(name, ()), 64)
    assert leaves_unused(model) is searched
    assert training_arguments(TrainingParams(), tmp_path, unused=searched).ddp_find_unused_parameters is searched


def test_a_process_alone_is_rank_0_of_one() -> None:
    assert (workers.count(), workers.rank()) == (1, 0)
    assert (workers.once(lambda: "done"), workers.gather_on_first("own")) == ("done", ["own"])
    workers.barrier()


COUNTS = st.integers(1, 5)


@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 4), COUNTS, st.integers(0, 2**32 - 1))
def test_workers_share_every_step_of_one_worker(length: int, most: int, many: int, count: int, seed: int) -> None:
    size = most * many * count
    lengths = np.random.default_rng(seed).integers(1, 512, length)

    def order(epoch: int) -> Any:
        return batched_by_length(lengths, size, seed, epoch)

    ranks = [WorkerSampler(order, length, size, most, count, rank) for rank in range(count)]
    batches = [list(one) for one in ranks]
    assert [len(one) for one in ranks] == [len(mine) for mine in batches] == [len(batches[0])] * count
    for step, at in enumerate(range(0, length, size)):
        parts = [share for mine in batches for share in mine[step * many : (step + 1) * many]]
        rows = order(0)[at : at + size].tolist()
        assert sorted(row for share in parts for row in share.rows if share.weight) == sorted(rows)
        assert all(1 <= len(share.rows) <= most for share in parts)
        for share in parts:
            assert share.weight == 0 or isclose(share.weight, count * len(share.rows) / len(rows))


def test_each_epoch_is_shared_in_an_order_of_its_own() -> None:
    mine = WorkerSampler(lambda epoch: np.arange(8) * (1 + epoch), 8, 4, 2, 2, rank=1)
    first = list(mine)
    mine.set_epoch(1)
    assert first == [WorkerBatch([2, 3], 1.0), WorkerBatch([6, 7], 1.0)]
    assert list(mine) == [WorkerBatch([4, 6], 1.0), WorkerBatch([12, 14], 1.0)]


def test_a_worker_without_a_row_repeats_one_that_counts_nothing() -> None:
    assert split_step(np.array([7]), 4, 2) == [[WorkerBatch([7], 2.0)], [WorkerBatch([7], 0.0)]]


@given(st.integers(1, 50), COUNTS)
def test_workers_evaluate_every_batch_and_as_many_each(batches: int, count: int) -> None:
    numbers = [worker_turns(batches, count, rank) for rank in range(count)]
    assert {len(mine) for mine in numbers} == {-(-batches // count)}
    assert {number for mine in numbers for number in mine} == set(range(batches))


def test_sharding_needs_workers_with_gpus() -> None:
    params = QaParams(fsdp=True)
    check_sharding(params, 2, on_gpus=True)
    check_workers(params, 2, None)
    with pytest.raises(ParamError, match="there is one: set fsdp to false"):
        check_sharding(params, 1, on_gpus=True)
    with pytest.raises(ParamError, match="these workers have none"):
        check_sharding(params, 2, on_gpus=False)
    with pytest.raises(ParamError, match="these workers have none"):
        check_workers(params, 2, 0)


def test_a_worker_takes_one_gpu_for_which_there_is_a_better_way_to_have_more() -> None:
    check_workers(QaParams(), 2, 1)
    with pytest.raises(ParamError, match="write workers: 6 and gpus: 1") as caught:
        check_workers(QaParams(effective_batch_size=12), 2, 3)
    assert caught.value.key == "gpus"


def test_less_at_once_is_less_than_what_each_of_the_workers_had() -> None:
    """Four workers share a batch of 32 as 8 each, whatever more a device could have taken."""
    params = QaParams(effective_batch_size=32, per_device_train_batch_size=32, per_device_eval_batch_size=32)
    sizes = []
    while (less := smaller(params, 4)) is not None:
        params = less
        sizes.append(device_batch(params.effective_batch_size, params.per_device_train_batch_size, 4))
    assert sizes == [4, 2, 1, 1, 1, 1]  # evaluation has farther to go
    assert params.gradient_checkpointing  # as the last step


@pytest.mark.parametrize("kind", ["bert", "xlnet", "funnel", "deberta-v2", "t5"])
def test_activations_are_computed_again_by_architectures_that_can(kind: str, tmp_path: Path) -> None:
    name = build(kind, tmp_path / kind)
    params = QaParams(backbone=name, per_device_train_batch_size=1, per_device_eval_batch_size=1)
    less = smaller(params, 1)
    tokenizer = tokenizers.load_tokenizer(name, ())
    assert (less is not None) == get_job("qa").task.model(params, tokenizer).supports_gradient_checkpointing
    assert (less is None) == (kind in ("xlnet", "funnel"))
    assert smaller(replace(params, backbone="someone/unseen"), 1) is None


def test_trainer_is_told_to_shard_layer_by_layer(backbone: str, data: Data, tmp_path: Path) -> None:
    tokenizer = tokenizers.load_tokenizer(backbone, data.paragraphs)
    for name, layer in (("qa", "BertLayer"), ("mc", "BertLayer"), ("longformer", "LongformerLayer")):
        params = params_of(name, backbone, fsdp=True)
        model = import_module(f"jobs.{name}").TASK.model(params, tokenizer)
        assert layer_classes(model) == [layer]
        plugin = training_arguments(params, tmp_path, 2, layer_classes(model)).fsdp_plugin_args
        assert plugin["transformer_cls_names_to_wrap"] == layer
        assert (plugin["fsdp_version"], plugin["state_dict_type"]) == (
            2,
            "FULL_STATE_DICT",
        )  # one whole file of weights

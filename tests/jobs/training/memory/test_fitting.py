from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs import get_job
from jobs.dataset.data import Data
from jobs.qa import QaParams
from jobs.training import workers
from jobs.training.conditions import Conditions, conditions_in
from jobs.training.memory import device
from jobs.training.memory.fitting import BatchSizes, Fitting, TooLittleMemory, agreed_sizes, smallest_sizes, with_sizes
from jobs.training.memory.notes import notes_in
from jobs.training.memory.search import TrainingSize
from tests.support.gpu_memory import OUT_OF_MEMORY, pretended_memory
from tests.support.spaces import EPOCH, SMALL


@dataclass
class SmallMemory:
    """A device in which so many rows fit; `tried` has all that were tried."""

    train: int = 100
    again: int = 100
    evaluate: int = 1000
    recomputes: bool = True
    name: str = "Tesla T4"
    bytes: int = 15 * 2**30
    peak: int = 0
    precision: str = "fp16"
    tokens: int = 512
    tried: list[tuple[str, int]] = field(default_factory=list)

    def longest(self, evaluation: bool) -> tuple[int, int]:
        return 1, self.tokens

    def fits_training(self, rows: int, recompute: bool) -> bool:
        return self._fits("again" if recompute else "train", rows)

    def fits_evaluation(self, rows: int) -> bool:
        return self._fits("evaluate", rows)

    def _fits(self, kind: str, rows: int) -> bool:
        self.tried.append((kind, rows))
        return rows <= getattr(self, kind)


def fitting(memory: SmallMemory | None, workers: int = 1, **params: Any) -> Fitting:
    return Fitting("qa", QaParams(**params), memory, workers)


@given(st.integers(1, 300), st.integers(1, 4), st.integers(1, 200), st.sampled_from([64, 512, 4096]))
def test_the_effective_batch_stays(share: int, workers: int, room: int, tokens: int) -> None:
    memory = SmallMemory(train=room, tokens=tokens)
    found = fitting(memory, workers, effective_batch_size=share * workers).sizes()
    assert found.training
    assert share % found.training.rows == 0
    assert found.training.rows <= room
    assert found.training.rows * tokens <= 2**15


def test_sizes_that_are_numbers_are_not_searched() -> None:
    given = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 3}
    memory = SmallMemory(train=1, evaluate=1)
    assert fitting(memory, **given).sizes() == BatchSizes(TrainingSize(4), 3)
    assert memory.tried == []
    found = fitting(memory, per_device_eval_batch_size=3).sizes()
    assert found == BatchSizes(TrainingSize(1), 3)
    assert {kind for kind, _ in memory.tried} == {"train"}


def test_on_cpus_and_with_shards_auto_is_the_number_of_earlier_versions(few: Data, tmp_path: Path) -> None:
    assert fitting(None).sizes() == BatchSizes(TrainingSize(8), 32)
    assert fitting(None, workers=2, effective_batch_size=6).sizes() == BatchSizes(TrainingSize(3), 32)
    trainer: Any = None  # is not asked
    assert device.device_memory(trainer, QaParams()) is None
    with pytest.MonkeyPatch.context() as gpu:
        gpu.setattr(torch.cuda, "is_available", lambda: True)
        assert device.device_memory(trainer, QaParams(fsdp=True)) is None
    job, noted = get_job("mc"), Conditions()
    with conditions_in(noted):
        job.train(job.params(**EPOCH, **SMALL["mc"]), few.location, tmp_path, lambda *_: None)
    sizes = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 8, "gradient_checkpointing": False}
    assert noted.items() >= sizes.items()
    assert "needed_gpu_memory_bytes" not in noted


def test_the_sizes_found_are_the_params_of_the_training() -> None:
    memory = SmallMemory(train=0, again=5, evaluate=10)
    params = with_sizes(QaParams(), fitting(memory).sizes())
    found = (params.per_device_train_batch_size, params.gradient_checkpointing, params.per_device_eval_batch_size)
    assert found == (4, True, 8)
    assert memory.tried[0] == ("train", 8)


def test_what_ran_out_is_not_tried_again_by_the_next_training(tmp_path: Path) -> None:
    with notes_in(tmp_path / "sizes.json"):
        first, second, other = SmallMemory(0, 2, 40), SmallMemory(0, 2, 40), SmallMemory(tokens=256)
        sizes = fitting(first).sizes()
        assert fitting(second).sizes() == sizes == BatchSizes(TrainingSize(2, True), 32)
        assert second.tried == [("again", 2), ("evaluate", 32)]
        assert len(first.tried) > 5
        assert fitting(other).sizes() == BatchSizes(TrainingSize(8), 128)  # another length is another matter


SETTINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"backbone": "scratch:1x32x2"}, {}), ({"optim": "adafactor"}, {}), ({"torch_compile": True}, {}),
    ({}, {"name": "A100"}), ({}, {"bytes": 7 * 2**30}), ({}, {"precision": "fp32"}), ({}, {"tokens": 384}),
]  # fmt: skip


@pytest.mark.parametrize(("params", "memory"), SETTINGS)
def test_what_ran_out_counts_for_the_same_setting_only(
    params: dict[str, Any], memory: dict[str, Any], tmp_path: Path
) -> None:
    with notes_in(tmp_path / "sizes.json"):
        assert fitting(SmallMemory(train=2)).sizes().training == TrainingSize(2)
        for changed in (fitting(SmallMemory(**memory), **params), fitting(SmallMemory(), workers=2)):
            changed.sizes()
            assert changed.memory
            assert changed.memory.tried[0] == ("train", 8 // changed.workers)
        same = SmallMemory()
        learning = fitting(same, learning_rate=1e-4, seed=1, effective_batch_size=16).sizes()
        assert (learning.training, same.tried[0]) == (TrainingSize(2), ("train", 2))


@pytest.mark.parametrize("can", [True, False])
def test_a_device_in_which_not_even_one_input_fits_is_told_in_one_line(can: bool) -> None:
    noted = Conditions()
    with conditions_in(noted), pytest.raises(TooLittleMemory) as caught:
        agreed_sizes(fitting(SmallMemory(train=0, again=0, recomputes=can)))
    again = " with activations computed again" if can else ""
    assert str(caught.value) == (
        f"out of memory: not even one input of 512 tokens fits into 15.0 GiB of Tesla T4{again}; lower max_length, or "
        "choose a smaller backbone"
    )
    assert noted == {
        "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_checkpointing": can
    }  # fmt: skip
    with pytest.raises(TooLittleMemory, match="one input of 512 tokens fits"):
        agreed_sizes(fitting(SmallMemory(evaluate=0)))


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.integers(1, 9)), min_size=1))
def test_workers_train_with_what_fits_all_of_them(found: list[tuple[int, bool, int]]) -> None:
    sizes = [BatchSizes(TrainingSize(rows, again), evaluation) for rows, again, evaluation in found]
    agreed = smallest_sizes(sizes)
    least = TrainingSize(min(rows for rows, _, _ in found), any(again for _, again, _ in found))
    assert agreed == BatchSizes(least, min(evaluation for _, _, evaluation in found))
    assert smallest_sizes([*sizes, BatchSizes(None, None)]) == BatchSizes(None, None)


def test_a_worker_meets_the_others_after_its_search_and_takes_what_fits_them_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory, noted = SmallMemory(), Conditions()

    def gather(own: BatchSizes) -> list[BatchSizes]:
        assert memory.tried
        return [own, BatchSizes(TrainingSize(2, True), 16)]

    monkeypatch.setattr(workers, "gather_on_first", gather)
    with conditions_in(noted):
        assert agreed_sizes(fitting(memory, workers=2)) == BatchSizes(TrainingSize(2, True), 16)
    assert noted["per_device_train_batch_size"] == 2
    assert noted["gradient_checkpointing"]
    monkeypatch.setattr(workers, "gather_on_first", lambda own: [own, BatchSizes(None, None)])
    with pytest.raises(TooLittleMemory):
        agreed_sizes(fitting(memory, workers=2))


@pytest.mark.parametrize(("kind", "shrinks", "before", "after"), [("train", 6, 8, 4), ("evaluate", 6, 8, 4)])
def test_a_training_that_runs_out_all_the_same_is_remembered_by_the_next(
    kind: str, shrinks: int, before: int, after: int, few: Data, tmp_path: Path
) -> None:
    job = get_job("qa")
    params = job.params(**{**EPOCH, **SMALL["qa"]})
    found: list[Any] = []

    def train(folder: str) -> None:
        (tmp_path / folder).mkdir()
        noted = Conditions()
        with notes_in(tmp_path / "sizes.json"), conditions_in(noted):
            try:
                job.train(params, few.location, tmp_path / folder, lambda *_: None)
            finally:
                found.append(noted[f"per_device_{kind.removesuffix('uate')}_batch_size"])

    with pretended_memory(train=8, evaluate=8, later={kind: shrinks}):
        with pytest.raises(torch.OutOfMemoryError, match=OUT_OF_MEMORY):
            train("first")
        train("second")
    assert found == [before, after]

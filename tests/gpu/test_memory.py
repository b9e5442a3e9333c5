"""A GPU that is too small for a batch: the error is told as memory, a smaller batch fits, and nothing is left."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.params import AUTO, TRAIN_BATCH, TrainingParams, smaller
from jobs.training.conditions import conditions_in
from sweeper.trial.process import failure_kind
from tests.support.gpu_memory import pretended_memory
from tests.support.gpus import BOTH, computing_on, limited_trainer, living_models, small_params

ROWS = 16  # in a batch that does not fit


def train_two_steps(params: TrainingParams, data: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    limited_trainer("qa", params, data, folder, steps=2).train()


def sized_params(device: str, rows: int | str) -> TrainingParams:
    """Return params with so many rows on the device at once, of ROWS in a step."""
    backbone = "scratch:2x128x2" if device == "cuda" else "scratch:1x32x2"
    sizes = {"max_length": 448, "effective_batch_size": ROWS, "per_device_eval_batch_size": ROWS}
    return small_params("qa", backbone=backbone, **sizes, per_device_train_batch_size=rows)


def fitting(params: TrainingParams, train: Callable[[TrainingParams], None]) -> tuple[TrainingParams, int]:
    """Make the batch smaller until a training fits, as the driver does between tries. Return params and failures."""
    failures = 0
    while True:
        try:
            train(params)
            return params, failures
        except Exception as error:
            if failure_kind(error) != "memory":
                raise
            traceback.clear_frames(error.__traceback__)
        failures += 1
        less = smaller(params, 1)
        assert less is not None, "not even one row fits"
        params = less


def held() -> int:
    """Return the bytes that tensors hold on the GPU, after freeing what nothing holds."""
    gc.collect()
    torch.cuda.empty_cache()
    return int(torch.cuda.memory_allocated())


@contextmanager
def less_memory(
    device: str, train: Callable[[TrainingParams], None], one: TrainingParams, all_rows: TrainingParams
) -> Iterator[None]:
    """Leave room for about half of the rows. On the CPU, which has no such limit, a model raises what CUDA does."""
    if device == "cpu":
        with pretended_memory(train=ROWS // 4):
            yield
        return
    peaks = [peak(lambda params=params: train(params)) for params in (one, all_rows)]  # type: ignore[misc]
    assert peaks[0] < peaks[1]
    torch.cuda.set_per_process_memory_fraction(sum(peaks) / 2 / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def peak(work: Callable[[], None]) -> int:
    """Return the bytes that PyTorch reserves at most on the GPU while it works."""
    held()
    torch.cuda.reset_peak_memory_stats()
    work()
    reserved = int(torch.cuda.max_memory_reserved())
    held()
    return reserved


@pytest.mark.parametrize("device", BOTH)
def test_a_batch_that_does_not_fit_is_told_as_memory_and_a_smaller_one_fits(
    device: str, data: str, tmp_path: Path
) -> None:
    params, one = (sized_params(device, rows) for rows in (ROWS, 1))

    def train(params: TrainingParams) -> None:
        train_two_steps(params, data, tmp_path / "trial")

    with computing_on(device):
        train(one)  # what the process holds from its first training on stays
        models, before = living_models(), held() if device == "cuda" else 0
        with less_memory(device, train, one, params):
            found, failures = fitting(params, train)
        assert failures > 0
        assert 1 <= getattr(found, TRAIN_BATCH) < ROWS
        assert living_models() <= models
        assert (held() if device == "cuda" else 0) - before < 2**24


@pytest.mark.parametrize("device", BOTH)
def test_an_automatic_batch_is_one_that_fits(device: str, data: str, tmp_path: Path) -> None:
    def train(params: TrainingParams) -> None:
        train_two_steps(params, data, tmp_path / "trial")

    found: dict[str, Any] = {}
    with computing_on(device):
        with less_memory(device, train, sized_params(device, 1), sized_params(device, ROWS)), conditions_in(found):
            train(sized_params(device, AUTO))
        assert found[TRAIN_BATCH] < ROWS or found["gradient_checkpointing"]
        with conditions_in(found):
            train(sized_params(device, AUTO if device == "cuda" else ROWS))  # there is room again
        assert (found[TRAIN_BATCH], found["gradient_checkpointing"]) == (ROWS, False)


@pytest.mark.slow
def test_a_model_that_is_left_behind_is_found(data: str, tmp_path: Path) -> None:
    before = living_models()
    with computing_on("cpu"):
        (tmp_path / "trial").mkdir()
        trainer = limited_trainer("qa", small_params("qa"), data, tmp_path / "trial", steps=1)
    assert living_models() == before + 1
    del trainer
    assert living_models() == before


def test_an_error_of_another_kind_is_no_want_of_memory() -> None:
    def fail(params: TrainingParams) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side"):
        fitting(small_params("qa"), fail)

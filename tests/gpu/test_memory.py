"""A GPU that is too small for a batch: the error is told as memory, a smaller batch fits, and nothing is left."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from jobs.params import TRAIN_BATCH, TrainingParams, smaller
from jobs.training.trainer import BatchTrainer
from sweeper.trial.process import failure_kind
from tests.support.gpus import BOTH, computing_on, limited_trainer, living_models, small_params

ROWS = 16  # in a batch that does not fit


def train_two_steps(params: TrainingParams, data: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    limited_trainer("qa", params, data, folder, steps=2).train()


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
    """Leave room for about half of the rows. On the CPU, where there is no such limit, a loss raises what CUDA does."""
    if device == "cpu":
        with patch.object(BatchTrainer, "compute_loss", limited_loss(BatchTrainer.compute_loss)):
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


def limited_loss(own: Callable[..., Any]) -> Callable[..., Any]:
    def loss(self: BatchTrainer, model: Any, inputs: dict[str, Any], *rest: Any, **others: Any) -> Any:
        if len(inputs["input_ids"]) > ROWS // 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return own(self, model, inputs, *rest, **others)

    return loss


@pytest.mark.parametrize("device", BOTH)
def test_a_batch_that_does_not_fit_is_told_as_memory_and_a_smaller_one_fits(
    device: str, data: str, tmp_path: Path
) -> None:
    backbone = "scratch:2x128x2" if device == "cuda" else "scratch:1x32x2"
    sizes = {"backbone": backbone, "effective_batch_size": ROWS, "max_length": 448, "per_device_eval_batch_size": ROWS}
    params, one = (small_params("qa", **sizes, per_device_train_batch_size=rows) for rows in (ROWS, 1))

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

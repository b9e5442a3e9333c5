"""What is tried on the device, and that trying leaves no trace. The CPU computes in place of a GPU."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs import get_job
from jobs.dataset.data import Data
from jobs.training import trainer as training
from jobs.training.memory.device import DeviceMemory, largest_batch, longest_rows, unchanged
from tests.support.gpu_memory import pretended_memory
from tests.support.spaces import EPOCH, SMALL
from tests.support.zoo import build

ROWS = st.lists(st.tuples(st.integers(1, 512), st.integers(1, 8)), min_size=1, max_size=60)


@given(ROWS, st.integers(1, 70))
def test_no_batch_of_the_size_takes_more_than_the_one_that_is_tried(rows: Any, size: int) -> None:
    lengths, counts = np.array(rows).T
    tried = longest_rows(lengths, counts, size)
    assert len(set(tried.tolist())) == len(tried) == min(size, len(rows))
    most = (lengths * counts).max() if len(tried) == 1 else lengths.max() * counts.max()
    assert lengths[tried].max() * counts[tried].max() == most


def test_the_batch_of_an_evaluation_with_the_most_positions_is_tried() -> None:
    lengths, counts = np.array([100, 90, 10, 10, 10, 10, 10, 10]), np.array([1, 1, 9, 1, 1, 1, 1, 1])
    assert largest_batch([np.array([0, 1]), np.arange(2, 8)], lengths, counts).tolist() == list(range(2, 8))


class Restless(torch.nn.Module):
    """Changes all that a model may change while it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("table", torch.zeros(2))

    def forward(self) -> torch.Tensor:
        self.seen += 1
        self.table = torch.ones(5)
        np.random.seed(3)
        return self.inner(torch.rand(2)).sum() + random.random() + float(np.random.rand())


@pytest.mark.parametrize("fails", [False, True])
def test_gradients_buffers_modes_and_random_numbers_are_as_before(fails: bool) -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = Restless().eval()
    model.inner.bias.grad = torch.ones(2)
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    table, gradient = model.table, model.inner.bias.grad
    try:
        with unchanged(model):
            model.train()().backward()
            if fails:
                raise torch.OutOfMemoryError
    except torch.OutOfMemoryError:
        assert fails
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]
    assert (float(model.seen), model.training, model.inner.training) == (0.0, False, False)
    assert model.table is table
    assert model.inner.bias.grad is gradient
    assert model.inner.weight.grad is None


@pytest.fixture
def memory(few: Data, tmp_path: Path) -> Iterator[DeviceMemory]:
    """The memory of a GPU in which 4 rows fit, for a model with dropout."""
    job = get_job("qa")
    assert job.task is not None
    params = job.params(**{**EPOCH, **SMALL["qa"], "backbone": build("bert", tmp_path / "bert")})
    with pretended_memory(train=4, evaluate=6):
        made = training.make_trainer(job.task, params, few.location, tmp_path / "trial", lambda *_: None)
        yield training.device_memory(made, params)


def test_a_batch_is_tried_with_gradients_beside_the_memory_of_the_optimizer(
    memory: DeviceMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sum(weight.numel() for weight in memory.trainer.model.parameters())
    taken: list[int] = []
    empty = torch.empty_like

    def noted(one: torch.Tensor) -> torch.Tensor:
        taken.extend([one.numel()] * isinstance(one, torch.nn.Parameter))
        return empty(one)

    monkeypatch.setattr(torch, "empty_like", noted)
    for optim, workers, times in (
        ("adamw_torch_fused", 1, 2), ("adamw_torch_fused", 2, 3), ("adamw_torch", 1, 3), ("adafactor", 1, 0),
    ):  # fmt: skip
        taken.clear()
        memory.params = dataclasses.replace(memory.params, optim=optim)
        memory.workers = workers
        assert memory.fits_training(4, False)
        assert sum(taken) == times * weights
    assert not memory.fits_training(5, False)
    assert memory.fits_evaluation(1)
    assert not memory.fits_evaluation(8)
    assert all(weight.grad is None for weight in memory.trainer.model.parameters())


def test_an_error_that_is_no_want_of_memory_is_raised(memory: DeviceMemory) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    memory.trainer.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="assert triggered"):
        memory.fits_training(1, False)


@pytest.mark.parametrize("name", ["mc", "qa", pytest.param("longformer", marks=pytest.mark.slow)])
def test_a_training_after_the_search_is_the_one_with_the_same_sizes_without_it(
    name: str, few: Data, tmp_path: Path
) -> None:
    """To the last digit, with a backbone that has dropout."""
    job = get_job(name)
    given = {**EPOCH, **SMALL[name], "backbone": build("bert", tmp_path / "bert"), "effective_batch_size": 8}
    reports: list[dict[str, float]] = []

    def train(folder: str, **sizes: Any) -> None:
        (tmp_path / folder).mkdir()
        params = job.params(**given, **sizes)
        job.train(params, few.location, tmp_path / folder, lambda metrics, _: reports.append(metrics))

    with pretended_memory(train=0, again=2, evaluate=4) as gpu:
        train("auto")
    assert [one for one in gpu.tried if one[0] != "evaluate"][:6] == [
        ("train", 8), ("train", 2), ("train", 1), ("again", 8), ("again", 2), ("again", 4)
    ]  # fmt: skip
    train("fixed", per_device_train_batch_size=2, per_device_eval_batch_size=4, gradient_checkpointing=True)
    assert reports[0] == reports[1]

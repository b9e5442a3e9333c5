"""What trials see and use of GPUs. On real Ray, the GPUs exist for its scheduler only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from optuna.storages import RDBStorage

from sweeper.cluster.capacity import Machine
from sweeper.cluster.ray_session import ray_session
from sweeper.driver.sweep import Sweep
from sweeper.driver.tuning import run_trials
from sweeper.ledger.ledger import create_ledger
from sweeper.space.search_space import SearchSpace
from sweeper.trial import gpu, process
from sweeper.trial.handover import TrialConfig

MACHINE = Machine(cpus=3, gpus=2)


class Fractions(list[float]):
    """The shares of memory that this process was limited to."""


@pytest.fixture
def fractions(monkeypatch: pytest.MonkeyPatch) -> Fractions:
    """A process with a GPU, whose environment says nothing about PyTorch's allocator."""
    found = Fractions()
    for name in gpu.ALLOCATOR:
        monkeypatch.setenv(name, "")  # so that monkeypatch removes it at the end
        monkeypatch.delenv(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", found.append)
    return found


@pytest.mark.parametrize(("gpus", "expected"), [(0.5, [0.5]), (0.25, [0.25]), (0, []), (1, []), (2, [])])
def test_a_trial_that_shares_a_gpu_has_its_share_of_the_memory(
    fractions: Fractions, gpus: float, expected: list[float]
) -> None:
    gpu.share_gpu(gpus)
    assert fractions == expected
    assert ("PYTORCH_ALLOC_CONF" in os.environ) == bool(expected)
    assert os.environ.get("PYTORCH_ALLOC_CONF", "expandable_segments:True") == "expandable_segments:True"


@pytest.mark.parametrize("name", gpu.ALLOCATOR)
def test_what_the_user_says_of_the_allocator_stays(
    fractions: Fractions, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "max_split_size_mb:128")
    gpu.share_gpu(0.5)
    assert {one: os.environ[one] for one in gpu.ALLOCATOR if one in os.environ} == {name: "max_split_size_mb:128"}
    assert fractions == [0.5]


def test_a_pretended_gpu_has_no_memory_to_limit(fractions: Fractions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.share_gpu(0.5)
    assert fractions == []


def test_a_trial_is_limited_before_its_job_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def share_gpu(gpus: float) -> None:
        raise RuntimeError(f"limited to {gpus}")

    monkeypatch.setattr(process, "share_gpu", share_gpu)
    config = TrialConfig(number=0, job="qa", params={}, data="sample", workdir=str(tmp_path), cpus=1, gpus=0.5)
    with pytest.raises(RuntimeError, match=r"limited to 0\.5"):
        process.train_in_process(config)


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        with ray_session(MACHINE):
            yield


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("session")
def test_a_trial_sees_the_gpus_that_it_reserves_and_none_without(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    space = toy_space(
        "job=tests.support.seeing:JOB",
        "objective=seen",
        "search={sampler: grid}",
        f"parameters={{folder: '{tmp_path}', seed: {{values: [1, 2, 3]}}}}",
        "resources=[{when: {seed: 1}, gpus: 0}, {when: {seed: 2}, gpus: 2}, {gpus: 1}]",
    )
    ledger = create_ledger(storage, space, "toy")
    run_trials(Sweep(ledger, space, tmp_path / "toy", MACHINE), lambda record: None)
    seen = [(tmp_path / f"seed-{seed}").read_text() for seed in (1, 2, 3)]
    assert seen[0] == ""
    assert sorted(seen[1].split(",")) == ["0", "1"]
    assert seen[2] in ("0", "1")

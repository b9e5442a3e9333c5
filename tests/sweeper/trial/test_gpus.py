"""Trials that share a GPU, with a pretended one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sweeper.trial import gpu, process
from sweeper.trial.handover import TrialConfig


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

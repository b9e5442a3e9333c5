"""Trials that share a GPU, with a pretended one."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jobs.job import ParamError
from jobs.training.conditions import conditions_in
from sweeper.trial import gpu, process
from sweeper.trial.handover import TrialConfig, read_failure


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
    whole = SimpleNamespace(total_memory=10 * gpu.CONTEXT_BYTES)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: whole)
    return found


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [(0.5, [0.4]), (0.3, [0.2]), (0.1, [0.05]), (0, []), (1, []), (2, [])],  # CUDA itself takes a tenth of this GPU
)
def test_a_trial_that_shares_a_gpu_has_its_share_of_the_memory(
    fractions: Fractions, gpus: float, expected: list[float]
) -> None:
    gpu.share_gpu(gpus)
    assert fractions == pytest.approx(expected)
    assert ("PYTORCH_ALLOC_CONF" in os.environ) == bool(expected)
    assert os.environ.get("PYTORCH_ALLOC_CONF", "expandable_segments:True") == "expandable_segments:True"


@pytest.mark.parametrize("name", gpu.ALLOCATOR)
def test_what_the_user_says_of_the_allocator_stays(
    fractions: Fractions, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "max_split_size_mb:128")
    gpu.share_gpu(0.5)
    assert {one: os.environ[one] for one in gpu.ALLOCATOR if one in os.environ} == {name: "max_split_size_mb:128"}
    assert fractions == [0.4]


def test_a_pretended_gpu_has_no_memory_to_limit(fractions: Fractions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.share_gpu(0.5)
    assert fractions == []


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (AssertionError("Torch not compiled with CUDA enabled"), "gpu"),
        (RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update it."), "gpu"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device\nFor debugging"), "gpu"),
        (RuntimeError("CUDA error: out of memory\nFor debugging"), "memory"),  # another program has taken it
        (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nFor debugging"), "crash"),
    ],
)
def test_a_reserved_gpu_that_cannot_be_used_ends_the_trial_before_it_trains_on_the_cpu(
    trouble: Exception, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def ones(*size: int, device: str) -> None:
        assert device == "cuda:0"
        raise trouble

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(process, "share_gpu", lambda gpus: None)
    config = TrialConfig(number=0, job="qa", params={}, data="sample", workdir=str(tmp_path), cpus=1, gpus=0.5)
    with pytest.raises(process.TrialError), process.recorded_failure(tmp_path):
        process.train_in_process(config)
    failure = read_failure(tmp_path)
    assert failure.kind == kind
    told = str(trouble).partition(".")[0].partition("\n")[0]
    assert f"cannot use what the trial has reserved; {told}" in failure.reason
    assert kind != "gpu" or failure.reason.startswith("GPUs: torch ")


@pytest.mark.parametrize(
    ("key", "gpus", "workers", "kind"),
    [("precision", 1.0, 1, "gpu"), ("precision", 0.0, 1, "error"), ("fsdp", 1.0, 1, "error")],
)
def test_a_gpu_without_the_precision_that_a_trial_names_is_no_fault_of_the_trial(
    key: str, gpus: float, workers: int, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def train(*_: object) -> None:
        raise ParamError(key, "Tesla T4 has no bf16")

    job = SimpleNamespace(params=lambda: None, metrics={}, train=train)
    monkeypatch.setattr(process, "import_trial_job", lambda config: job)
    config = TrialConfig(0, "qa", {}, "sample", str(tmp_path), cpus=1, gpus=gpus, workers=workers)
    with pytest.raises(process.TrialError), process.recorded_failure(tmp_path):
        process.run_job(config)
    failure = read_failure(tmp_path)
    assert failure.kind == kind
    assert kind == "error" or failure.reason == "parameters.precision: Tesla T4 has no bf16"


def test_each_reserved_gpu_is_tried_and_none_without_reservation(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    whole = torch.ones
    monkeypatch.setattr(torch, "ones", lambda size, device: tried.append(device) or whole(size))
    for gpus in (0, 0.5, 1, 2):
        gpu.check_gpu(gpus)
    assert tried == ["cuda:0", "cuda:0", "cuda:0", "cuda:1"]
    monkeypatch.setenv("SWEEPER_GPU_CHECK", "0")
    gpu.check_gpu(1)
    assert len(tried) == 4


class Memory:
    """A GPU's memory as PyTorch tells it, which a trial before has used."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kept, self.peak = 4, 9
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: setattr(self, "kept", 0))
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: setattr(self, "peak", self.kept))
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: self.peak)


def test_a_report_tells_the_most_memory_that_this_trial_has_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, reported = Memory(monkeypatch), list[dict[str, Any]]()
    monkeypatch.setattr("ray.tune.report", reported.append)
    gpu.forget_peak()
    reporter = process.TuneReporter({"height": "max"})
    with conditions_in({"precision": "bf16"}):
        for memory.peak in (5, 7):
            reporter({"height": 1.0, "epoch": 1.0})
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        reporter({"height": 1.0, "epoch": 2.0})
    peaks = [one["conditions"] for one in reported]
    assert peaks == [
        {"precision": "bf16", "gpu_memory_bytes": 5},
        {"precision": "bf16", "gpu_memory_bytes": 7},
        {"precision": "bf16"},
    ]


def test_a_trial_does_not_count_the_memory_of_the_one_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory = Memory(monkeypatch)
    for name in ("share_gpu", "check_gpu"):
        monkeypatch.setattr(process, name, lambda gpus: None)
    monkeypatch.setattr("ray.train.torch.TorchTrainer", lambda *_, **__: SimpleNamespace(fit=lambda: None))
    config = TrialConfig(number=0, job="qa", params={}, data="sample", workdir=str(tmp_path), cpus=1, gpus=1)
    process.train_in_process(config)
    assert gpu.peak_memory() == {"gpu_memory_bytes": 0}
    assert memory.kept == 0


def test_a_trial_is_limited_before_its_job_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def share_gpu(gpus: float) -> None:
        raise RuntimeError(f"limited to {gpus}")

    monkeypatch.setattr(process, "share_gpu", share_gpu)
    config = TrialConfig(number=0, job="qa", params={}, data="sample", workdir=str(tmp_path), cpus=1, gpus=0.5)
    with pytest.raises(RuntimeError, match=r"limited to 0\.5"):
        process.train_in_process(config)

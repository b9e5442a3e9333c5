"""Whose death was an out-of-memory kill: the kernel's counts and Ray's messages, without Ray."""

from __future__ import annotations

import errno
import os
import subprocess
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from threading import Event

import pytest
import ray
import torch
import torch.distributed
from ray.exceptions import OutOfMemoryError

from sweeper.process.cgroups import MemoryState
from sweeper.trial import process, workers
from sweeper.trial.handover import (
    ProcessAddress,
    TrialFailure,
    read_failure,
    read_processes,
    register_process,
    write_failure,
)
from sweeper.trial.memory import UNEXPLAINED_SECONDS, KernelKills, kernel_failure, monitor_failure

GIB = 2**30
MESSAGE = """1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 127.0.0.1)
OOM kill reason: Memory usage 7304904704B exceeded threshold of 7302253568B (28.9% of 25276059648B limit)
Top 10 memory users: PID\tMEM(GB)\tCOMMAND
5531\t1.30\tray::ImplicitFunc.train
5532\t0.50\tray::OtherWorker.train
9\t3.00\tfirefox
Refer to the documentation"""


class Machine:
    """Counts kills as the kernel does, and has a clock."""

    def __init__(self, kills: int = 0) -> None:
        self.kills = kills
        self.time = 0.0

    def state(self, node: str) -> MemoryState | None:
        return MemoryState(self.kills, 8 * GIB)

    def record(self) -> KernelKills:
        return KernelKills(self.state, local=True, clock=lambda: self.time)


def test_each_kill_of_the_kernel_explains_one_death() -> None:
    machine = Machine(kills=7)  # of others, before the sweep
    kills = machine.record()
    first, second = ([ProcessAddress(pid, "node-of-ray", 7)] for pid in (1, 2))
    assert kills.failure(first) is None  # kill -9
    machine.kills += 1
    assert kills.failure(first) == TrialFailure(
        "memory", "out of memory: the kernel killed its process; the machine has 8.00 GiB", killed=True
    )
    assert kills.failure(second) is None  # kill -9 while the other ran out of memory
    machine.kills += 2
    assert kills.failure(first)
    assert kills.failure(second)


def test_a_worker_that_is_not_the_first_may_be_the_one_that_was_killed() -> None:
    machine = Machine()
    kills = machine.record()
    workers = [ProcessAddress(1, "a", 0), ProcessAddress(2, "a", 0)]
    machine.kills = 1
    assert kills.failure(workers)
    machine.kills = 3
    assert kills.failure(workers)  # both are explained by two kills
    assert kills.failure([ProcessAddress(3, "a", 1)]) is None


def test_a_process_that_was_killed_before_it_had_an_address_is_explained_too() -> None:
    machine = Machine(kills=2)
    kills = machine.record()
    assert kills.failure([]) is None
    machine.kills += 1
    assert kills.failure([])
    assert kills.failure([]) is None


def test_a_kill_of_another_program_explains_no_later_death() -> None:
    machine = Machine()
    kills = machine.record()
    trial = [ProcessAddress(1, "node-of-ray", 0)]
    machine.kills = 1
    kills.forget()
    machine.time += UNEXPLAINED_SECONDS / 2
    kills.forget()
    machine.time += UNEXPLAINED_SECONDS
    kills.forget()
    assert kills.failure(trial) is None
    machine.kills = 2
    kills.forget()
    assert kills.failure(trial)  # this one is recent


def test_each_node_of_a_cluster_counts_its_own_kills() -> None:
    counts = {"a": 1, "b": 0}
    states = lambda node: MemoryState(counts[node], GIB) if node in counts else None  # noqa: E731
    kills = KernelKills(states, local=False)
    assert kills.failure([ProcessAddress(1, "b", 0)]) is None
    assert kills.failure([ProcessAddress(1, "gone", 0)]) is None
    assert kills.failure([ProcessAddress(1, "b", 0), ProcessAddress(1, "a", 0)])
    assert kills.failure([ProcessAddress(2, "a", 0)]) is None
    assert kills.failure([]) is None


def test_the_limit_and_the_use_are_told() -> None:
    told = kernel_failure(MemoryState(1, 8 * GIB, limit=2 * GIB, peak=GIB)).reason
    assert told == "out of memory: the kernel killed its process; the cgroup limit is 2.00 GiB, used were 1.00 GiB"
    assert kernel_failure(MemoryState(1, 8 * GIB, limit=2 * GIB)).reason.endswith("the cgroup limit is 2.00 GiB")


def test_a_kill_of_rays_monitor_is_told_with_its_numbers() -> None:
    failure = monitor_failure(MESSAGE, [ProcessAddress(5531, "", 0), ProcessAddress(5532, "", 0)])
    assert failure == TrialFailure(
        "memory",
        "out of memory: Ray's memory monitor killed its process when 6.80 GiB were used; its threshold is 6.80 GiB; "
        "the trial used 1.80 GiB",
        killed=True,
    )
    assert monitor_failure("The actor died: node running low on memory", []) == TrialFailure(
        "memory", "out of memory: Ray's memory monitor killed its process", killed=True
    )
    assert monitor_failure("The actor died because its worker process has died, SIGKILL by the OOM killer", []) is None


def test_the_count_at_the_start_is_handed_over_and_an_old_failure_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.trial.handover.kernel_kills", lambda: 5)
    with register_process(tmp_path):
        assert read_processes(tmp_path) == [ProcessAddress(os.getpid(), "", 5)]
    (tmp_path / "failure.json").write_text('{"kind": "memory", "reason": "CUDA out of memory"}')
    assert read_failure(tmp_path) == TrialFailure("memory", "CUDA out of memory", killed=False)


def test_the_death_of_another_worker_by_rays_monitor_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if a worker that lost the connection to it ends before."""
    killed: list[int] = []
    over = Event()

    def get(result: Exception) -> None:
        raise result

    def kill(pid: int, number: int) -> None:
        killed.append(pid)
        over.set()

    monkeypatch.setattr(
        ray, "wait", lambda results, timeout, num_returns=1: (results[:num_returns], results[num_returns:])
    )
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(workers.os, "kill", kill)
    workers.wait_for_workers([RuntimeError("Connection closed by peer"), OutOfMemoryError(MESSAGE)], over, tmp_path)
    assert killed == [os.getpid()]
    assert (read_failure(tmp_path).kind, read_failure(tmp_path).killed) == ("memory", True)


CHILDREN = [
    BrokenProcessPool("A process in the process pool was terminated abruptly"),
    subprocess.CalledProcessError(-9, "tokenize"),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
]


@pytest.mark.parametrize("error", CHILDREN)
@pytest.mark.parametrize(("kills", "kind"), [(1, "memory"), (0, "error")])
def test_a_job_whose_own_process_was_killed_ran_out_of_memory_if_the_kernel_counted_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kills: int, kind: str
) -> None:
    monkeypatch.setattr(process, "kernel_kills", lambda: 3)
    monkeypatch.setattr(process, "memory_state", lambda: MemoryState(3 + kills, GIB))
    with pytest.raises(process.TrialError), process.recorded_failure(tmp_path):
        raise error
    assert (read_failure(tmp_path).kind, read_failure(tmp_path).killed) == (kind, kind == "memory")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
        torch.OutOfMemoryError("CUDA out of memory. Process 7 has 2.00 GiB memory in use."),
        torch.distributed.DistBackendError(
            "NCCL error: unhandled cuda error. Last error: Cuda failure 2 'out of memory'"
        ),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_an_allocation_that_fails_is_want_of_memory(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(process.TrialError), process.recorded_failure(tmp_path):
        raise error
    failure = read_failure(tmp_path)
    assert (failure.kind, failure.killed) == ("memory", False)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("crash", "CUDA error: unspecified launch failure"),
        ("crash", "CUDA error: an illegal memory access was encountered"),
        ("crash", "CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
        ("crash", "CUDA error: uncorrectable ECC error encountered"),
        ("crash", "CUDA error: the launch timed out and was terminated"),
        ("crash", "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`"),
        ("crash", "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
        ("crash", "NCCL Error 2: unhandled system error"),
        ("crash", "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus"),
        ("error", "CUDA error: device-side assert triggered"),
        ("error", "CUDA error: no kernel image is available for execution on the device"),
        ("error", "CUDA error: invalid device ordinal"),
        ("error", "CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm(handle)`"),
        ("error", "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    ],
)
def test_a_failure_of_the_device_is_a_crash_and_a_mistake_of_the_job_is_an_error(
    tmp_path: Path, kind: str, message: str
) -> None:
    with pytest.raises(process.TrialError), process.recorded_failure(tmp_path):
        raise torch.AcceleratorError(message) if message.startswith("CUDA") else RuntimeError(message)
    assert read_failure(tmp_path) == TrialFailure(kind, read_failure(tmp_path).reason)
    assert message in read_failure(tmp_path).reason


def test_only_an_error_of_a_library_tells_of_the_device(tmp_path: Path) -> None:
    with pytest.raises(process.TrialError), process.recorded_failure(tmp_path):
        raise ValueError("the text has the words NCCL error")
    assert read_failure(tmp_path).kind == "error"


def test_another_error_is_no_want_of_memory_though_the_kernel_killed_somebody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "memory_state", lambda: MemoryState(10**9, GIB))
    with pytest.raises(process.TrialError), process.recorded_failure(tmp_path):
        raise ValueError("the hill is closed")
    assert read_failure(tmp_path) == TrialFailure("error", "ValueError: the hill is closed")
    write_failure(tmp_path, TrialFailure("crash", "later"))
    assert read_failure(tmp_path).kind == "error"

"""Define the values and files that the driver and the processes of a trial exchange.

The driver calls `clear_handover`, `read_processes` and `read_failure`; a trial's processes call the other functions.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal, NamedTuple

from jobs.files import disk_trouble
from sweeper.process.cgroups import kernel_kills

FAILURE = "failure.json"
PROCESS = "process"
EPOCH = "epoch"  # file in which a trial's process says how far it is, while it runs
EPOCH_SECONDS = 3.0  # between two writes of it
IMPORTING = "importing"  # file that exists while a trial's process imports the job
FailureKind = Literal["error", "diverged", "memory", "disk", "crash", "node", "gpu", "timeout"]
LOG = "log.txt"
RESUMED = "resumed_from"  # in the first report of a process: the name of its checkpoint, None after a fresh start
PROBE_BYTES = 2**16  # less than any checkpoint


@dataclass(frozen=True)
class TrialConfig:
    """Hold the values that the driver sends to a trial's process, perhaps on another machine. All are plain values.

    job          name of the job, as `jobs.get_job` takes it
    params       values of all fields of the job's params
    workdir      folder of the trial
    cpus, gpus   reserved for each worker; PyTorch uses one thread for each whole CPU
    resume_from  checkpoint to resume from; None to start from the pretrained model
    earlier      older checkpoints, newest first, to fall back on if `resume_from` is damaged
    storage      address to copy checkpoints to; None if they stay in `workdir`
    workers      number of processes that train the trial together
    folders      folders from which a job of the user's own is imported
    nodes        condition on the ids of the nodes that may run the trial, as Ray's label selectors; empty for all nodes
    notes        file in which trials note the batches that run out of a GPU's memory; None for no notes
    """

    number: int
    job: str
    params: Mapping[str, Any]
    data: str
    workdir: str
    cpus: float
    gpus: float
    resume_from: str | None = None
    earlier: tuple[str, ...] = ()
    storage: str | None = None
    workers: int = 1
    folders: tuple[str, ...] = ()
    nodes: str = ""
    notes: str | None = None


class TrialFailure(NamedTuple):
    """Describe why a trial's process failed: its kind, and the reason in one line. `killed` is True if it was killed
    for want of the machine's memory; `node` is Ray's id of the node whose GPU cannot be used; `conditions` are those of
    the training, such as its batch sizes.

    error     the job raised an exception; a retry would raise it again
    diverged  a metric is not finite
    memory    the device or the machine ran out of memory
    disk      the disk or the checkpoint storage refused a write; not the trial's fault
    crash     the process died and recorded no reason, or its device failed
    node      the machine left the cluster; not the trial's fault
    gpu       PyTorch cannot use the reserved GPU; not the trial's fault
    timeout   the trial exceeded its time limit
    """

    kind: FailureKind
    reason: str
    killed: bool = False
    node: str = ""
    conditions: Mapping[str, Any] = {}


class ProcessAddress(NamedTuple):
    """Locate a process of a trial: its process id and its Ray node id. The node id is empty outside Ray.

    kills  out-of-memory kills that the kernel had counted when the process began the trial
    """

    pid: int
    node: str
    kills: int = 0


@contextmanager
def register_process(workdir: Path, rank: int = 0) -> Iterator[None]:
    """Write this process's ProcessAddress to the trial's folder, so that the driver can kill the process.

    The file is removed at the end.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    _place_file(workdir, rank).write_text(f"{os.getpid()} {this_node()} {kernel_kills()}")
    try:
        yield
    finally:
        remove_process_files(workdir, [rank])


def _place_file(workdir: Path, rank: int) -> Path:
    return workdir / (f"{PROCESS}-{rank}" if rank else PROCESS)


def this_node() -> str:
    """Return the Ray id of the node that this process runs on, or an empty string outside Ray."""
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def read_processes(workdir: Path) -> list[ProcessAddress]:
    """Return the addresses of the trial's processes that are running or were killed."""
    return [place for file in sorted(workdir.glob(f"{PROCESS}*")) if (place := _read_process_address(file))]


def _read_process_address(file: Path) -> ProcessAddress | None:
    try:
        pid, node, kills = file.read_text().split(" ")
        return ProcessAddress(int(pid), node, int(kills))
    except (OSError, ValueError):
        return None


def remove_process_files(workdir: Path, ranks: Iterable[int]) -> None:
    for rank in ranks:
        _place_file(workdir, rank).unlink(missing_ok=True)


def clear_handover(workdir: Path) -> None:
    """Remove the files that earlier processes of the trial left. The driver calls this before it starts a new one."""
    for path in (*workdir.glob(f"{PROCESS}*"), *(workdir / name for name in (FAILURE, IMPORTING, EPOCH))):
        path.unlink(missing_ok=True)


@contextmanager
def epoch_file(workdir: Path) -> Iterator[Callable[[float], None]]:
    """Yield a function that writes how far the trial is, for the driver, at most once in EPOCH_SECONDS.

    A write that fails is left out. The file is removed at the end.
    """
    written = float("-inf")

    def write(epoch: float) -> None:
        nonlocal written
        if time.monotonic() - written >= EPOCH_SECONDS:
            written = time.monotonic()
            with suppress(OSError):
                (workdir / EPOCH).write_text(f"{epoch:.4f}")

    try:
        yield write
    finally:
        with suppress(OSError):
            (workdir / EPOCH).unlink(missing_ok=True)


def read_epoch(workdir: Path) -> float | None:
    """Return how far a running trial is, in epochs; None if its process does not tell."""
    try:
        return float((workdir / EPOCH).read_text())
    except (OSError, ValueError):
        return None


def write_failure(workdir: Path, failure: TrialFailure) -> None:
    """Record a failure for `read_failure`. Keep an earlier record, since the first failure caused the later ones.

    A full disk prevents the record; `read_failure` detects this.
    """
    with suppress(OSError), (workdir / FAILURE).open("x", encoding="utf-8") as file:
        file.write(json.dumps(failure._asdict(), ensure_ascii=False, default=str))


def read_failure(workdir: Path) -> TrialFailure:
    """Return the reason why a trial failed, for the driver.

    Without a record, the reason is `disk` if nothing can be written to `workdir`, else `crash`.
    """
    try:
        return TrialFailure(**json.loads((workdir / FAILURE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        room = _no_room(workdir)
        died = "its process died without an error message: it was killed, or it crashed"
        return TrialFailure("disk", room) if room else TrialFailure("crash", died)


def _no_room(workdir: Path) -> str | None:
    """Return the reason why no file can be written to `workdir`, or None.

    Creates the folder if the process died before it created it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=workdir) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
    except OSError as error:
        return disk_trouble(error, workdir) or f"{workdir}: {error}"
    return None

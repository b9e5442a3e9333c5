"""What the driver and a trial's process tell each other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal, NamedTuple

from jobs.files import disk_trouble

FAILURE = "failure.json"
PROCESS = "process"
FailureKind = Literal["error", "diverged", "memory", "disk", "crash", "node", "timeout"]
LOG = "log.txt"
PROBE_BYTES = 2**16  # bytes; less than any checkpoint


@dataclass(frozen=True)
class TrialConfig:
    """All a trial's process is told. Plain values, since they travel.

    job          as `jobs.get_job` takes it
    params       every field of the job's params
    workdir      the trial's own folder
    cpus, gpus   what is reserved for each of its workers, which uses a thread for each whole CPU
    resume_from  the checkpoint to go on from
    earlier      others, newest first, for when that one turns out to be damaged
    storage      where its checkpoints are copied to; None when they stay in `workdir`
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


class TrialFailure(NamedTuple):
    """How a trial's process ended that did not end well.

    error     the job raised something; it would again
    diverged  a metric is no longer a finite number
    memory    it did not fit into the device's memory, or the machine's
    disk      what it wrote was not taken, by the disk or the checkpoints' storage: no fault of the trial's
    crash     the process died without a word
    node      the machine it ran on left the cluster: no fault of the trial's
    timeout   it took longer than it may
    """

    kind: FailureKind
    reason: str


class ProcessAddress(NamedTuple):
    """Where a process of a trial is: its id, and that of its node in Ray, which is empty outside Ray."""

    pid: int
    node: str


@contextmanager
def register_process(workdir: Path, rank: int = 0) -> Iterator[None]:
    """Leaves this process's place for the driver, which must be able to end it, while the trial runs."""
    workdir.mkdir(parents=True, exist_ok=True)
    _place_file(workdir, rank).write_text(f"{os.getpid()} {this_node()}")
    try:
        yield
    finally:
        remove_process_files(workdir, [rank])


def _place_file(workdir: Path, rank: int) -> Path:
    return workdir / (f"{PROCESS}-{rank}" if rank else PROCESS)


def this_node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def read_processes(workdir: Path) -> list[ProcessAddress]:
    """Where the trial's processes are, or were when they died; of those that ended by themselves none is left."""
    return [place for file in sorted(workdir.glob(f"{PROCESS}*")) if (place := _read_place(file))]


def _read_place(file: Path) -> ProcessAddress | None:
    try:
        pid, _, node = file.read_text().partition(" ")
        return ProcessAddress(int(pid), node)
    except (OSError, ValueError):
        return None


def remove_process_files(workdir: Path, ranks: Iterable[int]) -> None:
    for rank in ranks:
        _place_file(workdir, rank).unlink(missing_ok=True)


def clear_handover(workdir: Path) -> None:
    """Remove what earlier processes of this trial left for the driver."""
    for path in (*workdir.glob(f"{PROCESS}*"), workdir / FAILURE):
        path.unlink(missing_ok=True)


def write_failure(workdir: Path, breakdown: TrialFailure) -> None:
    """Leave word of a breakdown for `read_failure`, unless there is one: what came first brought about the rest. On
    a full disk there is none to leave."""
    with suppress(OSError), (workdir / FAILURE).open("x", encoding="utf-8") as file:
        file.write(json.dumps(breakdown._asdict(), ensure_ascii=False))


def read_failure(workdir: Path) -> TrialFailure:
    """Why a trial failed, for the driver. Without a note the process died before it could leave one, or there was
    no room for it."""
    try:
        return TrialFailure(**json.loads((workdir / FAILURE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        room = _no_room(workdir)
        died = "its process died without a word; killed, or out of the machine's memory"
        return TrialFailure("disk", room) if room else TrialFailure("crash", died)


def _no_room(workdir: Path) -> str | None:
    """Why nothing can be written there, if so. A process may die before it has made its folder."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=workdir) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
    except OSError as error:
        return disk_trouble(error, workdir) or f"{workdir}: {error}"
    return None

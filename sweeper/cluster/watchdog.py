"""Stop a sweep whose local Ray is lost: its processes are killed or stopped, or its files are removed.

Ray itself would then wait without an end, or end the driver without a line. The watchdog first asks the driver for an
orderly end. If that does not come in time, because the main thread hangs inside Ray, it ends the process itself.
Nothing is lost then: the ledger has all results.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from sweeper.cluster.ray_folder import renew
from sweeper.errors import EnvironmentFailure
from sweeper.process.signals import SIGNALS, Interrupt

POLL_SECONDS = 1.0
STOPPED_POLLS = 10  # a process that is stopped for so many polls in a row does not go on by itself
START_SECONDS = 45.0  # limit of Ray's start
STOP_SECONDS = 30.0  # limit of Ray's shutdown
GRACE_SECONDS = 10.0  # limit of the driver's orderly end
RENEW_SECONDS = 3600.0  # between two renewals of the files' times


@dataclass(frozen=True)
class RayParts:
    """List what Ray cannot work without: processes by name, files, and the folder that holds the files."""

    processes: Mapping[str, psutil.Process]
    files: tuple[Path, ...]
    folder: Path

    def loss(self) -> str | None:
        """Return the first part that is gone, as a text, or None."""
        ended = (f"its process {name} has ended" for name, process in self.processes.items() if is_over(process))
        removed = (f"its file {path} was removed" for path in self.files if not path.exists())
        return next(ended, None) or next(removed, None)

    def stopped(self) -> str | None:
        """Return the name of the first process that a signal has stopped, or None."""
        return next((name for name, process in self.processes.items() if is_stopped(process)), None)


def is_over(process: psutil.Process) -> bool:
    """Return True if a process has ended, also if its parent has not yet noticed."""
    try:
        return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def is_stopped(process: psutil.Process) -> bool:
    """Return True if a signal such as SIGSTOP has stopped a process."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_STOPPED)
    return False


def parts_of(node: Any) -> RayParts:
    """Return the parts of the Ray node that this process has started.

    GCS and raylet are children of this process; the agents, without which the raylet ends, are children of the raylet.
    Ray also starts processes that sweeps do not need, such as its log monitor. Private in ray 2.60: `all_processes` and
    the methods that name files.
    """
    started = {name: psutil.Process(infos[0].process.pid) for name, infos in node.all_processes.items()}
    needed = {name: process for name, process in started.items() if name in ("gcs_server", "raylet")}
    with suppress(psutil.NoSuchProcess):
        agents = [child for child in started["raylet"].children() if "Agent" in child.name()]
        needed |= {f"agent {agent.pid}": agent for agent in agents}
    sockets = (Path(node.raylet_socket_name), Path(node.plasma_store_socket_name))
    return RayParts(needed, (*sockets, Path(node.get_logs_dir_path())), Path(node.get_session_dir_path()))


@dataclass
class Watchdog:
    """Watch one sweep's Ray in a thread of its own.

    say        shows the line that tells why the process ends, when the main thread cannot show it
    parts      what is watched; None before Ray has started
    deadline   time of `time.monotonic` at which the present step (start or shutdown) must have ended, with its cause
    """

    sweep: str
    interrupt: Interrupt
    say: Callable[[str], object]
    parts: RayParts | None = None
    deadline: tuple[float, str] | None = None
    _stopped_polls: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def problem(self) -> str | None:
        """Return the line that ends the sweep if Ray is lost, else None."""
        loss = self.parts.loss() if self.parts else None
        return self.line(loss) if loss else None

    def line(self, cause: str) -> str:
        return f"sweep {self.sweep}: Ray has failed; {cause}; all results are kept; run `sweeper resume {self.sweep}`"

    @contextmanager
    def limit(self, seconds: float, step: str) -> Iterator[None]:
        """End the process if the block, a `step` such as "start", takes longer than `seconds`."""
        self.deadline = time.monotonic() + seconds, f"it did not {step} within {seconds:g} s"
        try:
            yield
        finally:
            self.deadline = None

    def poll(self) -> str | None:
        """Return the line that ends the sweep if Ray is lost or has been stopped for a while, else None."""
        stopped = self.parts.stopped() if self.parts else None
        self._stopped_polls = self._stopped_polls + 1 if stopped else 0
        if self._stopped_polls >= STOPPED_POLLS:
            return self.line(f"its process {stopped} is stopped")
        return self.problem()

    def run(self) -> None:
        """Poll until the session is over. Runs in the watchdog's thread."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the main thread must receive the signals
        renewed = time.monotonic()
        while not self._over.wait(POLL_SECONDS):
            deadline = self.deadline
            if deadline and time.monotonic() > deadline[0]:
                self.end(self.line(deadline[1]))
            if line := self.poll():
                self.interrupt.halt(line)
                if not self._over.wait(GRACE_SECONDS):
                    self.end(line)
            if self.parts and time.monotonic() - renewed > RENEW_SECONDS:
                renew(self.parts.folder)
                renewed = time.monotonic()

    def end(self, line: str) -> None:
        """Show a line and end this process and all that it has started."""
        if not self._over.is_set():
            self.say(line)
            self.interrupt.end(EnvironmentFailure.exit_code)


@contextmanager
def watchdog(sweep: str, interrupt: Interrupt, say: Callable[[str], object]) -> Iterator[Watchdog]:
    """Run a Watchdog within the block."""
    watcher = Watchdog(sweep, interrupt, say)
    thread = threading.Thread(target=watcher.run, name="watchdog", daemon=True)
    thread.start()
    interrupt.probes.append(watcher.problem)
    try:
        yield watcher
    finally:
        interrupt.probes.remove(watcher.problem)
        watcher._over.set()

"""Handle SIGINT and SIGTERM: the first requests an orderly stop, the second ends the process at once.

An abrupt end loses nothing: the ledger has all results, and the kernel releases the sweep's lock.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of Linux's prctl
END_WORK_SECONDS = 10.0
SHUTDOWN_SECONDS = 25.0  # limit of an orderly stop; spot machines and batch systems allow 30 s


class Interrupted(KeyboardInterrupt):
    """End a command that was asked to stop. Its exit code is 128 + signal number, as in a shell: 130 or 143."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.strsignal(signum))
        self.exit_code = 128 + signum


class Interrupt:
    """Record a request to stop, by a signal or by this process itself.

    >>> with handle_signals(Interrupt()) as interrupt:
    ...     with interrupt.held():  # a signal raises no exception here
    ...         while not interrupt.asked:
    ...             step()
    ...     interrupt.raise_asked()
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.cause: str | None = None
        self.probes: list[Callable[[], str | None]] = []  # each returns a cause to stop, or None
        self.end_work: list[Callable[[], object]] = []  # what to do before another thread ends the process
        self._held = False

    def __call__(self, signum: int, frame: FrameType | None = None) -> None:
        """Handle a signal: record the first one, end the process on the second or after SHUTDOWN_SECONDS."""
        if self.asked is not None:
            exit_now(signum)
        self.asked = signum
        timer = threading.Timer(SHUTDOWN_SECONDS, exit_now, [signum])
        timer.daemon = True
        timer.start()
        if not self._held:
            raise Interrupted(signum)

    def ask(self) -> None:
        """Request a stop from any thread, as a first signal does. After a signal this does nothing."""
        if self.asked is None:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    @property
    def stopping(self) -> bool:
        """Return True after a signal or a call of `halt`, or when a probe finds a cause to stop."""
        if self.cause is None:
            self.cause = next(filter(None, (probe() for probe in self.probes)), None)
        return self.asked is not None or self.cause is not None

    def halt(self, cause: str) -> None:
        """Request an orderly stop of the whole sweep, for a reason that is not a trial's fault."""
        self.cause = self.cause or cause

    @contextmanager
    def before_end(self, work: Callable[[], object]) -> Iterator[None]:
        """Let `end` do this work if it ends the process within the block, when the main thread hangs."""
        self.end_work.append(work)
        try:
            yield
        finally:
            self.end_work.remove(work)

    def end(self, code: int) -> None:
        """End the process from another thread than the main one.

        First does the work given to `before_end`, newest first. Each piece gets END_WORK_SECONDS; errors are ignored.
        """
        for work in reversed(self.end_work):
            thread = threading.Thread(target=_silently, args=[work], daemon=True)
            thread.start()
            thread.join(END_WORK_SECONDS)
        end_process(code)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Record a first signal without raising an exception."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def raise_asked(self) -> None:
        """Raise Interrupted if there was a signal."""
        if self.asked is not None:
            raise Interrupted(self.asked)


def _silently(work: Callable[[], object]) -> None:
    with suppress(Exception):
        work()


def exit_now(signum: int) -> None:
    """Kill the processes that this one started, then end this one as if by the signal."""
    end_process(128 + signum)


def end_process(code: int) -> None:
    """Kill the processes that this one started, then end this one with an exit code."""
    kill_processes(descendants())
    os._exit(code)


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent dies, so that `descendants` still finds them.

    Does nothing where the system has no such call (all but Linux).
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def descendants() -> list[psutil.Process]:
    """Return all direct and indirect child processes, parents before children."""
    return psutil.Process().children(recursive=True)


def kill_processes(processes: list[psutil.Process]) -> None:
    """Kill the processes. Ignore those that have already ended."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def handle_signals(interrupt: Interrupt) -> Iterator[Interrupt]:
    """Send SIGINT and SIGTERM to `interrupt` and restore the former handlers at the end."""
    before = {signum: signal.signal(signum, interrupt) for signum in SIGNALS}
    try:
        yield interrupt
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM while Ray starts, and restore our handlers, which Ray replaces.

    Ray's processes inherit the block. Thus a signal that systemd or Slurm sends to the whole process group cannot kill
    Ray before the sweep has stopped.
    """
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

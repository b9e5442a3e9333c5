"""SIGINT and SIGTERM. The first asks for an orderly end, the second ends the process at once: the ledger has
whatever was finished, and the kernel frees the sweep's lock."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHUTDOWN_SECONDS = 25.0  # seconds for an orderly end, of the half minute that spot machines and batch systems give


class Interrupted(KeyboardInterrupt):
    """Ends a command that was asked to stop. Its exit code is the shell's for the signal: 130 or 143."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.strsignal(signum))
        self.exit_code = 128 + signum


class Interrupt:
    """Whether this process is to stop: it was asked to, or must.

    >>> with catching(Interrupt()) as interrupt:
    ...     with interrupt.held():      # where an exception would come at a bad moment
    ...         while not interrupt.asked:
    ...             step()
    ...     interrupt.raise_asked()
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.cause: str | None = None
        self._held = False

    def __call__(self, signum: int, frame: FrameType | None = None) -> None:
        """The signal handler."""
        if self.asked is not None:
            exit_now(signum)
        self.asked = signum
        watch = threading.Timer(SHUTDOWN_SECONDS, exit_now, [signum])
        watch.daemon = True
        watch.start()
        if not self._held:
            raise Interrupted(signum)

    def ask(self) -> None:
        """Do as a first signal, from any thread. It is never the second one, which would end the process."""
        if self.asked is None:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    @property
    def stopping(self) -> bool:
        """Whether to come to an end: asked from outside, or because we `halt`."""
        return self.asked is not None or self.cause is not None

    def halt(self, cause: str) -> None:
        """Come to an orderly end, for this reason, which is none of the trials'."""
        self.cause = self.cause or cause

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, a first signal is only noted."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def raise_asked(self) -> None:
        """Raise Interrupted if there was a signal."""
        if self.asked is not None:
            raise Interrupted(self.asked)


def exit_now(signum: int) -> None:
    """End this process and those it started, now."""
    kill_processes(descendants())
    os._exit(128 + signum)


def descendants() -> list[psutil.Process]:
    """All processes below this one, parents before children."""
    return psutil.Process().children(recursive=True)


def kill_processes(processes: list[psutil.Process]) -> None:
    """Kill those of them that are still there."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def handle_signals(interrupt: Interrupt) -> Iterator[Interrupt]:
    """SIGINT and SIGTERM go to `interrupt` meanwhile."""
    before = {signum: signal.signal(signum, interrupt) for signum in SIGNALS}
    try:
        yield interrupt
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """For code that puts its own signal handlers in place of ours, as Ray does when it starts. The signals wait
    meanwhile, and for ever in the processes started here: what is sent to the whole group, as systemd and Slurm
    do, would else end Ray before we could."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

"""SIGINT and SIGTERM. The first asks for an orderly end, the second ends the process at once: the ledger has
whatever was finished, the kernel frees the sweep's lock and ends Ray's processes with their parent."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Ends a command that was asked to stop. Its exit code is the shell's for the signal: 130 or 143."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.strsignal(signum))
        self.exit_code = 128 + signum


class Interrupt:
    """Whether this process was asked to stop.

    >>> with catching(Interrupt()) as interrupt:
    ...     with interrupt.held():      # where an exception would come at a bad moment
    ...         while not interrupt.asked:
    ...             step()
    ...     interrupt.raise_asked()
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._held = False

    def __call__(self, signum: int, frame: FrameType | None = None) -> None:
        """The signal handler."""
        if self.asked is not None:
            os._exit(128 + signum)
        self.asked = signum
        if not self._held:
            raise Interrupted(signum)

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


@contextmanager
def catching(interrupt: Interrupt) -> Iterator[Interrupt]:
    """SIGINT and SIGTERM go to `interrupt` meanwhile."""
    before = {signum: signal.signal(signum, interrupt) for signum in SIGNALS}
    try:
        yield interrupt
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """For code that puts its own signal handlers in place of ours, as Ray does when it starts; what it makes of
    a SIGTERM then is an Interrupted here."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    try:
        yield
    except SystemExit:
        raise Interrupted(signal.SIGTERM) from None
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

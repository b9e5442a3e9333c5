"""A command that goes on by itself after its terminal is closed. It is forked before anything heavy is imported and
stays in the foreground until it has begun, so that whatever is refused is told as ever, with its exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OUTPUT = "output.txt"
PATH_BYTES = 4096  # bytes, which a pipe takes in one piece


@dataclass(frozen=True)
class DetachedCommand:
    """A command that goes on: its process, and the folder of its sweep."""

    pid: int
    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / OUTPUT


@dataclass(frozen=True)
class Detachment:
    """The end of a pipe at which the command says that it has begun."""

    told: int

    def leave(self, folder: Path, terminal: int) -> None:
        """Go on without a terminal: in a session of our own, with nothing to read, and with all that is written to
        standard output, standard error and the descriptor `terminal` going to a file in `folder`."""
        os.setsid()
        log = os.open(folder / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(nothing, 0)
        for descriptor in (1, 2, terminal):
            os.dup2(log, descriptor, inheritable=descriptor in (1, 2))
        os.close(log)
        os.close(nothing)
        os.write(self.told, os.fsencode(folder))
        os.close(self.told)


def start_detached(command: Callable[[Detachment], object]) -> DetachedCommand | int:
    """Run `command` in a process of its own. Returns once it has left, or its exit code when it ended before.

    >>> outcome = detached(lambda detachment: train(space, detachment))
    """
    heard, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(heard)
        command(Detachment(told))
        sys.exit(0)
    os.close(told)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the command as well, which ends
    folder = os.read(heard, PATH_BYTES)
    signal.signal(signal.SIGINT, before)
    os.close(heard)
    return DetachedCommand(pid, Path(os.fsdecode(folder))) if folder else exit_code(pid)


def exit_code(pid: int) -> int:
    """Of a process that ends by itself or by a signal, as a shell says it."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code

"""Run a command in the background after its checks have passed (`--detach`).

The process is forked before heavy imports. The caller waits until the command has left the terminal, so that an
earlier error still shows its message and sets the exit code.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OUTPUT = "output.txt"
PATH_BYTES = 4096  # a write of up to this many bytes to a pipe is never split


@dataclass(frozen=True)
class DetachedCommand:
    """Identify a command that runs in the background: its process id and its sweep's folder."""

    pid: int
    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / OUTPUT


@dataclass(frozen=True)
class Detachment:
    """Hold the pipe through which the command tells its parent that it runs in the background."""

    pipe: int

    def leave(self, folder: Path, terminal: int) -> None:
        """Continue in a new session without a terminal, then notify the parent process.

        The input is empty. Output, errors and the descriptor `terminal` are appended to a file in `folder`.
        """
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
        os.write(self.pipe, os.fsencode(folder))
        os.close(self.pipe)


def start_detached(command: Callable[[Detachment], object]) -> DetachedCommand | int:
    """Run `command` in a child process and wait until it has left the terminal.

    Returns the DetachedCommand, or the exit code if the command ended before.

    >>> outcome = start_detached(lambda detachment: train(space, detachment))
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        command(Detachment(writing))
        sys.exit(0)
    os.close(writing)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the child, which ends
    folder = os.read(reading, PATH_BYTES)
    signal.signal(signal.SIGINT, before)
    os.close(reading)
    return DetachedCommand(pid, Path(os.fsdecode(folder))) if folder else exit_code(pid)


def exit_code(pid: int) -> int:
    """Wait for a child process and return its exit code, 128 + signal number if a signal ended it."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code

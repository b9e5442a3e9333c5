"""What a machine can run out of, and an end that leaves no time for tidying up."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from jobs import fault_injection


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: the write that would fails with an OSError, as on a full disk."""
    with _limit(resource.RLIMIT_FSIZE, size):
        yield


@contextmanager
def descriptors_used_up() -> Iterator[None]:
    """No file can be opened."""
    with _limit(resource.RLIMIT_NOFILE, 0):
        yield


@contextmanager
def _limit(kind: int, value: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A disk of `size` bytes at `folder`; the test skips where nobody may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Use a disk up to its last byte, by a file that can be removed again."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def ending_of(work: Callable[[], object], environ: dict[str, str] | None = None) -> int:
    """How a process of its own ends that does this `work`: the negative number of the signal that killed it, 0 or,
    after an exception, 1."""
    process = os.fork()
    if not process:
        _work(work, environ or {})
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _work(work: Callable[[], object], environ: dict[str, str]) -> None:
    signal.alarm(100)  # a child that waits for what was left behind in its parent
    os.environ.update(environ)
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def killed_at(fault: str, folder: Path, work: Callable[[], object]) -> None:
    """Assert that a process which does this work is killed at the point of a fault, `point:nth:kill`, asked for in
    a folder that may be new."""
    folder.mkdir(exist_ok=True)
    (folder / "asked").write_text(fault)
    code = ending_of(work, {fault_injection.VARIABLE: str(folder)})
    assert (code, fault_injection.happened(folder)) == (-signal.SIGKILL, [fault])


@contextmanager
def locked(file: Path) -> Iterator[sqlite3.Connection]:
    """Nobody else reads or writes."""
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        yield lock

"""Who runs a sweep: one process at a time, of this machine or, with a PostgreSQL ledger, of all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sweeper.errors import EnvironmentFailure
from sweeper.ledger.database import database_errors
from sweeper.storage import postgres


def _ignored(cause: str) -> None:
    """For an owner that has nothing to stop."""


@contextmanager
def owned(folder: Path, ledger: str | None = None, lost: Callable[[str], None] = _ignored) -> Iterator[None]:
    """Nobody else runs the sweep in `folder` meanwhile. The lock is freed when the process dies: by the kernel, and
    by the server that holds the `ledger`, which is asked as well when it is a PostgreSQL.

    `lost` is told, from a thread, when that lock is gone before its time: the server went away, and another process
    may take the sweep as soon as it is back. Raises EnvironmentFailure, naming who runs it.
    """
    with _locked(folder), _claimed(folder.name, ledger, lost):
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    owner = folder / "owner"
    try:
        with FileLock(folder / "lock", timeout=0):
            owner.write_text(str(os.getpid()))
            yield
            owner.unlink(missing_ok=True)
    except Timeout:
        pid = owner.read_text() if owner.exists() else "unknown"
        raise _refusal(folder.name, pid) from None


@contextmanager
def _claimed(sweep: str, ledger: str | None, lost: Callable[[str], None]) -> Iterator[None]:
    if ledger is None or not postgres.is_postgres(ledger):
        yield
        return
    cause = f"sweep {sweep}: its lock in the ledger is gone, as the server went away; sweeper resume {sweep}"
    try:
        with database_errors(ledger), postgres.held(ledger, f"sweep {sweep}", lambda: lost(cause)):
            yield
    except postgres.Taken as taken:
        raise _refusal(sweep, taken.owner) from None


def _refusal(sweep: str, owner: str) -> EnvironmentFailure:
    return EnvironmentFailure(f"sweep {sweep}: process {owner} is running it; wait for it or stop it")

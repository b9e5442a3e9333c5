"""Lock a sweep: one process runs it at a time, on this machine or, with a PostgreSQL ledger, on all machines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from sweeper.errors import EnvironmentFailure
from sweeper.ledger.database import database_errors
from sweeper.storage import postgres
from sweeper.storage.locks import file_lock

LOCK_FILES = ("lock", "owner")


def _ignored(cause: str) -> None:
    """Ignore the loss of a lock."""


@contextmanager
def sweep_lock(folder: Path, ledger: str | None = None, lost: Callable[[str], None] = _ignored) -> Iterator[None]:
    """Hold the sweep's lock file in `folder`, and a lock in a PostgreSQL `ledger`. Both are freed if the process dies.

    If the server drops its lock, another process may take the sweep; a thread then calls `lost` with the cause.
    Raises EnvironmentFailure, which names the owner, when another process holds the lock.
    """
    with _locked(folder), _claimed(folder.name, ledger, lost):
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock, owner = (folder / name for name in LOCK_FILES)
    try:
        with file_lock(lock, timeout=0):
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
    cause = f"sweep {sweep}: the database server has dropped its lock; run `sweeper resume {sweep}`"
    try:
        with database_errors(ledger), postgres.hold_lock(ledger, f"sweep {sweep}", lambda: lost(cause)):
            yield
    except postgres.LockTaken as taken:
        raise _refusal(sweep, taken.owner) from None


def _refusal(sweep: str, owner: str) -> EnvironmentFailure:
    return EnvironmentFailure(f"sweep {sweep}: process {owner} is running it; wait for it or stop it")

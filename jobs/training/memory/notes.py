"""Remember which batches ran out of memory, in a JSON file that the trials of all sweeps share.

The file only shortens the search for a batch that fits: a batch is always tried before it is used. So a file that is
missing, damaged or wrong costs a little time, or makes batches smaller than they could be.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from filelock import FileLock, Timeout

from jobs.files import atomic

BATCH_SIZES = "batch_sizes.json"  # name of the file
LOCK_SECONDS = 10.0  # a process holds the lock for milliseconds
MOST_BYTES = 2**20  # of the file; thousands of settings have room
MOST_ROWS = 2**16  # as in effective_batch_size

_file: ContextVar[Path | None] = ContextVar("batch size notes", default=None)


@contextmanager
def notes_in(file: Path | None) -> Iterator[None]:
    """Keep the notes of trainings inside the block in this file; None remembers nothing."""
    token = _file.set(file)
    try:
        yield
    finally:
        _file.reset(token)


def noted_shortage(setting: str) -> int | None:
    """Return the smallest batch that ran out of memory in this setting, None if unknown."""
    file = _file.get()
    return _read(file).get(setting) if file else None


def note_shortage(setting: str, rows: int) -> None:
    """Note that a batch of `rows` ran out of memory in this setting. A file that cannot be written is left as it is."""
    file = _file.get()
    if file is None:
        return
    with suppress(OSError, Timeout):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(file.with_name(f".{file.name}.lock"), timeout=LOCK_SECONDS, fallback_to_soft=False):
            notes = _read(file)
            if rows < notes.get(setting, rows + 1):
                with atomic(file) as part:
                    part.write_text(json.dumps({**notes, setting: rows}, indent=0), "utf-8")


def _read(file: Path) -> dict[str, int]:
    """Return the valid notes of a file; none if it is missing, damaged, too large, or not this user's own."""
    try:
        found = file.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_size > MOST_BYTES:
            return {}
        notes = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: rows for key, rows in notes.items() if _valid(rows)} if isinstance(notes, dict) else {}


def _valid(rows: object) -> bool:
    return type(rows) is int and 1 <= rows <= MOST_ROWS

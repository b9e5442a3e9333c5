"""Create private files and folders, and write files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock

from jobs import faults
from jobs.files import atomic

BUSY_SECONDS = 20.0  # seconds to wait for a locked file; an orderly end after an interrupt must fit in as well


def create_private(address: str) -> None:
    """Make a SQLite address's file (mode 0600), or a file address's folder (0700), where it is missing.

    Missing folders above are made 0700 too. SQLite gives its journals the file's mode. Any other address
    is left alone. Raises OSError.
    """
    if address.startswith("sqlite:///"):
        path = Path(address.removeprefix("sqlite:///").partition("?")[0])
        create_folder(path.parent)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    elif address.startswith("file:"):
        create_folder(Path(url2pathname(urlsplit(address).path)))


def create_whole(database: Path, make: Callable[[str], object]) -> None:
    """Make a new SQLite file beside its place and give it its name when it is complete, so that one that was cut
    short is always a damaged one. `make` fills the address it is given; the lock is for processes that start at once.
    """
    if database.exists():
        return
    create_folder(database.parent)
    with FileLock(f"{database}.lock", timeout=BUSY_SECONDS):
        if database.exists():
            return
        with atomic(database) as part:
            create_private(f"sqlite:///{part}")
            make(f"sqlite:///{part}")
            faults.point("database.create")


def create_folder(folder: Path) -> None:
    """Make a folder and those above it, mode 0700, where they are missing."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)

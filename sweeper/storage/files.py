"""Create private files and folders, and SQLite files that are never left incomplete."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from jobs import fault_injection
from jobs.files import atomic
from sweeper.storage.locks import file_lock

BUSY_SECONDS = 20.0  # longest wait for a locked file; must be shorter than SHUTDOWN_SECONDS


def create_private(address: str) -> None:
    """Create the file of a SQLite address (mode 0600) or the folder of a `file:` address (0700) if it is missing.

    Parent folders get mode 0700; SQLite gives its journals the file's mode. Other addresses are ignored. Raises
    OSError.
    """
    if address.startswith("sqlite:///"):
        path = Path(address.removeprefix("sqlite:///").partition("?")[0])
        create_folder(path.parent)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    elif address.startswith("file:"):
        create_folder(Path(url2pathname(urlsplit(address).path)))


def create_whole(database: Path, make: Callable[[str], object]) -> None:
    """Create a SQLite file under a temporary name and rename it when it is complete.

    Thus a truncated file is always damage, never an unfinished creation. `make` fills the database at the address it
    receives. A lock ensures that only one of several processes creates the file.
    """
    if database.exists():
        return
    create_folder(database.parent)
    with file_lock(Path(f"{database}.lock"), BUSY_SECONDS):
        if database.exists():
            return
        with atomic(database) as part:
            create_private(f"sqlite:///{part}")
            make(f"sqlite:///{part}")
            fault_injection.point("database.create")


def create_folder(folder: Path) -> None:
    """Create a folder and its parents, with mode 0700, if they are missing."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)

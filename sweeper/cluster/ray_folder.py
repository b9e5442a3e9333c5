"""Create the temporary folder of a sweep's Ray, keep it from cleaners, and remove those that dead drivers left.

A driver holds a lock (flock) on its folder. The kernel frees the lock when the driver dies, so other containers that
share the folder see it too. systemd-tmpfiles leaves a locked folder alone.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir, mkdtemp

TEMP_PATH_BYTES = 20  # a whole socket path may have 107 bytes; Ray appends the rest
PREFIX = "sweeper-"
NAME = re.compile(re.escape(PREFIX) + r"[a-z0-9_]{8}")  # as `mkdtemp` makes it
MARK = "locked"  # a folder with this file is locked while its driver lives; earlier versions held no lock
RAY = "ray"
SETTLED_SECONDS = 3600.0  # a folder without the mark is removed only at this age


@contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a new path for Ray's sockets and logs, and remove what dead drivers left.

    Ray makes its own folder readable by everyone, so it is placed inside a folder that only this user can open.
    """
    temp = Path(gettempdir() if len(os.fsencode(gettempdir())) <= TEMP_PATH_BYTES else "/tmp")
    remove_abandoned(temp)
    folder, lock = locked_folder(temp)
    try:
        yield folder / RAY
    finally:
        remove_folder(folder)
        os.close(lock)


def locked_folder(temp: Path) -> tuple[Path, int]:
    """Create a folder in `temp` and lock it. Return its path and the descriptor that holds the lock. Raises OSError."""
    while True:
        folder = Path(mkdtemp(prefix=PREFIX, dir=temp))
        with suppress(FileNotFoundError):  # another driver removed the folder before it was locked
            lock = open_folder(folder)
            with suppress(OSError):  # a file system without locks; the mark is missing then
                fcntl.flock(lock, fcntl.LOCK_EX)
                (folder / MARK).touch(mode=0o600)
            if folder.exists():
                return folder, lock
            os.close(lock)


def open_folder(folder: Path) -> int:
    """Return a descriptor of a folder that is not a link. Programs that this process starts do not inherit it."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def remove_abandoned(temp: Path) -> None:
    """Remove the folders in `temp` that dead drivers of this user left. Errors leave a folder where it is."""
    with suppress(OSError):
        for folder in [path for path in temp.iterdir() if NAME.fullmatch(path.name)]:
            with suppress(OSError):
                remove_if_abandoned(folder)


def remove_if_abandoned(folder: Path) -> None:
    """Remove a folder if its driver is dead. Raises OSError, also for a link or a locked folder."""
    lock = open_folder(folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_private(os.fstat(lock)) and is_abandoned(folder):
            remove_folder(folder)
    finally:
        os.close(lock)


def is_private(found: os.stat_result) -> bool:
    """Return True for a folder of this user that no other user can open."""
    return found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == stat.S_IRWXU


def is_abandoned(folder: Path) -> bool:
    """Return True if nobody uses an unlocked folder.

    A folder without the mark may be that of a driver of an earlier version, which held no lock, or another program's.
    It counts as abandoned only if it holds nothing but Ray's old sessions and no socket in them answers.
    """
    names = {path.name for path in folder.iterdir()}
    if MARK in names:
        return names <= {MARK, RAY}
    if names != {RAY} or time.time() - folder.lstat().st_mtime < SETTLED_SECONDS:
        return False
    sessions = list((folder / RAY).iterdir())
    sockets = [path for session in sessions for path in session.glob("sockets/*")]
    return all(session.name.startswith("session_") for session in sessions) and not any(map(answers, sockets))


def answers(path: Path) -> bool:
    """Return True if a process listens at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def remove_folder(folder: Path) -> None:
    """Remove a folder as far as possible, and the mark at the end, so that a later driver can finish the removal."""
    shutil.rmtree(folder / RAY, ignore_errors=True)
    with suppress(OSError):
        (folder / MARK).unlink(missing_ok=True)
        folder.rmdir()


def renew(folder: Path) -> None:
    """Set the times of all files in a folder to now, since cleaners of temporary files look for old ones."""
    for path in (folder, *folder.rglob("*")):
        with suppress(OSError):
            os.utime(path, follow_symlinks=False)

"""Lock files, and tell in one line when a file system has no locks."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from sweeper.errors import EnvironmentFailure

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
LOCK_CURE = "set SWEEPER_ROOT to a folder on a local disk, or mount this one with locks"


@contextmanager
def file_lock(file: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the lock of `file`, which is created. Wait for at most `timeout` seconds, or for ever if it is negative.

    Raises filelock.Timeout while another process holds it, EnvironmentFailure if the file system has no locks. A lock
    that consists of the file's presence would stay when its owner is killed, so it is no replacement.
    """
    lock = FileLock(file, timeout=timeout, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if cause := lockless_cause(error):
            raise EnvironmentFailure(lockless_line(file.parent, cause)) from error
        raise
    try:
        yield
    finally:
        lock.release()


def lockless_cause(error: BaseException) -> str | None:
    """Return the system's text if an error says that a file system has no locks, else None."""
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno in NO_LOCKS else None


def lockless_line(folder: Path | str, cause: str, cure: str = LOCK_CURE) -> str:
    """Return the message about a file system without locks."""
    return f"{folder}: its file system cannot lock files ({cause}); {cure}"


def lock_problem(place: Path) -> str | None:
    """Return the message if an existing file or folder cannot be locked, else None. Creates nothing."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return lockless_line(place, cause) if (cause := lockless_cause(error)) else None
    finally:
        os.close(descriptor)
    return None

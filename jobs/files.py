"""Write files and folders atomically, and describe a disk's errors in one line. Standard library only."""

from __future__ import annotations

import errno
import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

PART = ".part"  # suffix of a temporary folder beside the file that is being written
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
FULL_DISK_BYTES = 2**16  # a disk with fewer free bytes counts as full


@contextmanager
def atomic(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary path for a new file or folder; rename it to `target` when the block succeeds.

    >>> with atomic(Path("answers.csv")) as part:
    ...     part.write_text("id,answer\\n")

    After a crash or an error `target` is as it was before. A file always replaces an existing file; a folder
    replaces an existing folder only with `replace=True`. Only one process may write `target` at a time. Raises OSError.
    """
    remove_leftovers(target)
    with (
        naming(target),
        TemporaryDirectory(prefix=f".{target.name}-", suffix=PART, dir=target.absolute().parent) as scratch,
    ):
        part = Path(scratch) / target.name
        yield part
        rename_synced(part, target, replace=replace)


def remove_leftovers(target: Path) -> None:
    """Remove the temporary files and folders that killed processes left beside `target`."""
    for leftover in target.absolute().parent.glob(f".{glob.escape(target.name)}-????????{PART}"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def rename_synced(part: Path, target: Path, *, replace: bool = False) -> None:
    """Sync a file or folder to disk, then rename it to `target`, so that a crash leaves it complete or absent."""
    for path in (*part.rglob("*"), part):
        _sync(path)
    if replace:
        shutil.rmtree(target, ignore_errors=True)
    part.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(target: Path) -> Iterator[None]:
    """Name `target` in errors about a full or read-only disk. Without this they name no file, or the source file."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error


@contextmanager
def disk_errors(failure: Callable[[str], Exception], cure: str, place: Path | str | None = None) -> Iterator[None]:
    """Raise `failure(line)` in place of an OSError inside the block. `disk_error_line` gives the line."""
    try:
        yield
    except OSError as error:
        raise failure(disk_error_line(error, cure, place)) from error


def disk_error_line(error: OSError, cure: str, place: Path | str | None = None) -> str:
    """Describe an OSError in one line: place (default: the error's file), reason, cure.

    If the disk is full, the line also has the number of free bytes.
    """
    place = place or error.filename or "disk"
    free = f" ({free_space_text(Path(place))})" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{place}: {error.strerror or error}{free}; {cure}"


def disk_trouble(error: BaseException, place: Path) -> str | None:
    """Describe in one line the full or read-only disk that caused an error; return None for any other cause.

    On a full disk, NumPy and PyTorch only report that they wrote fewer bytes than expected. So if the disk of `place`
    is nearly full, it counts as the cause of any OSError or RuntimeError.
    """
    chain = list(causes(error))
    reason = next((text for one in chain if (text := _disk_error_text(one))), None)
    writing = any(isinstance(one, OSError | RuntimeError) for one in chain)
    if reason is None and writing and _free_bytes(place) < FULL_DISK_BYTES:
        reason = os.strerror(errno.ENOSPC)
    files = (one.filename2 or one.filename for one in chain if isinstance(one, OSError))
    name = next((file for file in files if file), place)
    return reason and f"{name}: {reason} ({free_space_text(place)})"


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause's cause, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _disk_error_text(error: BaseException) -> str | None:
    """Return the system's text for a full or read-only disk, found by the error's number or in its message."""
    texts = {code: os.strerror(code) for code in DISK_ERRORS}
    if isinstance(error, OSError) and error.errno in texts:
        return texts[error.errno]
    return next((text for text in texts.values() if text in str(error)), None)


def free_space_text(place: Path) -> str:
    """Return the free space of the disk that holds `place`, for a message: "1,024 bytes free"."""
    return f"{_free_bytes(place):,} bytes free"


def _free_bytes(place: Path) -> int:
    """Return the free bytes of the disk that holds `place`, or that of its nearest existing parent folder."""
    try:
        return shutil.disk_usage(place).free
    except OSError:
        if place == place.parent:
            raise
        return _free_bytes(place.absolute().parent)

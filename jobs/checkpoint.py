"""A checkpoint is a folder that is either whole or not there. Standard library only.

It holds what `save_pretrained` writes, what training needs to go on, job.json with the job's name, its
params and its data's place and fingerprint, predictions.json with the answers to the validation questions,
and manifest.json with the size and SHA-256 of every other file.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jobs import faults

MANIFEST = "manifest.json"
# One object for each validation question, in the order of the data, all with the same keys: `id`, and of an answer
# `answer` (its text) and `start` (index of its first character in the paragraph), of a picked paragraph `paragraph`
# (its index in the data). Scores recomputed from these keys must equal the reported ones.
PREDICTIONS = "predictions.json"
IDENTITY = "job.json"
PART = ".part"  # ends the name of what is not complete yet
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
NEARLY_NOTHING = 2**16  # bytes free on a disk that counts as full
PICKLED = frozenset({".pt", ".pth", ".bin", ".pkl"})  # optimizer, random states, arguments: weights are safetensors


class CheckpointError(RuntimeError):
    """A folder that is no checkpoint of the job it is wanted for. One line: state, cause, cure."""


def publish(folder: Path, workdir: Path, step: int) -> Path:
    """Give a finished folder its manifest and its name under `workdir`, in one rename.

    Everything is on disk before the name exists, so a crash at any time leaves the checkpoint absent
    or whole. `folder` must lie on the same file system.
    """
    target = workdir / f"checkpoint-{step:06d}"
    with placed(target):
        (folder / MANIFEST).unlink(missing_ok=True)  # of an earlier attempt, which must not vouch for itself
        write_json(folder / MANIFEST, {path.name: _describe(path) for path in sorted(folder.iterdir())})
        for path in folder.iterdir():
            fsync(path)
        fsync(folder)
        faults.point("checkpoint.rename")
        folder.rename(target)
        fsync(workdir)
    faults.point("checkpoint.report")
    return target


@contextmanager
def placed(target: Path) -> Iterator[None]:
    """Says of an OSError what was to be written: that of a full disk names no file, or the one that was read."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error


def disk_trouble(error: BaseException, place: Path) -> str | None:
    """What a disk that is full or read-only has to do with an error, in one line with its place and the bytes free;
    None where it has nothing to do with it.

    NumPy and PyTorch say of a full disk only that fewer bytes were written than asked for, so the disk itself is
    looked at as well.
    """
    chain = list(causes(error))
    said = next((text for one in chain if (text := _disk_error_text(one))), None)
    try:
        free = shutil.disk_usage(place).free
    except OSError as gone:
        return said and f"{place}: {said} ({gone.strerror})"
    writing = any(isinstance(one, OSError | RuntimeError) for one in chain)
    if said is None and writing and free < NEARLY_NOTHING:
        said = os.strerror(errno.ENOSPC)
    files = (one.filename2 or one.filename for one in chain if isinstance(one, OSError))
    name = next((file for file in files if file), place)
    return said and f"{name}: {said}; {free:,} bytes are free"


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from, the last one first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _disk_error_text(error: BaseException) -> str | None:
    """The system's word for a full or read-only disk, where an error carries it as a number or as text."""
    words = {code: os.strerror(code) for code in DISK_ERRORS}
    if isinstance(error, OSError) and error.errno in words:
        return words[error.errno]
    return next((word for word in words.values() if word in str(error)), None)


def answering_part(checkpoint: Path) -> dict[str, Any]:
    """The manifest of what answering questions needs: all but the files that only training goes on from."""
    manifest = load_json(checkpoint / MANIFEST)
    return {name: entry for name, entry in manifest.items() if Path(name).suffix not in PICKLED}


def copy_answering_part(checkpoint: Path, target: Path) -> Path:
    """Make `target` an undamaged checkpoint of what answering needs, in one rename.

    A third of a training checkpoint's size, and without pickles, so that it may be handed on. Raises OSError
    when what was copied is not what the manifest says.
    """
    manifest = answering_part(checkpoint)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    clear_scratch(target)
    with TemporaryDirectory(prefix=f".{target.name}-", suffix=PART, dir=target.parent) as scratch:
        incoming = Path(scratch) / target.name
        incoming.mkdir(mode=0o700)
        with placed(target):
            for name in manifest:
                shutil.copyfile(checkpoint / name, incoming / name)
            write_json(incoming / MANIFEST, manifest)
        return settle(incoming, target)


def clear_scratch(target: Path) -> None:
    """Remove what a process that was killed left beside `target`. One that writes there now fails, as two never
    should."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}-????????{PART}"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def settle(incoming: Path, target: Path) -> Path:
    """Give an undamaged folder the name `target`, in place of a damaged one. Raises OSError when it is damaged."""
    if problem := damage(incoming):
        raise OSError(f"{problem}; is the disk full or failing?")
    for path in (*incoming.iterdir(), incoming):
        fsync(path)
    shutil.rmtree(target, ignore_errors=True)
    incoming.rename(target)
    fsync(target.parent)
    return target


def damage(checkpoint: Path) -> str | None:
    """What does not match the manifest, or None when every file is as it was written."""
    try:
        manifest = load_json(checkpoint / MANIFEST)
    except (OSError, ValueError):
        return f"{checkpoint}: no readable {MANIFEST}"
    for name, expected in manifest.items():
        path = checkpoint / name
        if path.name != name or path.is_symlink():
            return f"{path}: no plain file of its own"
        if not path.is_file() or _describe(path) != expected:
            return f"{path}: missing or changed since it was written"
    return None


def latest(workdir: Path) -> Path | None:
    """The newest undamaged checkpoint of a trial, or None."""
    newest_first = sorted(workdir.glob("checkpoint-??????*"), reverse=True)
    return next((checkpoint for checkpoint in newest_first if not damage(checkpoint)), None)


def identity(checkpoint: Path) -> dict[str, Any]:
    """Which job made it, with which params, on which data. Raises CheckpointError when it does not say."""
    try:
        content = load_json(checkpoint / IDENTITY)
        return {key: content[key] for key in ("job", "params", "data", "data_fingerprint")}
    except (OSError, ValueError, KeyError):
        raise CheckpointError(f"{checkpoint}: has no readable {IDENTITY}; name a checkpoint of a trial") from None


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

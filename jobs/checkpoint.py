"""A checkpoint is a folder that is either whole or not there. Standard library only.

It holds what `save_pretrained` writes, what training needs to go on, job.json with the job's name, its
params and its data's place and fingerprint, predictions.json with the answers to the validation questions,
and manifest.json with the size and SHA-256 of every other file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

MANIFEST = "manifest.json"
PREDICTIONS = "predictions.json"
IDENTITY = "job.json"
PICKLED = frozenset({".pt", ".pth", ".bin", ".pkl"})  # optimizer, random states, arguments: weights are safetensors


class CheckpointError(RuntimeError):
    """A folder that is no checkpoint of the job it is wanted for. One line: state, cause, cure."""


def publish(folder: Path, workdir: Path, step: int) -> Path:
    """Give a finished folder its manifest and its name under `workdir`, in one rename.

    Everything is on disk before the name exists, so a crash at any time leaves the checkpoint absent
    or whole. `folder` must lie on the same file system.
    """
    target = workdir / f"checkpoint-{step:06d}"
    write_json(folder / MANIFEST, {path.name: _describe(path) for path in sorted(folder.iterdir())})
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)
    folder.rename(target)
    _sync(workdir)
    return target


def answering_part(checkpoint: Path) -> dict[str, Any]:
    """The manifest of what answering questions needs: all but the files that only training goes on from."""
    manifest = read_json(checkpoint / MANIFEST)
    return {name: entry for name, entry in manifest.items() if Path(name).suffix not in PICKLED}


def copy_answering_part(checkpoint: Path, target: Path) -> Path:
    """Make `target` an undamaged checkpoint of what answering needs, in one rename.

    A third of a training checkpoint's size, and without pickles, so that it may be handed on. Raises OSError
    when what was copied is not what the manifest says.
    """
    manifest = answering_part(checkpoint)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        incoming = Path(scratch) / target.name
        incoming.mkdir(mode=0o700)
        for name in manifest:
            shutil.copyfile(checkpoint / name, incoming / name)
        write_json(incoming / MANIFEST, manifest)
        return settle(incoming, target)


def settle(incoming: Path, target: Path) -> Path:
    """Give an undamaged folder the name `target`, in place of a damaged one. Raises OSError when it is damaged."""
    if problem := damage(incoming):
        raise OSError(f"{problem}; is the disk full or failing?")
    for path in (*incoming.iterdir(), incoming):
        _sync(path)
    shutil.rmtree(target, ignore_errors=True)
    incoming.rename(target)
    _sync(target.parent)
    return target


def damage(checkpoint: Path) -> str | None:
    """What does not match the manifest, or None when every file is as it was written."""
    try:
        manifest = read_json(checkpoint / MANIFEST)
    except (OSError, ValueError):
        return f"{checkpoint}: no readable {MANIFEST}"
    for name, expected in manifest.items():
        path = checkpoint / name
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
        content = read_json(checkpoint / IDENTITY)
        return {key: content[key] for key in ("job", "params", "data", "data_fingerprint")}
    except (OSError, ValueError, KeyError):
        raise CheckpointError(f"{checkpoint}: has no readable {IDENTITY}; name a checkpoint of a trial") from None


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""A checkpoint is a folder that is either whole or not there. Standard library only.

It holds what `save_pretrained` writes, what training needs to go on, job.json with the job's name, its
params and the fingerprint of its data, predictions.json with the answers to the validation questions, and
manifest.json with the size and SHA-256 of every other file.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
PREDICTIONS = "predictions.json"
IDENTITY = "job.json"


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

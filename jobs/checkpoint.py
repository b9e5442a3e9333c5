"""A checkpoint is a folder that is either whole or not there. Standard library only.

It holds what `save_pretrained` writes, what training needs to go on, job.json with the job's name, its
params and its data's place and fingerprint, predictions.json with the answers to the validation questions,
and manifest.json with the size and SHA-256 of every other file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from jobs import faults
from jobs.files import atomic, naming, rename_synced

MANIFEST = "manifest.json"
# One object for each validation question, in the order of the data, all with the same keys: `id`, and of an answer
# `answer` (its text) and `start` (index of its first character in the paragraph), of a picked paragraph `paragraph`
# (its index in the data). Scores recomputed from these keys must equal the reported ones.
PREDICTIONS = "predictions.json"
IDENTITY = "job.json"
PICKLED = frozenset({".pt", ".pth", ".bin", ".pkl"})  # optimizer, random states, arguments: weights are safetensors


class CheckpointError(RuntimeError):
    """A folder that is no checkpoint of the job it is wanted for. One line: state, cause, cure."""


class WrongJobError(CheckpointError):
    """A checkpoint that another job has made."""


def publish(folder: Path, workdir: Path, step: int) -> Path:
    """Give a finished folder its manifest and its name under `workdir`, in one rename.

    Everything is on disk before the name exists, so a crash at any time leaves the checkpoint absent
    or whole. `folder` must lie on the same file system.
    """
    target = workdir / f"checkpoint-{step:06d}"
    with naming(target):
        (folder / MANIFEST).unlink(missing_ok=True)  # of an earlier attempt, which must not vouch for itself
        write_json(folder / MANIFEST, {path.name: _describe(path) for path in sorted(folder.iterdir())})
        faults.point("checkpoint.rename")
        rename_synced(folder, target)
    faults.point("checkpoint.report")
    return target


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
    with atomic(target, replace=True) as incoming:
        incoming.mkdir(mode=0o700)
        for name in manifest:
            shutil.copyfile(checkpoint / name, incoming / name)
        write_json(incoming / MANIFEST, manifest)
        refuse_damaged(incoming)
    return target


def refuse_damaged(checkpoint: Path) -> None:
    """Raise OSError for a folder that does not match its manifest."""
    if problem := damage(checkpoint):
        raise OSError(f"{problem}; is the disk full or failing?")


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

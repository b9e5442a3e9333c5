"""Write, verify and read checkpoints: folders that are complete or absent. Standard library only.

A checkpoint holds the files of `save_pretrained`, the optimizer's state, job.json (job, params, data),
predictions.json (answers to the validation questions) and manifest.json (size and SHA-256 of every other file).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from jobs import fault_injection
from jobs.files import atomic, naming, rename_synced

MANIFEST = "manifest.json"
# The file has one object for each validation question, in the order of the data. All objects have the same keys: `id`;
# for an answer, `answer` (its text) and `start` (its first character in the paragraph); for a picked paragraph,
# `paragraph` (its index in the data). Scores recomputed from these keys must equal the reported scores.
PREDICTIONS = "predictions.json"
IDENTITY = "job.json"
PICKLED = frozenset({".pt", ".pth", ".bin", ".pkl"})  # optimizer, random states and arguments; weights are safetensors


class CheckpointError(RuntimeError):
    """Reports a folder that is not a usable checkpoint of the expected job, in one line: state, cause, cure."""


class WrongJobError(CheckpointError):
    """Reports a checkpoint that another job has made."""


def publish(folder: Path, workdir: Path, step: int) -> Path:
    """Write the manifest of a finished folder, then rename the folder to `workdir`/checkpoint-STEP.

    All files are synced to disk before the rename, so a crash leaves the checkpoint complete or absent. `folder` must
    lie on the same file system as `workdir`. Raises OSError.
    """
    target = workdir / f"checkpoint-{step:06d}"
    with naming(target):
        (folder / MANIFEST).unlink(missing_ok=True)  # left by an earlier attempt; the new manifest must not list it
        write_json(folder / MANIFEST, {path.name: _describe(path) for path in sorted(folder.iterdir())})
        fault_injection.point("checkpoint.rename")
        rename_synced(folder, target)
    fault_injection.point("checkpoint.report")
    return target


def answering_part(checkpoint: Path) -> dict[str, Any]:
    """Return the manifest entries of the files needed to answer questions, without pickled files."""
    manifest = load_json(checkpoint / MANIFEST)
    return {name: entry for name, entry in manifest.items() if Path(name).suffix not in PICKLED}


def copy_answering_part(checkpoint: Path, target: Path) -> Path:
    """Copy the files needed to answer questions to `target`, as an undamaged checkpoint.

    The copy has a third of the size and no pickles, so others can load it safely. Raises OSError if a copied file does
    not match the manifest.
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
    """Return a description of the first file that does not match the manifest, or None for an undamaged checkpoint."""
    try:
        manifest = load_json(checkpoint / MANIFEST)
    except (OSError, ValueError):
        return f"{checkpoint}: no readable {MANIFEST}"
    for name, expected in manifest.items():
        path = checkpoint / name
        if path.name != name or path.is_symlink():
            return f"{path}: not a regular file in the checkpoint"
        if not path.is_file() or _describe(path) != expected:
            return f"{path}: missing or changed since it was written"
    return None


def identity(checkpoint: Path) -> dict[str, Any]:
    """Read the job, its params, its data, the data's fingerprint and the conditions from a checkpoint's job.json.

    Checkpoints of earlier versions have no conditions.

    Raises CheckpointError when job.json is missing or incomplete.
    """
    try:
        content = load_json(checkpoint / IDENTITY)
        known = {key: content[key] for key in ("job", "params", "data", "data_fingerprint")}
        return {**known, "conditions": content.get("conditions", {})}
    except (OSError, ValueError, KeyError):
        raise CheckpointError(f"{checkpoint}: has no readable {IDENTITY}; name a checkpoint of a trial") from None


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

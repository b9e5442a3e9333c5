"""Write, verify and read checkpoints: folders that are complete or absent. Standard library only.

A checkpoint holds the files of `save_pretrained`, job.json (job, params, data), predictions.json (answers to the
validation questions) and manifest.json (size and SHA-256 of every other file). One that a trial may resume from also
holds the training state: two thirds of its size.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from jobs import fault_injection
from jobs.files import atomic, naming, rename_synced

MANIFEST = "manifest.json"
UNFINISHED = "unfinished"  # Trainer writes checkpoints into this folder of a trial; publishing moves them out of it
# The file has one object for each validation question, in the order of the data. All objects have the same keys: `id`;
# for an answer, `answer` (its text) and `start` (its first character in the paragraph); for a picked paragraph,
# `paragraph` (its index in the data). Scores recomputed from these keys must equal the reported scores.
PREDICTIONS = "predictions.json"
IDENTITY = "job.json"
PICKLED = frozenset({".pt", ".pth", ".bin", ".pkl"})  # optimizer, random states and arguments; weights are safetensors
# Files of Hugging Face's Trainer (transformers 5.24). Nothing reads the arguments. With fsdp, the weights are written a
# second time as pytorch_model_fsdp.bin.
TRAINING_STATE = re.compile(
    r"(optimizer|pytorch_model_fsdp)\.(pt|bin)|(scheduler|scaler)\.pt|rng_state\w*\.pth|training_args\.bin"
)
TRAINER_STATE, TRAINING_ARGUMENTS = "trainer_state.json", "training_args.bin"

Manifest = Mapping[str, Any]


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
    return without_pickles(load_json(checkpoint / MANIFEST))


def without_pickles(manifest: Manifest) -> dict[str, Any]:
    """Return the entries of a manifest without pickled files."""
    return {name: entry for name, entry in manifest.items() if Path(name).suffix not in PICKLED}


def without_state(manifest: Manifest) -> dict[str, Any]:
    """Return the entries of a manifest without the training state."""
    state = state_files(manifest)
    return {name: entry for name, entry in manifest.items() if name not in state}


def state_files(names: Collection[str]) -> set[str]:
    """Return those of a checkpoint's files that only resuming needs; none if Trainer has not written it.

    In a checkpoint of another program, files of these names may be something else.
    """
    return {name for name in names if TRAINING_STATE.fullmatch(name)} if TRAINER_STATE in names else set()


def has_state(names: Collection[str]) -> bool:
    """Return True if a checkpoint with these files has kept what a training needs to resume from it.

    Trainer always writes its arguments, so they are absent only where the training state was left out.
    """
    return TRAINER_STATE not in names or TRAINING_ARGUMENTS in names


def remove_state(checkpoint: Path) -> None:
    """Remove the training state from the checkpoint of a trial that has ended.

    A crash leaves the checkpoint complete, with the old or the new manifest. The next call removes what is left. Raises
    OSError, and ValueError for a manifest that is not readable.
    """
    manifest = _read_manifest(checkpoint)
    kept = without_state(manifest)
    if kept != manifest:
        with atomic(checkpoint / MANIFEST) as part:
            write_json(part, kept)
            fault_injection.point("state.manifest")
    for name in sorted(state_files([path.name for path in checkpoint.iterdir()])):
        fault_injection.point("state.delete")
        (checkpoint / name).unlink()


def copy_answering_part(checkpoint: Path, target: Path) -> Path:
    """Copy the files needed to answer questions to `target`, as an undamaged checkpoint.

    The copy has no training state and no pickles, so others can load it safely. Raises OSError if a copied file does
    not match the manifest.
    """
    return copy_part(checkpoint, target, without_pickles)


def copy_part(
    checkpoint: Path,
    target: Path,
    part: Callable[[Manifest], dict[str, Any]] = dict,
    copy: Callable[[Path, Path], object] | None = None,
) -> Path:
    """Copy the files that `part` leaves in the manifest to `target`, as an undamaged checkpoint. `copy` copies a file.

    Raises OSError if a copied file does not match the manifest, ValueError for a manifest that is not readable.
    """
    manifest = part(_read_manifest(checkpoint))
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with atomic(target, replace=True) as incoming:
        incoming.mkdir(mode=0o700)
        for name in manifest:
            (copy or shutil.copyfile)(checkpoint / name, incoming / name)
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
        manifest = _read_manifest(checkpoint)
    except (OSError, ValueError):
        return f"{checkpoint}: no readable {MANIFEST}"
    problem = next(filter(None, (_changed_file(checkpoint / name, name, of) for name, of in manifest.items())), None)
    if problem and _is_replaced(checkpoint, manifest):  # the trial has ended meanwhile: see `remove_state`
        return damage(checkpoint)
    return problem


def _changed_file(path: Path, name: str, expected: Any) -> str | None:
    if path.name != name or path.is_symlink():
        return f"{path}: not a regular file in the checkpoint"
    try:
        whole = path.is_file() and _describe(path) == expected
    except FileNotFoundError:  # deleted just now
        whole = False
    return None if whole else f"{path}: missing or changed since it was written"


def _is_replaced(checkpoint: Path, manifest: Manifest) -> bool:
    try:
        return _read_manifest(checkpoint) != manifest
    except (OSError, ValueError):
        return False


def _read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest. Raises OSError, and ValueError if it is not readable."""
    manifest = load_json(checkpoint / MANIFEST)
    if not isinstance(manifest, dict):
        raise ValueError(f"{checkpoint / MANIFEST}: holds no object")
    return manifest


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
    path.write_bytes(written_json(value))


def written_json(value: Any) -> bytes:
    """Return a value as `write_json` writes it."""
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

"""Hold a running sweep's parts: search space, ledger, machine and file locations."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Container
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from jobs.training.memory.notes import BATCH_SIZES
from sweeper.cluster.capacity import Machine
from sweeper.errors import ConfigError, EnvironmentFailure
from sweeper.ledger.ledger import Ledger
from sweeper.ledger.lock import LOCK_FILES
from sweeper.space.search_space import SearchSpace
from sweeper.space.sections import NAME
from sweeper.storage.checkpoint_store import holds_files, join_address

TRIALS = "trials"
# A file that lies in a sweep's folder while the trials of an earlier sweep are copied there. It holds `stored_as`.
CREATING = "creating"


@dataclass(frozen=True)
class Sweep:
    ledger: Ledger
    space: SearchSpace
    folder: Path
    machine: Machine
    checkpoints: str | None = None  # address that all machines reach; None for the sweep's folder

    @property
    def log(self) -> Path:
        """Return the file that receives the output of libraries."""
        return self.folder / "log.txt"

    @property
    def ray_folder(self) -> Path:
        return self.folder / "ray"

    @property
    def batch_sizes(self) -> Path:
        """Return the file in which the trials of all sweeps note the batches that run out of a GPU's memory."""
        return self.folder.parent / BATCH_SIZES

    def workdir(self, number: int) -> Path:
        return trial_folder(self.folder, number)

    def storage(self, number: int) -> str | None:
        """Return the address to which a trial's checkpoints are copied, or None."""
        return trial_storage(self.checkpoints, self.ledger.stored_as, number)


def trial_folder(folder: Path, number: int) -> Path:
    """Return the folder of a trial's checkpoints and logs."""
    return folder / TRIALS / f"{number:04d}"


def trial_storage(checkpoints: str | None, sweep: str, number: int) -> str | None:
    """Return the address of a trial's folder in `[storage] checkpoints`, or None without such storage."""
    return join_address(checkpoints, sweep, f"{number:04d}") if checkpoints else None


def sweep_folder(root: Path, name: str) -> Path:
    """Return the folder of the sweep called `name`. Create it, for this user only, if it is missing.

    >>> sweep_folder(Path("sweeps"), "qa_backbones")
    PosixPath('sweeps/qa_backbones')

    Resuming loads files from the folder, so only this user may write to it. Raises ConfigError for a name that is no
    plain folder name (it may come from a shared database). Raises EnvironmentFailure for a folder that is a link,
    belongs to another user, or is writable by others.
    """
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"sweep {name!r}: cannot name a folder; use 1 to 64 of A-Z a-z 0-9 . _ - and no leading dot")
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if problem := folder_problem(folder.lstat()):
        raise EnvironmentFailure(f"sweep {name}: its folder {folder} {problem}, or run it under another name")
    return folder


def set_aside(folder: Path, known: Container[int] | None) -> Path | None:
    """Move the trials that the ledger does not know to a new folder beside the sweep's: NAME.old, NAME.old-2, …

    `known` holds the numbers of the sweep's trials. None means a sweep that the ledger does not know: then everything
    moves but the lock. Returns the new folder, or None if no unknown trial has files. Requires the sweep's lock.
    """
    unknown = [trial for trial in _trial_folders(folder) if known is None or int(trial.name) not in known]
    if not unknown or (folder / CREATING).exists():
        return None
    entries = sorted(folder.iterdir(), key=_is_trials) if known is None else unknown
    names = (f"{folder.name}.old{f'-{n}' if n > 1 else ''}" for n in count(1))
    aside = next(path for path in map(folder.with_name, names) if not path.exists())
    for entry in entries:
        if entry.name not in LOCK_FILES:
            target = aside / entry.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.move(entry, target)
    return aside


def free_storage(checkpoints: str, folder: Path) -> str:
    """Return a name for a new sweep's folder in `[storage] checkpoints`: NAME.2, NAME.3, … if others hold files.

    These may belong to a sweep whose ledger is lost, or to another ledger. A creation that was cut short has noted its
    name.
    """
    noted = (folder / CREATING).read_text() if (folder / CREATING).exists() else ""
    names = (f"{folder.name}{f'.{n}' if n > 1 else ''}" for n in count(1))
    return noted or next(name for name in names if not holds_files(join_address(checkpoints, name)))


def _trial_folders(folder: Path) -> list[Path]:
    """Return the folders of trials that hold anything."""
    return [path for path in sorted((folder / TRIALS).glob("[0-9]*")) if path.name.isdigit() and any(path.rglob("*"))]


def _is_trials(path: Path) -> bool:
    """Return True for the folder of trials, which moves last: until then, the next start finds unknown trials."""
    return path.name == TRIALS


def folder_problem(found: os.stat_result) -> str | None:
    """Return the reason why other users could write to a folder, with the cure, or None. On Windows only links are
    checked."""
    if stat.S_ISLNK(found.st_mode):
        return "is a link; replace it by the folder"
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}; copy it, or `chown -R` it once you trust its files"
    if os.name == "posix" and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written to by others; `chmod go-w` it once you trust its files"
    return None

"""One sweep: its search space, its record, its machine, and where its files lie."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from sweeper.cluster.capacity import Machine
from sweeper.errors import ConfigError, EnvironmentFailure
from sweeper.ledger.ledger import Ledger
from sweeper.space.search_space import SearchSpace
from sweeper.space.sections import NAME
from sweeper.storage.checkpoints import join_address


@dataclass(frozen=True)
class Sweep:
    ledger: Ledger
    space: SearchSpace
    folder: Path
    machine: Machine
    checkpoints: str | None = None  # where all machines reach them, if not in the sweep's own folder

    @property
    def log(self) -> Path:
        """What libraries print while the sweep runs."""
        return self.folder / "log.txt"

    @property
    def ray_folder(self) -> Path:
        return self.folder / "ray"

    def workdir(self, number: int) -> Path:
        return trial_folder(self.folder, number)

    def storage(self, number: int) -> str | None:
        """Where a trial's checkpoints are copied to, if they are."""
        return trial_storage(self.checkpoints, self.ledger.name, number)


def trial_folder(folder: Path, number: int) -> Path:
    """A trial's own folder in its sweep's: its checkpoints and its log."""
    return folder / "trials" / f"{number:04d}"


def trial_storage(checkpoints: str | None, sweep: str, number: int) -> str | None:
    """A trial's own place in `[storage] checkpoints`."""
    return join_address(checkpoints, sweep, f"{number:04d}") if checkpoints else None


def sweep_folder(root: Path, name: str) -> Path:
    """The folder of the sweep called `name`, made for this user alone if it is not there.

    >>> own_folder(Path("sweeps"), "qa_backbones")
    PosixPath('sweeps/qa_backbones')

    To go on with a sweep is to load what its folder holds. Raises ConfigError for a name, which may come from a
    database that others write to, that is no plain folder's; EnvironmentFailure for a folder that is a link,
    somebody else's, or that others may write to.
    """
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"sweep {name!r}: cannot name a folder; use 1 to 64 of A-Z a-z 0-9 . _ - and no leading dot")
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if problem := folder_problem(folder.lstat()):
        raise EnvironmentFailure(f"sweep {name}: its folder {folder} {problem}, or run it under another name")
    return folder


def folder_problem(found: os.stat_result) -> str | None:
    """Why a folder is not this user's alone to write to, with the cure; None when it is. Windows has its own rules."""
    if stat.S_ISLNK(found.st_mode):
        return "is a link; put the folder itself there"
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}; copy it, or `chown -R` it once you trust what it holds"
    if os.name == "posix" and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written to by others; `chmod go-w` it once you trust what it holds"
    return None

"""Find a checkpoint by the name a person gives it."""

from __future__ import annotations

from pathlib import Path

from jobs.checkpoint import MANIFEST
from sweeper.errors import ConfigError
from sweeper.ledger.database import existing_storage
from sweeper.ledger.lookup import find_trial, whole
from sweeper.release.champions import CHAMPION, champion
from sweeper.storage import checkpoints
from sweeper.storage.settings import Stores


def find_checkpoint(text: str, stores: Stores) -> Path:
    """The checkpoint folder that `text` means: one on disk, a job's champion, or a trial's.

    >>> find_checkpoint("qa@champion", stores)
    PosixPath('…/champions/qa/qa_backbones-3-1f0c2e9a')

    Raises ConfigError when nothing of this name is there, EnvironmentFailure when it is damaged.
    """
    if checkpoints.is_remote(text):
        return checkpoints.local(text, stores.root)
    if folder := _folder(text):
        return whole(folder)
    job, mark, alias = text.partition("@")
    if mark and alias != CHAMPION:
        raise ConfigError(f"checkpoint {text}: there is no alias {alias!r}; write {job}@{CHAMPION}")
    if mark:
        return champion(job, stores)
    return find_trial(text, existing_storage(stores.ledger)).checkpoint(stores.root)


def _folder(text: str) -> Path | None:
    """The folder that `text` is the path of, if it is meant as one."""
    try:
        folder = Path(text).expanduser()
        meant = (folder / MANIFEST).is_file() or (folder.is_dir() and text.startswith((".", "/", "~")))
    except (OSError, RuntimeError):  # a name too long, or ~somebody who is not there
        return None
    return folder if meant else None

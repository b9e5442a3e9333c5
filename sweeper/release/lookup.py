"""Find a checkpoint by the name that a user writes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from jobs import JOBS
from jobs.checkpoint import MANIFEST
from sweeper.errors import ConfigError
from sweeper.ledger.database import LedgerStorage, existing_storage
from sweeper.ledger.ledger import sweep_names
from sweeper.ledger.lookup import Trial, find_trial, split, whole
from sweeper.release.champions import CHAMPION, champion
from sweeper.space.reading import import_job
from sweeper.storage import checkpoint_store
from sweeper.storage.identity import places_of
from sweeper.storage.settings import Stores


def find_checkpoint(text: str, stores: Stores) -> Path:
    """Return the checkpoint folder for a path, a bucket address, `JOB@champion`, a sweep or SWEEP/NUMBER.

    >>> find_checkpoint("qa@champion", stores)
    PosixPath('…/champions/qa/qa_backbones-3-1f0c2e9a')

    Raises ConfigError when nothing has this name, EnvironmentFailure when the checkpoint is damaged.
    """
    if checkpoint_store.is_remote(text):
        return checkpoint_store.local(text, stores.root)
    if folder := checkpoint_folder(text):
        return whole(folder)
    job, mark, alias = text.partition("@")
    if mark and alias != CHAMPION:
        raise ConfigError(f"checkpoint {text}: there is no alias {alias!r}; write {job}@{CHAMPION}")
    if mark:
        return champion(job, stores)
    return named_trial(text, stores).checkpoint(stores.root)


def named_trial(text: str, stores: Stores) -> Trial:
    """Return the trial called SWEEP or SWEEP/NUMBER.

    Raises ConfigError when there is none; if a folder has this name, the error tells that it holds no checkpoint.
    """
    if _is_local_folder(text) and not _is_sweep(split(text)[0], stores):
        raise ConfigError(f"checkpoint {text}: the folder holds no {MANIFEST}; name the folder of a trial's checkpoint")
    return find_trial(text, _storage(stores))


def _is_sweep(name: str, stores: Stores) -> bool:
    with suppress(ConfigError):  # there is no ledger yet
        return name in sweep_names(_storage(stores))
    return False


def _storage(stores: Stores) -> LedgerStorage:
    return existing_storage(stores.ledger, places_of(stores))


def find_answering_checkpoint(text: str, stores: Stores) -> Path:
    """Return the checkpoint folder that `find_checkpoint` finds. Raises ConfigError if its job is not in JOBS."""
    job, mark, _ = text.partition("@")
    if not mark and not checkpoint_store.is_remote(text) and not checkpoint_folder(text):
        job, mark = import_job(named_trial(text, stores).job).name, "a trial"
    if mark and job not in JOBS:
        raise ConfigError(f"checkpoint {text}: is of the job {job}; name a model of {', '.join(JOBS)}")
    return find_checkpoint(text, stores)


def _is_local_folder(text: str) -> bool:
    try:
        return Path(text).expanduser().is_dir()
    except (OSError, RuntimeError):  # the name is too long, or `~name` is not a user
        return False


def checkpoint_folder(text: str) -> Path | None:
    """Return `text` as a folder if a checkpoint is there; else None."""
    try:
        folder = Path(text).expanduser()
        return folder if os.path.lexists(folder / MANIFEST) else None
    except (OSError, RuntimeError):  # the name is too long, or `~name` is not a user
        return None

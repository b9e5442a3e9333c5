"""Find a checkpoint by the name that a user writes."""

from __future__ import annotations

from pathlib import Path

from jobs import JOBS
from jobs.checkpoint import MANIFEST
from sweeper.errors import ConfigError
from sweeper.ledger.database import existing_storage
from sweeper.ledger.lookup import find_trial, whole
from sweeper.release.champions import CHAMPION, champion
from sweeper.space.reading import import_job
from sweeper.storage import checkpoint_store
from sweeper.storage.settings import Stores


def find_checkpoint(text: str, stores: Stores) -> Path:
    """Return the checkpoint folder for a path, a bucket address, `JOB@champion`, a sweep or SWEEP/NUMBER.

    >>> find_checkpoint("qa@champion", stores)
    PosixPath('…/champions/qa/qa_backbones-3-1f0c2e9a')

    Raises ConfigError when nothing has this name, EnvironmentFailure when the checkpoint is damaged.
    """
    if checkpoint_store.is_remote(text):
        return checkpoint_store.local(text, stores.root)
    if folder := _folder(text):
        return whole(folder)
    job, mark, alias = text.partition("@")
    if mark and alias != CHAMPION:
        raise ConfigError(f"checkpoint {text}: there is no alias {alias!r}; write {job}@{CHAMPION}")
    if mark:
        return champion(job, stores)
    return find_trial(text, existing_storage(stores.ledger)).checkpoint(stores.root)


def find_answering_checkpoint(text: str, stores: Stores) -> Path:
    """Return the checkpoint folder that `find_checkpoint` finds. Raises ConfigError if its job is not in JOBS."""
    job, mark, _ = text.partition("@")
    if not mark and not checkpoint_store.is_remote(text) and not _folder(text):
        job, mark = import_job(find_trial(text, existing_storage(stores.ledger)).job).name, "a trial"
    if mark and job not in JOBS:
        raise ConfigError(f"checkpoint {text}: is of the job {job}; name a model of {', '.join(JOBS)}")
    return find_checkpoint(text, stores)


def _folder(text: str) -> Path | None:
    """Return `text` as a folder if a checkpoint is there or the text looks like a path; else None."""
    try:
        folder = Path(text).expanduser()
        is_path = (folder / MANIFEST).is_file() or (folder.is_dir() and text.startswith((".", "/", "~")))
    except (OSError, RuntimeError):  # the name is too long, or `~name` is not a user
        return None
    return folder if is_path else None

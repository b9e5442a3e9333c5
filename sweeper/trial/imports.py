"""Import a trial's job, and name the import where it ends the trial's process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs import get_job
from jobs.job import Job
from sweeper.process.import_path import append_folders
from sweeper.trial.handover import IMPORTING, LOG, TrialConfig, TrialFailure

UNSTARTED = "failed to import on the worker"  # part of a message of ray 2.60


def import_trial_job(config: TrialConfig) -> Job:
    """Return the trial's job. Raises ImportError if its module calls `sys.exit`, else what the module raises."""
    append_folders(config.folders)
    with _marked(Path(config.workdir) / IMPORTING):
        try:
            return get_job(config.job)
        except (SystemExit, GeneratorExit) as error:
            raise ImportError(f"{config.job} cannot be imported ({type(error).__name__}: {error})") from None


@contextmanager
def _marked(marker: Path) -> Iterator[None]:
    """Let a file exist within the block. A process that dies there leaves it."""
    marker.touch()
    try:
        yield
    finally:
        marker.unlink(missing_ok=True)


def import_failure(workdir: Path, job: str, error: str) -> TrialFailure | None:
    """Return the failure of a trial whose process died while it imported a module, or None.

    `error` is Ray's message, which holds the cause if the process could not import our own code.
    """
    if (workdir / IMPORTING).exists():
        return TrialFailure("crash", f"its process died while it imported {job}; {workdir / LOG} may hold the cause")
    _, unstarted, trace = error.partition(UNSTARTED)
    causes = re.findall(r"^\w[\w.]*(?:Error|Exit|Exception): .*$", trace, re.MULTILINE)
    return TrialFailure("error", f"its process cannot import sweeper ({causes[-1]})") if unstarted and causes else None

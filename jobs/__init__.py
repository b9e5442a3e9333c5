"""List the jobs in JOBS. A job's module is imported when `get_job` is first asked for it."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import cast

from jobs.job import Job

JOBS = {
    "longformer": "jobs.longformer:JOB",
    "mc": "jobs.mc:JOB",
    "qa": "jobs.qa:JOB",
}


def get_job(name: str) -> Job:
    """Return the job that JOBS lists as `name`, or the object at the import path `package.module:NAME`.

    >>> get_job("qa").name
    'qa'

    Python searches the current folder last for an import path, so the folder's files never hide installed packages.
    Raises KeyError for an unknown name, ImportError for a missing module, AttributeError for a missing object.
    """
    if ":" in name and (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    path = name if ":" in name else JOBS[name]
    module, _, attribute = path.partition(":")
    return cast(Job, getattr(import_module(module), attribute))

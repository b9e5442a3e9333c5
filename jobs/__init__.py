"""What a trial does. JOBS names the jobs; each is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from jobs.job import Job

JOBS = {
    "longformer": "jobs.longformer:JOB",
    "mc": "jobs.mc:JOB",
    "qa": "jobs.qa:JOB",
}


def get_job(name: str) -> Job:
    """The job called `name` in JOBS, or the one at an import path `package.module:NAME`.

    >>> get_job("qa").name
    'qa'

    Raises KeyError for an unknown name; ImportError or AttributeError when the path leads nowhere.
    """
    path = name if ":" in name else JOBS[name]
    module, _, attribute = path.partition(":")
    return cast(Job, getattr(import_module(module), attribute))

"""Train any `Task` with Hugging Face's Trainer. Importing this package does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from jobs.job import Report
from jobs.params import TrainingParams
from jobs.task import Task
from jobs.timing import START, phase


def train(
    task: Task,
    params: TrainingParams,
    data: str,
    workdir: Path,
    report: Report,
    resume_from: Path | None = None,
) -> None:
    """Train one model and report every evaluation with a complete checkpoint; `jobs.job.Job` has the arguments.

    Raises ParamError when the params do not fit the number of workers.
    """
    with phase(START):  # importing torch takes seconds
        from jobs.training.trainer import run_training

    run_training(task, params, data, workdir, report, resume_from)


def train_function(task: Task) -> Callable[..., None]:
    """Return the `train` function of a job whose Task is `task`."""
    return partial(train, task)

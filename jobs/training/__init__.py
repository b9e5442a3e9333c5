"""Train any `Task` with Hugging Face's Trainer. Importing this package does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from jobs.backbone.names import SCRATCH
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


def suits_function(task: Task, encoder: bool = False) -> Callable[[TrainingParams, str], tuple[str, ...]]:
    """Return the `suits` function of a job whose Task is `task`; with `encoder` it refuses decoders."""

    def suits(params: TrainingParams, data: str) -> tuple[str, ...]:
        if SCRATCH.fullmatch(params.backbone) and "@" not in params.backbone:
            return ()  # torch and transformers need not be imported
        from jobs.training.dry_run import try_backbone

        return try_backbone(task, params, data, encoder)

    return suits

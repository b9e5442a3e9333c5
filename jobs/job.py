"""Define the contract between a job (code that trains and scores one trial) and the program that runs it.

This module imports nothing of this project."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from jobs.task import Task

Direction = Literal["max", "min"]
# Keys in the metadata of a params field; `jobs.params.knob` describes them.
DEFINES_METRICS = "defines_metrics"
MEMORY_ONLY = "memory_only"
STANDS_FOR = "stands_for"
REPLACED_BY = "replaced_by"


class Report(Protocol):
    """Receive the metrics of one evaluation. Every rank calls it after every evaluation, with the same arguments.

    metrics     the metrics that the job declares, and `epoch`: how many epochs of training are done, as a float
    checkpoint  a complete folder under the trial's workdir; rank 0 has written it before any rank reports

    A report may also have a method `store(checkpoint)`. A job may call it on rank 0 from another thread, as soon as the
    checkpoint is complete, so that the upload does not delay the report.
    """

    def __call__(self, metrics: dict[str, float], checkpoint: Path | None = None) -> None: ...


class ParamError(ValueError):
    """Refuse a parameter that is wrong by itself or does not fit the others.

    `key` is the name of the parameter, or `workers` or `gpus`.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class Job:
    """Describe one kind of training.

    name     the job's name, and the name under which its models are registered
    params   a frozen dataclass with every parameter and its default; a search space may set these and no others. It
             has at least `backbone`, `seed` and `num_train_epochs` and raises ParamError for values that do not fit
             together. A field whose metadata has `defines_metrics: True` changes what a metric means, so all trials
             of a sweep must have the same value; `jobs.params.knob` writes this and other metadata
    metrics  the metrics in every report, each with the direction in which it gets better: "max" or "min"
    train    train(params, data, workdir, report, resume_from=None): trains one model and calls `report(metrics,
             checkpoint)` after every evaluation. For a Task, `jobs.training.train_function(task)` returns it.
             data         the location of a data set, for `jobs.dataset.data.read_data`
             workdir      an existing folder that only this trial uses; trials of a sweep share its parent folder
             report       a `Report`
             resume_from  a checkpoint to continue from, perhaps written by another number of workers
             With several workers, each calls `train` with the same arguments. Their process group exists already, or
             RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT are set. All workers can read workdir and
             resume_from. The number of workers does not change the effective batch size of the params. Raises
             ParamError when the params do not fit the number of workers
    fetch    fetch(backbone): downloads a backbone before trials start; raises RuntimeError with a one-line reason
    smaller  smaller(params, workers): returns params for the same training with less memory, or None if there are
             none; a trial that ran out of memory is repeated with them
    check    check(params, workers, gpus): raises ParamError when the params do not fit this number of workers, or this
             number of GPUs per worker (None if it is not set)
    idle     idle(backbone): returns the parameters that have no effect with this backbone, each with the reason; never
             uses the network
    task     the Task that `train` trains; needed for answering questions with a trained model
    reads    True if the job marks the answer inside a paragraph. Multiple-choice questions, whose answers are whole
             options, are then refused before a sweep
    suits    suits(params, data): tries `params.backbone` on the data set before a sweep starts, once for each backbone,
             and returns lines to show; raises RuntimeError with a one-line reason if no trial could train it. For a
             Task, `jobs.training.suits_function(task)` returns it. By default nothing is tried
    lengths  lengths(params, data): returns the estimated tokens of all inputs, a `jobs.dataset.lengths.InputLengths`,
             for a forecast of the time. None for a job whose time is known from earlier trials only
    """

    name: str
    params: type
    metrics: Mapping[str, Direction]
    train: Callable[..., None]
    fetch: Callable[[str], None] = lambda _: None
    smaller: Callable[[Any, int], Any] = lambda _, workers: None
    check: Callable[[Any, int, float | None], None] = lambda _, workers, gpus: None
    task: Task | None = None
    idle: Callable[[str], Mapping[str, str]] = lambda _: {}
    reads: bool = False
    suits: Callable[[Any, str], Sequence[str]] = lambda params, data: ()
    lengths: Callable[[Any, Any], Any] | None = None

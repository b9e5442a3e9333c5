"""The contract between a job and whoever runs it.

A job is data plus one function, so that a toy with a known optimum can stand for training wherever
the function itself is not the subject. This module is a leaf: it imports nothing of the project.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from jobs.task import Task

Direction = Literal["max", "min"]


class Report(Protocol):
    """Called after every evaluation, by every rank.

    `metrics` holds the job's declared metrics and `epoch`, the share of training done so far in
    epochs. `checkpoint` is a complete folder that lies under the trial's workdir. All ranks report the same
    metrics and the same folder, which rank 0 has written before any of them reports.
    """

    def __call__(self, metrics: dict[str, float], checkpoint: Path | None = None) -> None: ...


class ParamError(ValueError):
    """A parameter that is wrong by itself or beside the others; `key` names it, or `workers` or `gpus`."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class Job:
    """One kind of training.

    name     also the registered model's name
    params   frozen dataclass: every knob with its default, which is what a search space may set. It has
             at least `backbone`, `seed` and `num_train_epochs`, and raises ParamError for values that
             do not fit together
    metrics  what every report holds, and whether more or less of it is better
    fetch    makes one backbone available to trials, or raises a RuntimeError of one line that says why not
    train    train(params, data, workdir, report, resume_from=None); `data` is the location that
             `jobs.data.read` understands, `workdir` an existing folder of the trial's own, whose
             parent the trials of a sweep share (features are cached there). Several workers train one model
             when each calls it with the same arguments: their process group is there already, or RANK,
             WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT are in the environment; the workdir and what
             they resume from lie where all of them see it. The effective batch stays what the params say. A
             checkpoint may be gone on from with another number of workers. ParamError where the params do
             not fit their number
    smaller  from params and the number of workers to params of the same training in less memory; None where there is
             no less
    check    check(params, workers, gpus): raises ParamError where the params do not fit so many workers, or GPUs for
             each of them, None where nobody has said how many
    """

    name: str
    params: type
    metrics: Mapping[str, Direction]
    train: Callable[..., None]
    fetch: Callable[[str], None] = lambda _: None
    smaller: Callable[[Any, int], Any] = lambda _, workers: None
    check: Callable[[Any, int, float | None], None] = lambda _, workers, gpus: None
    task: Task | None = None

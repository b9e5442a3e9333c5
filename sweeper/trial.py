"""What happens in a trial's own process: the job runs, and what it reports goes to the driver.

Knows nothing of the ledger or the tracker. Tune keeps the process for the next trial, so whatever is
set here is set again at every start.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs import get_job

FAILURE = "failure.json"
LOG = "log.txt"


@dataclass(frozen=True)
class Assignment:
    """All a trial's process is told. Plain values, since they travel.

    job          as `jobs.get_job` takes it
    params       every field of the job's params
    workdir      the trial's own folder
    cpus, gpus   what is reserved for it; it uses a thread for each whole CPU
    resume_from  the checkpoint to go on from
    """

    number: int
    job: str
    params: Mapping[str, Any]
    data: str
    workdir: str
    cpus: float
    gpus: float
    resume_from: str | None = None


class Diverged(ArithmeticError):
    """A metric is no longer a finite number."""


class Unreported(ValueError):
    """A job has not reported what it declares."""


def run(config: Mapping[str, Any]) -> None:
    """The trainable that Tune calls: `config` is an Assignment as a dict."""
    assignment = Assignment(**config)
    workdir = Path(assignment.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / FAILURE).unlink(missing_ok=True)
    with output_to(workdir / LOG), noted_failure(workdir):
        train_in_process(assignment)


def train_in_process(assignment: Assignment) -> None:
    """One worker, in this very process: Ray Train's local mode, which starts nothing."""
    import torch
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    torch.set_num_threads(max(1, int(assignment.cpus)))
    trainer = TorchTrainer(
        worker,
        train_loop_config=asdict(assignment),
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(storage_path=assignment.workdir),
    )
    trainer.fit()


def worker(config: Mapping[str, Any]) -> None:
    """What every worker of a trial runs: the job's `train`."""
    assignment = Assignment(**config)
    job = get_job(assignment.job)
    params = job.params(**assignment.params)
    resume_from = Path(assignment.resume_from) if assignment.resume_from else None
    reporter = Reporter(job.metrics)
    job.train(params, assignment.data, Path(assignment.workdir), reporter, resume_from)
    if reporter.epoch < params.num_train_epochs:
        raise Unreported(f"the job ended after epoch {reporter.epoch:g} of {params.num_train_epochs}")


class Reporter:
    """The job's `report`: checks what it is given, adds `seconds`, and hands it to Tune.

    A checkpoint travels as its path. Tune would copy the folder, and the ledger needs only to know where it is.
    """

    def __init__(self, declared: Mapping[str, Any]) -> None:
        self.declared = declared
        self.began = time.monotonic()
        self.epoch = 0.0

    def __call__(self, metrics: dict[str, float], checkpoint: Path | None = None) -> None:
        from ray import tune

        check(metrics, self.declared)
        self.epoch = metrics["epoch"]
        seconds = time.monotonic() - self.began
        tune.report({**metrics, "seconds": seconds, "checkpoint": str(checkpoint) if checkpoint else None})


def check(metrics: Mapping[str, float], declared: Mapping[str, Any]) -> None:
    """Raises Unreported for a metric that is not there, Diverged for one that is not finite."""
    if missing := [name for name in (*declared, "epoch") if name not in metrics]:
        raise Unreported(f"the job did not report {', '.join(missing)}")
    if broken := {name: metrics[name] for name in declared if not math.isfinite(metrics[name])}:
        values = ", ".join(f"{name} is {value}" for name, value in broken.items())
        raise Diverged(f"{values} at epoch {metrics['epoch']:g}")


@contextmanager
def noted_failure(workdir: Path) -> Iterator[None]:
    """Leaves the reason for a failure where the driver finds it, and the traceback in the log."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        (workdir / FAILURE).write_text(json.dumps({"reason": reason}, ensure_ascii=False), encoding="utf-8")
        raise


def failure_reason(workdir: Path) -> str:
    """Why a trial failed, for the driver. Without a note the process died before it could leave one."""
    try:
        return str(json.loads((workdir / FAILURE).read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, KeyError):
        return "its process died without a word; out of memory, perhaps"


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Sends all this process prints to a file, what C++ libraries print included."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, stream in zip(saved, (1, 2), strict=True):
            os.dup2(descriptor, stream)
            os.close(descriptor)
        os.close(target)

"""What happens in a trial's own process: the job runs, and what it reports goes to the driver.

Knows nothing of the ledger or the tracker. Tune keeps the process for the next trial, so whatever is
set here is set again at every start.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from jobs import get_job
from jobs.files import causes, disk_trouble
from jobs.timing import START, TRAINING, WAITING, Stopwatch, phase, timed_by
from sweeper.process.output import output_to
from sweeper.secrets import redacted
from sweeper.storage import checkpoints
from sweeper.trial.handover import LOG, FailureKind, TrialConfig, TrialFailure, write_failure


class Diverged(ArithmeticError):
    """A metric is no longer a finite number."""


class TrialError(RuntimeError):
    """What Ray is told of a trial's failure: the reason without its secrets."""


class MissingReport(ValueError):
    """A job has not reported what it declares."""


def train_in_process(assignment: TrialConfig) -> None:
    """One worker, in this very process: Ray Train's local mode, which starts nothing."""
    import torch
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    torch.set_num_threads(max(1, int(assignment.cpus)))
    trainer = TorchTrainer(
        run_job,
        train_loop_config=asdict(assignment),
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(storage_path=assignment.workdir),
    )
    trainer.fit()


def run_job(config: Mapping[str, Any]) -> None:
    """What every worker of a trial runs: the job's `train`."""
    assignment = TrialConfig(**config)
    job = get_job(assignment.job)
    params = job.params(**assignment.params)
    resume_from = usable_checkpoint(assignment)
    print(f"trial {assignment.number}: {f'goes on from {resume_from.name}' if resume_from else 'begins'}")
    rank = int(os.environ["RANK"]) if assignment.workers > 1 else 0
    reporter = TuneReporter(job.metrics, assignment.storage, rank, assignment.workers)
    with timed_by(reporter.watch), phase(TRAINING):
        job.train(params, assignment.data, Path(assignment.workdir), reporter, resume_from)
    if reporter.epoch < params.num_train_epochs:
        raise MissingReport(f"the job ended after epoch {reporter.epoch:g} of {params.num_train_epochs}")


def usable_checkpoint(assignment: TrialConfig) -> Path | None:
    """The newest checkpoint that is whole, on this machine; None to begin afresh."""
    for address in filter(None, (assignment.resume_from, *assignment.earlier)):
        if not checkpoints.is_remote(address):
            return Path(address)
        try:
            return checkpoints.fetch_checkpoint(address, Path(assignment.workdir) / checkpoints.name_of(address))
        except checkpoints.Damaged as error:
            print(f"trial {assignment.number}: checkpoint {error}; goes back to the one before")
    return None


def store_checkpoint(checkpoint: Path, storage: str | None) -> str:
    """A checkpoint's address once it is where all machines reach it. Of the copies here only this one stays, for a
    trial that goes on on this machine."""
    if storage is None:
        return str(checkpoint)
    address = checkpoints.deposit(checkpoint, storage)
    for older in checkpoint.parent.glob("checkpoint-*"):
        if older != checkpoint:
            shutil.rmtree(older, ignore_errors=True)
    return address


class TuneReporter:
    """The job's `report`: checks what it is given, adds `seconds` and `timing`, and hands it to Tune.

    A checkpoint travels as its address. Tune would copy the folder, and the ledger needs only to know where it is.
    Of several workers the first one's report counts. The others wait until it has been heard, so that none is an
    epoch ahead when the trial is stopped. They wait as long as it takes: NCCL would end them after ten minutes.
    """

    def __init__(
        self, declared: Mapping[str, Any], storage: str | None = None, rank: int = 0, workers: int = 1
    ) -> None:
        self.declared = declared
        self.storage = storage
        self.rank = rank
        self.workers = workers
        self.began = time.monotonic()
        self.watch = Stopwatch(START)
        self.epoch = 0.0
        self.group: Any = None

    def __call__(self, metrics: dict[str, float], checkpoint: Path | None = None) -> None:
        if self.workers > 1 and self.group is None:
            self.group = waiting_group()
        if self.rank == 0:
            check_metrics(metrics, self.declared)
            self.tell(metrics, checkpoint)
        if self.group is not None:
            import torch.distributed

            torch.distributed.barrier(self.group)
        self.epoch = metrics.get("epoch", self.epoch)

    def tell(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        from ray import tune

        with phase("checkpoints"):
            address = store_checkpoint(checkpoint, self.storage) if checkpoint else None
        told = {"seconds": time.monotonic() - self.began, "timing": self.watch.taken()}
        with phase(WAITING):
            tune.report({**metrics, **told, "checkpoint": address})


def waiting_group() -> Any:
    """All workers once more, who wait for each other on the CPU, however long an upload takes."""
    import torch.distributed

    return torch.distributed.new_group(backend="gloo", timeout=timedelta(days=1))


def check_metrics(metrics: Mapping[str, float], declared: Mapping[str, Any]) -> None:
    """Raises MissingReport for a metric that is not there, Diverged for one that is not finite."""
    if missing := [name for name in (*declared, "epoch") if name not in metrics]:
        raise MissingReport(f"the job did not report {', '.join(missing)}")
    if broken := {name: metrics[name] for name in declared if not math.isfinite(metrics[name])}:
        values = ", ".join(f"{name} is {value}" for name, value in broken.items())
        raise Diverged(f"{values} at epoch {metrics['epoch']:g}")


@contextmanager
def recorded_failure(workdir: Path) -> Iterator[None]:
    """Leaves the reason for a failure where the driver finds it, and the traceback in the log."""
    try:
        yield
    except Exception as error:
        reason = redacted(" ".join(f"{type(error).__name__}: {error}".split()))
        full = storage_failure(error) or disk_trouble(error, workdir)
        if not lost_connection(error):
            write_failure(workdir, TrialFailure("disk", full) if full else TrialFailure(failure_kind(error), reason))
        with suppress(OSError), output_to(workdir / LOG):
            print(redacted(traceback.format_exc()), file=sys.stderr)
        raise TrialError(reason) from None  # Ray writes down what it is given


def storage_failure(error: Exception) -> str | None:
    """What the checkpoints' storage has to do with an error."""
    return next((str(one) for one in causes(error) if isinstance(one, checkpoints.StorageError)), None)


def lost_connection(error: Exception) -> bool:
    """Whether a worker only felt that another one was gone, which has left word of it unless it died."""
    return any(kind.__name__ == "DistError" for kind in type(error).__mro__) or "gloo/transport" in str(error)


def failure_kind(error: Exception) -> FailureKind:
    """PyTorch says `out of memory` of its own and of CUDA's errors; on the CPU `can't allocate memory`."""
    text = str(error).lower()
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return "memory"
    return "error"

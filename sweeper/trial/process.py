"""Run a job in a trial's own process and send its reports to the driver.

All functions run in the trial's process and use neither ledger nor MLflow. Tune reuses a process for the next trial, so
each trial sets the state of the process again.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from jobs.files import causes, disk_trouble
from jobs.job import ParamError
from jobs.timing import START, TRAINING, WAITING, Stopwatch, epochs_told_to, phase, timed_by
from jobs.training.conditions import Conditions, conditions_in, record_conditions, recorded_conditions
from jobs.training.memory.notes import notes_in
from jobs.training.memory.shortage import out_of_memory
from sweeper.process.cgroups import kernel_kills, memory_state
from sweeper.process.output import output_to
from sweeper.secrets import redacted
from sweeper.storage import checkpoint_store
from sweeper.trial.gpu import UnusableGpu, check_gpu, forget_peak, peak_memory, share_gpu
from sweeper.trial.handover import (
    LOG,
    RESUMED,
    FailureKind,
    TrialConfig,
    TrialFailure,
    epoch_file,
    this_node,
    write_failure,
)
from sweeper.trial.imports import import_trial_job
from sweeper.trial.memory import kernel_failure

# What CUDA, its libraries and its driver say when the device, its driver or another worker failed, in lower case. The
# process cannot use CUDA any more, but the same training in a new one may succeed. An assertion on the device, such as
# an index out of range, and a missing kernel would come again, so these are errors.
CRASH_TEXTS = (
    "unspecified launch failure",
    "illegal memory access",
    "illegal instruction was encountered",
    "misaligned address",
    "launch timed out",
    "busy or unavailable",
    "uncorrectable ecc error",
    "hardware stack error",
    "cuda error: unknown error",
    "status_execution_failed",
    "status_internal_error",
    "nccl error",
    "nccl communicator was aborted",
    "nvrm: xid",
    "fallen off the bus",
    "gpu is lost",
)


class Diverged(ArithmeticError):
    """Signal that a metric is not finite."""


class TrialError(RuntimeError):
    """Tell Ray that a trial failed, with a reason that contains no secrets."""


class EarlyExit(RuntimeError):
    """Signal that a job called `sys.exit`, which would look as if Tune had stopped the trial."""


class MissingReport(ValueError):
    """Signal that a job did not report a metric or an epoch that it declares."""


def train_in_process(config: TrialConfig) -> None:
    """Train one worker in this process, with the local mode of Ray Train (`num_workers=0`, ray 2.60)."""
    share_gpu(config.gpus)
    check_gpu(config.gpus)
    forget_peak()
    import torch
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    torch.set_num_threads(max(1, int(config.cpus)))
    trainer = TorchTrainer(
        lambda: run_job(config),
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(storage_path=config.workdir),
    )
    trainer.fit()


def run_job(config: TrialConfig) -> None:
    """Call the job's `train` in a worker process. Raises MissingReport if it ends before the last epoch."""
    job = import_trial_job(config)
    params = job.params(**config.params)
    resume_from = usable_checkpoint(config)
    print(f"trial {config.number}: {f'resumes from {resume_from.name}' if resume_from else 'starts'}")
    rank = int(os.environ["RANK"]) if config.workers > 1 else 0
    name = resume_from.name if resume_from else None
    reporter = TuneReporter(job.metrics, config.storage, rank, config.workers, name)
    record_conditions(cpus=config.cpus, gpus=config.gpus, workers=config.workers)
    notes = notes_in(Path(config.notes) if config.notes else None)
    telling = epochs_of_first(rank, Path(config.workdir))
    with telling, timed_by(reporter.stopwatch), notes, phase(TRAINING):
        try:
            job.train(params, config.data, Path(config.workdir), reporter, resume_from)
        except SystemExit as error:
            if reporter.stopped:
                raise
            raise EarlyExit(f"the job called sys.exit({error.code!r})") from None
        except ParamError as error:
            if error.key == "precision" and config.gpus and config.workers == 1:  # another node's GPU may have it
                raise UnusableGpu(f"parameters.precision: {error}") from error
            raise
    if reporter.epoch < params.num_train_epochs:
        raise MissingReport(f"the job ended after epoch {reporter.epoch:g} of {params.num_train_epochs}")


@contextmanager
def epochs_of_first(rank: int, workdir: Path) -> Iterator[None]:
    """Let the first worker write to the trial's folder how far the job says that it is."""
    if rank:
        yield
        return
    with epoch_file(workdir) as write, epochs_told_to(write):
        yield


def usable_checkpoint(config: TrialConfig) -> Path | None:
    """Return the newest undamaged checkpoint, downloaded if it is remote; None to start from the pretrained model."""
    for address in filter(None, (config.resume_from, *config.earlier)):
        if not checkpoint_store.is_remote(address):
            return Path(address)
        try:
            return checkpoint_store.fetch_checkpoint(address, Path(config.workdir) / checkpoint_store.name_of(address))
        except checkpoint_store.Damaged as error:
            print(f"trial {config.number}: checkpoint {error}; tries the one before it")
    return None


def store_checkpoint(checkpoint: Path, storage: str | None) -> str:
    """Copy a checkpoint to `storage` and return its address there. Without `storage`, return its local path.

    Delete older local copies; the newest one stays, so that the trial can resume on this machine without a download.
    """
    if storage is None:
        return str(checkpoint)
    address = checkpoint_store.deposit(checkpoint, storage)
    for older in checkpoint.parent.glob("checkpoint-*"):
        if older != checkpoint:
            shutil.rmtree(older, ignore_errors=True)
    return address


class TuneReporter:
    """Send a job's metrics to Tune, with `seconds`, `timing` and `conditions` added. Jobs receive it as `report`.

    `seconds` and `timing` reach up to the report, which may come some steps after the evaluation.

    Only the address of a checkpoint is sent, since Tune would copy a folder. With several workers, only rank 0 reports.
    The others wait at a barrier until Tune has the report, so that no rank is an epoch ahead when Tune stops the trial.
    """

    def __init__(
        self,
        declared: Mapping[str, Any],
        storage: str | None = None,
        rank: int = 0,
        workers: int = 1,
        resumed_from: str | None = None,
    ) -> None:
        self.declared = declared
        self.storage = storage
        self.rank = rank
        self.workers = workers
        self.began = time.monotonic()
        self.stopwatch = Stopwatch(START)
        self.stored: dict[Path, str] = {}  # addresses of checkpoints that are stored and not reported yet
        self.epoch = 0.0
        self.first = {RESUMED: resumed_from}  # only the first report tells where this process began
        self.group: Any = None
        self.stopped = False  # Tune (ray 2.60) stops a trial with SystemExit

    def __call__(self, metrics: dict[str, float], checkpoint: Path | None = None) -> None:
        if self.workers > 1 and self.group is None:
            self.group = waiting_group()
        if self.rank == 0:
            check_metrics(metrics, self.declared)
            self.send(metrics, checkpoint)
        if self.group is not None:
            import torch.distributed

            torch.distributed.barrier(self.group)
        self.epoch = metrics.get("epoch", self.epoch)

    def store(self, checkpoint: Path) -> str:
        """Store a checkpoint before it is reported, and return its address. May be called in another thread."""
        self.stored[checkpoint] = store_checkpoint(checkpoint, self.storage)
        return self.stored[checkpoint]

    def send(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Store the checkpoint, unless that is done, and report to Tune. Called on rank 0 only."""
        from ray import tune

        with phase("checkpoints"):
            address = checkpoint and (self.stored.pop(checkpoint, None) or store_checkpoint(checkpoint, self.storage))
        taken = {"seconds": time.monotonic() - self.began, "timing": self.stopwatch.taken()}
        added = {**taken, "conditions": {**recorded_conditions(), **peak_memory()}}
        with phase(WAITING):
            try:
                tune.report({**metrics, **added, **self.first, "checkpoint": address})
            except SystemExit:
                self.stopped = True
                raise
        self.first = {}


def waiting_group() -> Any:
    """Return a gloo process group of all workers with a timeout of one day.

    NCCL's default of ten minutes may be too short for an upload.
    """
    import torch.distributed

    return torch.distributed.new_group(backend="gloo", timeout=timedelta(days=1))


def check_metrics(metrics: Mapping[str, float], declared: Mapping[str, Any]) -> None:
    """Raise MissingReport if a declared metric is absent, Diverged if one is not finite."""
    if missing := [name for name in (*declared, "epoch") if name not in metrics]:
        raise MissingReport(f"the job did not report {', '.join(missing)}")
    if broken := {name: metrics[name] for name in declared if not math.isfinite(metrics[name])}:
        values = ", ".join(f"{name} is {value}" for name, value in broken.items())
        raise Diverged(f"{values} at epoch {metrics['epoch']:g}")


@contextmanager
def recorded_failure(workdir: Path) -> Iterator[None]:
    """Record an exception's reason for the driver and its traceback in the log, then raise TrialError.

    Conditions that are noted inside the block are recorded with the reason.
    """
    kills = kernel_kills()
    conditions: Conditions = {}
    try:
        with conditions_in(conditions):
            yield
    except Exception as error:
        reason = redacted(" ".join(f"{type(error).__name__}: {error}".split()))
        refusal = storage_failure(error) or disk_trouble(error, workdir)
        if not lost_connection(error):
            failure = TrialFailure("disk", refusal) if refusal else job_failure(error, reason, kills)
            write_failure(workdir, failure._replace(conditions=conditions))
        with suppress(OSError), output_to(workdir / LOG):
            print(redacted(traceback.format_exc()), file=sys.stderr)
        raise TrialError(reason) from None  # without its cause, which may contain secrets: Ray logs the exception


def storage_failure(error: Exception) -> str | None:
    """Return the message of a StorageError among an error's causes, or None."""
    return next((str(one) for one in causes(error) if isinstance(one, checkpoint_store.StorageError)), None)


def lost_connection(error: Exception) -> bool:
    """Return True if a worker failed because it lost the connection to another worker.

    The other worker has recorded the cause, unless it was killed. NCCL reports want of its own memory as such a loss.
    """
    if failure_kind(error) == "memory":
        return False
    return any(kind.__name__ == "DistError" for kind in type(error).__mro__) or "gloo/transport" in str(error)


def job_failure(error: Exception, reason: str, kills: int) -> TrialFailure:
    """Return the failure of a job that raised an error; `kills` is the number of the kernel's kills at its start."""
    if lost_child(error) and (state := memory_state()).kills > kills:
        return kernel_failure(state)
    kind = failure_kind(error)
    return TrialFailure(kind, str(error), node=this_node()) if kind == "gpu" else TrialFailure(kind, reason)


def lost_child(error: Exception) -> bool:
    """Return True if a job failed because a process that it had started was killed."""
    return any(
        type(one).__name__ == "BrokenProcessPool"
        or getattr(one, "returncode", None) == -signal.SIGKILL  # of subprocess
        or "killed by signal: Killed" in str(one)  # torch 2.x: DataLoader
        for one in causes(error)
    )


def failure_kind(error: Exception) -> FailureKind:
    """Classify an error by its type and its message."""
    text = str(error).lower()
    if isinstance(error, Diverged):
        return "diverged"
    if out_of_memory(error):
        return "memory"
    if isinstance(error, RuntimeError) and any(one in text for one in CRASH_TEXTS):
        return "crash"
    return "gpu" if isinstance(error, UnusableGpu) else "error"

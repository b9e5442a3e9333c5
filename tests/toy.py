"""A job with a known optimum that stands for training: height is highest at learning_rate 1e-3.

Used as `job: tests.toy:JOB`. Each start notes in `starts` the epoch it goes on from, and in `ran_in` its process.
`trouble` makes a trial fail in a chosen way (`large` needs a batch that FITS, and so does the last worker of
`worker_large`; `die_done` is when all is reported), or wait after its second epoch until there is a file `go` in
`folder`, where it leaves its process id. An epoch takes `pace` seconds. Of several workers the first writes, and a
height is the mean over them all.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from jobs.checkpoint import publish
from jobs.job import Job, ParamError, Report

PATIENCE = 120.0
FLOOD = 5_000  # lines of 6,000 characters
FITS = 2  # at once on the pretended device


@dataclass(frozen=True, kw_only=True)
class ToyParams:
    backbone: str = "hill"
    seed: Annotated[int, Ge(0)] = 42
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    warmup_ratio: Annotated[float, Ge(0)] = 0.0
    num_train_epochs: Annotated[int, Ge(1)] = 3
    per_device_train_batch_size: Annotated[int, Ge(1)] = 8
    trouble: Literal[
        "none",
        "raise",
        "nan",
        "inf",
        "silent",
        "die",
        "no_metric",
        "wait",
        "large",
        "flood",
        "worker_dies",
        "worker_stuck",
        "worker_large",
        "die_done",
    ] = "none"
    folder: str = "."
    pace: Annotated[float, Ge(0)] = 0.0

    def __post_init__(self) -> None:
        if self.backbone not in ("hill", "valley"):
            raise ParamError("backbone", f"there is no backbone {self.backbone!r}")


def height(params: ToyParams, epoch: int) -> float:
    """Between 0 and 1; grows with the epoch, falls with the distance from the best learning rate."""
    distance = abs(math.log10(params.learning_rate) + 3)
    ceiling = 1.0 if params.backbone == "hill" else 0.6
    return ceiling * math.exp(-distance) * epoch / (epoch + 1)


def train(params: ToyParams, data: str, workdir: Path, report: Report, resume_from: Path | None = None) -> None:
    if params.trouble == "raise":
        raise RuntimeError("the hill is closed")
    if params.trouble == "flood":
        for _ in range(FLOOD):
            print("flood " * 1_000)
    if params.trouble == "die":
        os._exit(1)
    if params.trouble == "silent":
        return
    done = json.loads((resume_from / "state.json").read_text())["epoch"] if resume_from else 0
    if first():
        with (workdir / "starts").open("a") as starts:
            starts.write(f"{done}\n")
        (workdir / "ran_in").write_text(str(os.getpid()))
    for epoch in range(done + 1, params.num_train_epochs + 1):
        time.sleep(params.pace)
        if params.trouble == "large" and epoch == 2 and params.per_device_train_batch_size > FITS:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        value = mean({"nan": math.nan, "inf": math.inf}.get(params.trouble, height(params, epoch)))
        checkpoint = saved(workdir, epoch) if first() else None
        metrics = {} if params.trouble == "no_metric" else {"height": value, "eval_loss": 1 - value}
        report({**metrics, "epoch": float(epoch)}, checkpoint)
        if not first() and epoch == 1:
            worker_trouble(params)
        if params.trouble == "wait" and epoch == 2 and not done:
            wait(Path(params.folder), workdir.name)
    if params.trouble == "die_done":
        os._exit(1)


def saved(workdir: Path, epoch: int) -> Path:
    incoming = workdir / "incoming"
    incoming.mkdir(exist_ok=True)
    (incoming / "state.json").write_text(json.dumps({"epoch": epoch}))
    return publish(incoming, workdir, epoch)


def first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def mean(value: float) -> float:
    """Over all workers, which wait for each other here as those of a real training do."""
    if "RANK" not in os.environ:
        return value
    import torch.distributed

    total = torch.tensor([value], dtype=torch.float64)
    torch.distributed.all_reduce(total)
    return float(total) / torch.distributed.get_world_size()


def worker_trouble(params: ToyParams) -> None:
    """Of a worker that is not the first, after its first epoch, so that it happens once."""
    if params.trouble == "worker_large" and params.per_device_train_batch_size > FITS:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    if params.trouble in ("worker_dies", "worker_stuck"):
        os.kill(os.getpid(), {"worker_dies": signal.SIGKILL, "worker_stuck": signal.SIGSTOP}[params.trouble])


def wait(folder: Path, name: str) -> None:
    (folder / f"here-{name}").write_text(str(os.getpid()))
    deadline = time.monotonic() + PATIENCE
    while not (folder / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def smaller(params: ToyParams, workers: int) -> ToyParams | None:
    half = params.per_device_train_batch_size // 2
    return replace(params, per_device_train_batch_size=half) if half else None


JOB = Job("toy", ToyParams, {"height": "max", "eval_loss": "min"}, train, smaller=smaller)

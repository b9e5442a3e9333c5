"""A job with a known optimum that stands for training: height is highest at learning_rate 1e-3.

Used as `job: tests.toy:JOB`. Each start notes in `starts` the epoch it goes on from. `trouble` makes a trial fail in
a chosen way, or wait after its second epoch until there is a file `go` in `folder`, where it leaves its process id.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from jobs.checkpoint import publish
from jobs.job import Job, ParamError, Report

PATIENCE = 120.0


@dataclass(frozen=True, kw_only=True)
class ToyParams:
    backbone: str = "hill"
    seed: Annotated[int, Ge(0)] = 42
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    warmup_ratio: Annotated[float, Ge(0)] = 0.0
    num_train_epochs: Annotated[int, Ge(1)] = 3
    trouble: Literal["none", "raise", "nan", "inf", "silent", "die", "no_metric", "wait"] = "none"
    folder: str = "."

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
    if params.trouble == "die":
        os._exit(1)
    if params.trouble == "silent":
        return
    done = json.loads((resume_from / "state.json").read_text())["epoch"] if resume_from else 0
    with (workdir / "starts").open("a") as starts:
        starts.write(f"{done}\n")
    for epoch in range(done + 1, params.num_train_epochs + 1):
        value = {"nan": math.nan, "inf": math.inf}.get(params.trouble, height(params, epoch))
        incoming = workdir / "incoming"
        incoming.mkdir(exist_ok=True)
        (incoming / "state.json").write_text(json.dumps({"epoch": epoch}))
        checkpoint = publish(incoming, workdir, epoch)
        metrics = {} if params.trouble == "no_metric" else {"height": value, "eval_loss": 1 - value}
        report({**metrics, "epoch": float(epoch)}, checkpoint)
        if params.trouble == "wait" and epoch == 2 and not done:
            wait(Path(params.folder), workdir.name)


def wait(folder: Path, name: str) -> None:
    (folder / f"here-{name}").write_text(str(os.getpid()))
    deadline = time.monotonic() + PATIENCE
    while not (folder / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.01)


JOB = Job("toy", ToyParams, {"height": "max", "eval_loss": "min"}, train)

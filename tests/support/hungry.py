"""A job that holds memory for each row of its batch, from its second epoch on."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from jobs.checkpoint import publish
from jobs.job import Job, Report

ROW_SECONDS = 0.2  # memory grows slowly enough for Ray's memory monitor


@dataclass(frozen=True, kw_only=True)
class HungryParams:
    backbone: str = "none"
    seed: Annotated[int, Ge(0)] = 42
    num_train_epochs: Annotated[int, Ge(1)] = 2
    per_device_train_batch_size: Annotated[int, Ge(1)] = 8
    megabytes: Annotated[int, Ge(0)] = 0


def train(params: HungryParams, data: str, workdir: Path, report: Report, resume_from: Path | None = None) -> None:
    done = json.loads((resume_from / "state.json").read_text())["epoch"] if resume_from else 0
    for epoch in range(done + 1, params.num_train_epochs + 1):
        held = []
        for _ in range(params.per_device_train_batch_size if epoch > 1 else 0):
            held.append(bytearray(b"x") * (params.megabytes * 2**20))
            time.sleep(ROW_SECONDS)
        incoming = workdir / "incoming"
        incoming.mkdir(exist_ok=True)
        (incoming / "state.json").write_text(json.dumps({"epoch": epoch}))
        report({"height": float(epoch), "epoch": float(epoch)}, publish(incoming, workdir, epoch))


def smaller(params: HungryParams, workers: int) -> HungryParams | None:
    half = params.per_device_train_batch_size // 2
    return replace(params, per_device_train_batch_size=half) if half else None


JOB = Job("hungry", HungryParams, {"height": "max"}, train, smaller=smaller)

"""Define a job that only reports, so that a trial's time is the overhead of running it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt

from jobs.job import Job, Report


@dataclass(frozen=True, kw_only=True)
class IdleParams:
    backbone: str = "none"
    seed: Annotated[int, Ge(0)] = 42
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    num_train_epochs: Annotated[int, Ge(1)] = 1


def train(params: IdleParams, data: str, workdir: Path, report: Report, resume_from: Path | None = None) -> None:
    for epoch in range(1, params.num_train_epochs + 1):
        report({"score": params.learning_rate, "epoch": float(epoch)})


JOB = Job("idle", IdleParams, {"score": "max"}, train)

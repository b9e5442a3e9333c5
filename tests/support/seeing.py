"""A job that writes which GPUs its process sees: `tests.support.seeing:JOB`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from jobs.job import Job, Report


@dataclass(frozen=True, kw_only=True)
class SeeingParams:
    backbone: str = "none"
    seed: int = 42
    num_train_epochs: int = 1
    folder: str = "."


def train(params: SeeingParams, data: str, workdir: Path, report: Report, resume_from: Path | None = None) -> None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    (Path(params.folder) / f"seed-{params.seed}").write_text(visible)
    report({"seen": float(len(visible.split(","))), "epoch": 1.0})


JOB = Job("seeing", SeeingParams, {"seen": "max"}, train)

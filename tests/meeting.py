"""A job that ends when two of its trials have met, to show that trials run side by side: `tests.meeting:JOB`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from jobs.job import Job, Report

PATIENCE = 60.0


@dataclass(frozen=True, kw_only=True)
class MeetingParams:
    backbone: str = "none"
    seed: int = 42
    num_train_epochs: int = 1
    folder: str = "."
    alone: bool = False


def train(params: MeetingParams, data: str, workdir: Path, report: Report, resume_from: Path | None = None) -> None:
    import torch

    (Path(params.folder) / f"here-{workdir.name}").touch()
    deadline = time.monotonic() + PATIENCE
    met = params.alone
    while not met and time.monotonic() < deadline:
        met = len(list(Path(params.folder).glob("here-*"))) > 1
        time.sleep(0.01)
    report({"met": float(met), "threads": float(torch.get_num_threads()), "epoch": 1.0})


JOB = Job("meeting", MeetingParams, {"met": "max", "threads": "max"}, train)

"""A job that ends when some of its trials have met, to show that they run side by side: `tests.support.meeting:JOB`.

Its metric `crowd` is how many were there at once at that time.
"""

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
    size: int = 2


def train(params: MeetingParams, data: str, workdir: Path, report: Report, resume_from: Path | None = None) -> None:
    import torch

    folder = Path(params.folder)
    (folder / f"here-{workdir.name}").touch()
    present = folder / f"present-{workdir.name}"
    present.touch()
    deadline = time.monotonic() + PATIENCE
    met = params.alone
    while not met and time.monotonic() < deadline:
        met = len(list(folder.glob("here-*"))) >= params.size
        time.sleep(0.01)
    crowd = len(list(folder.glob("present-*")))
    present.unlink()
    threads = float(torch.get_num_threads())
    report({"met": float(met), "threads": threads, "crowd": float(crowd), "epoch": 1.0})


JOB = Job("meeting", MeetingParams, {"met": "max", "threads": "max", "crowd": "min"}, train)

"""Fail a toy trial with the environment's token in its message: `job: tests.support.canary:JOB`."""

from __future__ import annotations

import os
from pathlib import Path

from jobs.job import Job, Report
from tests import toy
from tests.toy import ToyParams

VARIABLE = "HF_TOKEN"


def train(params: ToyParams, data: str, workdir: Path, report: Report, resume_from: Path | None = None) -> None:
    if params.trouble == "raise":
        raise RuntimeError(f"401 for Authorization: Bearer {os.environ[VARIABLE]}")
    toy.train(params, data, workdir, report, resume_from)


JOB = Job("canary", ToyParams, toy.JOB.metrics, train)

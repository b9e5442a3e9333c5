"""Train a job that was written for version 0.1.0."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import get_job
from jobs.checkpoint import damage
from jobs.dataset.data import Data
from jobs.job import ParamError

PATH = "tests.support.job_0_1_0:JOB"


def test_it_is_found_by_its_import_path_and_refuses_params() -> None:
    job = get_job(PATH)
    assert (job.name, job.params().longest) == ("length", 12)
    with pytest.raises(ParamError, match="no question is as long"):
        job.params(longest=501)


def test_it_trains_and_reports_every_epoch(few: Data, tmp_path: Path) -> None:
    job, reports = get_job(PATH), list[tuple[dict[str, float], Path | None]]()
    params = job.params(backbone="scratch:1x32x2", num_train_epochs=2, seed=7)
    job.train(params, few.location, tmp_path, lambda metrics, checkpoint: reports.append((metrics, checkpoint)))
    assert [metrics["epoch"] for metrics, _ in reports] == [1.0, 2.0]
    assert all(job.metrics.keys() <= metrics.keys() for metrics, _ in reports)
    last = reports[-1][1]
    assert last is not None
    assert damage(last) is None

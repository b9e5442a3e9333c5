"""Mirror made-up trials to MLflow and read them back."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

from sweeper.ledger.record import TrialRecord
from sweeper.storage.settings import Stores
from sweeper.tracking.mirror import Mirror
from sweeper.tracking.runs import SweepInfo

SWEEP = SweepInfo(
    name="qa_backbones",
    key="/home/o'neill/sweeps/qa_backbones",
    objective="exact_match",
    tags={"torch": "2.13.0"},
    params={"search.trials": 3},
    texts={"search_space.yaml": "name: qa_backbones\n"},
)
STARTED = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def snapshot(number: int = 0, epochs: int = 4, **changes: Any) -> TrialRecord:
    """Return a finished trial whose exact_match grows by a tenth an epoch."""
    evaluations = [
        {"epoch": float(epoch), "exact_match": epoch / 10 + number / 100, "seconds": 30.0 * epoch}
        for epoch in range(1, epochs + 1)
    ]
    trial = TrialRecord(
        number=number,
        key=f"key{number}",
        state="COMPLETE",
        params={"backbone": "bert-base-chinese", "seed": number},
        evaluations=tuple(evaluations),
        value=evaluations[-1]["exact_match"] if evaluations else None,
        metrics={},
        checkpoint=None,
        reason=None,
        run_id=None,
        started=STARTED,
        ended=STARTED + timedelta(minutes=5),
    )
    return dataclasses.replace(trial, **changes)


def open_mirror(stores: Stores, sweep: SweepInfo = SWEEP, **options: Any) -> Mirror:
    """Open the mirror of sweep `qa_backbones` in a store."""
    return Mirror(stores.tracking, stores.artifacts, "qa_backbones", sweep, **options)


def client(stores: Stores) -> Any:
    """Return a client of the tracking store."""
    from mlflow import MlflowClient

    return MlflowClient(stores.tracking)


def history(stores: Stores, run: Any, metric: str) -> list[tuple[int, float]]:
    """Return a metric's (step, value) pairs in order."""
    points = client(stores).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value) for point in points)

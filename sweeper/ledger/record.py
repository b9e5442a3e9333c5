"""A trial as the ledger holds it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Any, Literal

from jobs.job import Direction

State = Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL"]
EVALUATION = "evaluation:"
INCIDENT = "incident:"
ORIGIN = "origin"
BREAKDOWNS = {"crash": "its process died", "node": "its machine was lost", "memory": "out of memory"}

Incident = Mapping[str, Any]


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the ledger has it.

    value        the objective at the best evaluation so far, None before the first
    metrics      all metrics at that evaluation
    evaluations  every report in order: the job's metrics, `epoch`, `seconds` since the trial began, `timing`: the
                 seconds of each phase since the report before
    checkpoint   the folder that belongs to the best evaluation
    reason       why a trial is PRUNED or FAIL
    repeat_of    the number of the trial that this one repeats with another seed
    test         its score on the test questions, where that was ever evaluated
    incidents    what it has survived, in order: `kind`, `reason`, the `epoch` it had reached, and the params that
                 are `changed` since
    origin       SWEEP/NUMBER where it was run, when it was taken over from another sweep
    """

    number: int
    key: str
    state: State
    params: Mapping[str, Any]
    evaluations: tuple[Mapping[str, Any], ...]
    value: float | None
    metrics: Mapping[str, float]
    checkpoint: str | None
    reason: str | None
    run_id: str | None
    started: datetime | None
    ended: datetime | None
    repeat_of: int | None = None
    test: float | None = None
    incidents: tuple[Mapping[str, Any], ...] = ()
    origin: str | None = None

    @property
    def used(self) -> Mapping[str, Any]:
        """The params it is trained with by now. `params` stay what was asked for, and what it is known by."""
        changes = [incident["changed"] for incident in self.incidents]
        return reduce(lambda params, changed: {**params, **changed}, changes, dict(self.params))

    @property
    def epochs(self) -> float:
        return float(self.evaluations[-1]["epoch"]) if self.evaluations else 0.0

    @property
    def trained(self) -> bool:
        """Whether every epoch is on record."""
        return bool(self.evaluations) and self.epochs >= self.params["num_train_epochs"]

    @property
    def seconds(self) -> float:
        return float(self.evaluations[-1]["seconds"]) if self.evaluations else 0.0


def trial_key(job: str, params: Mapping[str, Any], data_fingerprint: str) -> str:
    """What makes two trials the same one: job, every parameter with its seed, and the data."""
    text = json.dumps([job, dict(params), data_fingerprint], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def best_evaluation(
    evaluations: Sequence[Mapping[str, Any]], objective: str, direction: Direction
) -> Mapping[str, Any] | None:
    """The earliest evaluation with the best objective; None when there is none."""
    sign = 1 if direction == "max" else -1
    return max(evaluations, key=lambda evaluation: sign * evaluation[objective], default=None)


def incident_line(incident: Incident) -> str:
    """An incident in one line.

    >>> incident_line(record.incidents[0])
    'out of memory after epoch 1, goes on with per_device_train_batch_size 4'
    """
    what = BREAKDOWNS[incident["kind"]]
    settings = " and ".join(f"{name} {value}" for name, value in incident["changed"].items())
    return f"{what} after epoch {incident['epoch']:g}, goes on{f' with {settings}' if settings else ''}"

"""What becomes of a trial whose process broke down: it goes on, perhaps with less at once, or it has failed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from jobs import get_job
from sweeper.ledger.record import Incident, TrialRecord
from sweeper.space.search_space import SearchSpace, resources_of
from sweeper.trial.handover import TrialFailure


def retry_incident(record: TrialRecord, breakdown: TrialFailure, space: SearchSpace) -> Incident | None:
    """What to note of a trial that goes on all the same; None for one that has failed.

    A process that died is worth another try, as often as the budget allows, and one whose machine was lost too, on a
    budget of its own. Out of memory it would be again, so half as much is trained at once, with the same effective
    batch. Everything else would only happen again.
    """
    budget = {"crash": space.budget.retries, "node": space.budget.preemptions}
    if breakdown.kind in budget:
        tried = sum(one["kind"] == breakdown.kind for one in record.incidents)
        return _incident(record, breakdown, {}) if tried < budget[breakdown.kind] else None
    if breakdown.kind == "memory":
        changed = smaller_params(record, space)
        return _incident(record, breakdown, changed) if changed else None
    return None


def smaller_params(record: TrialRecord, space: SearchSpace) -> Mapping[str, Any]:
    """The params to change for the same training in less memory; none where there is no less."""
    job = get_job(space.job)
    resources = resources_of(space, record.params)
    smaller = job.smaller(job.params(**record.used), resources.workers if resources else 1)
    return {} if smaller is None else {k: v for k, v in asdict(smaller).items() if v != record.used[k]}


def _incident(record: TrialRecord, breakdown: TrialFailure, changed: Mapping[str, Any]) -> Incident:
    return {"kind": breakdown.kind, "reason": breakdown.reason, "epoch": record.epochs, "changed": dict(changed)}


def failure_line(record: TrialRecord, breakdown: TrialFailure) -> str:
    """Why a trial has failed for good, in one line."""
    tries = sum(one["kind"] == breakdown.kind for one in record.incidents) + 1
    if breakdown.kind in ("crash", "node") and tries > 1:
        return f"{breakdown.reason} ({tries} times)"
    if breakdown.kind == "memory" and (size := record.used.get("per_device_train_batch_size")):
        return f"{breakdown.reason} (with per_device_train_batch_size {size})"
    return breakdown.reason

"""Decide if a failed trial is retried, perhaps with less memory, or recorded as failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from jobs import get_job
from jobs.job import MEMORY_ONLY
from jobs.params import AUTO, TRAIN_BATCH
from sweeper.ledger.record import Incident, TrialRecord
from sweeper.space.search_space import SearchSpace, defaults_by_name, resources_of
from sweeper.trial.handover import TrialFailure


def retry_incident(
    record: TrialRecord, failure: TrialFailure, space: SearchSpace, others: int = 0, memory: int | None = None
) -> Incident | None:
    """Return the incident to record if a trial is retried; None if the failure is final.

    A crash is retried up to `budget.retries` times, a lost node up to `budget.preemptions` times. A trial that ran out
    of memory is retried with half the per-device batch and the same effective batch. Other failures would occur again
    and are not retried.

    others  number of trials that shared the memory with a trial that was killed: from now on no more run at once, and
            a trial whose batch cannot be halved is retried
    memory  bytes that the trials share, to be recorded with that number
    """
    budget = {"crash": space.budget.retries, "node": space.budget.preemptions}
    if failure.kind in budget:
        tried = sum(one["kind"] == failure.kind for one in record.incidents)
        return _incident(record, failure, {}) if tried < budget[failure.kind] else None
    if failure.kind == "memory":
        changed = smaller_params(record, failure, space)
        fewer = {"at_once": others, "memory": memory} if others else {}
        return {**_incident(record, failure, changed), **fewer} if changed or fewer else None
    return None


def smaller_params(record: TrialRecord, failure: TrialFailure, space: SearchSpace) -> Mapping[str, Any]:
    """Return the params to change so that the same training needs less memory; empty if no change can save memory."""
    job = get_job(space.job)
    resources = resources_of(space, record.params)
    params = job.params(**params_in_use(space.job, record, failure))
    smaller = job.smaller(params, resources.workers if resources else 1)
    used = all_params(space.job, record)
    return {} if smaller is None else {k: v for k, v in asdict(smaller).items() if v != used[k]}


def params_in_use(job: str, record: TrialRecord, failure: TrialFailure) -> Mapping[str, Any]:
    """Return the params with which a training failed, with the values that it chose itself in place of `auto`.

    It may also have begun to compute activations again. Its conditions tell, or else those of the last report.
    """
    own = {one.name for one in fields(get_job(job).params) if one.metadata.get(MEMORY_ONLY)}
    chosen = {k: v for k, v in {**record.conditions, **failure.conditions}.items() if k in own}
    used = all_params(job, record)
    return {**used, **{k: v for k, v in chosen.items() if used[k] == AUTO or used[k] is False}}


def all_params(job: str, record: TrialRecord) -> Mapping[str, Any]:
    """Return all parameters of a trial with the changes of its incidents. Those that are new since it began have their
    defaults."""
    return {**defaults_by_name(job), **record.used}


def allowed_at_once(records: Iterable[TrialRecord], memory: int | None) -> int | None:
    """Return the number of trials that may run at once with this many bytes of memory, as the incidents tell.

    Return None if nothing was recorded, or with more memory than then.
    """
    incidents = (incident for record in records for incident in record.incidents if "at_once" in incident)
    known = (one["at_once"] for one in incidents if memory is not None and memory <= (one["memory"] or 0))
    return min(known, default=None)


def _incident(record: TrialRecord, failure: TrialFailure, changed: Mapping[str, Any]) -> Incident:
    return {"kind": failure.kind, "reason": failure.reason, "epoch": record.epochs, "changed": dict(changed)}


def failure_line(job: str, record: TrialRecord, failure: TrialFailure) -> str:
    """Return the reason why a trial has failed, with the number of attempts or the batch size, in one line."""
    tries = sum(one["kind"] == failure.kind for one in record.incidents) + 1
    if failure.kind in ("crash", "node") and tries > 1:
        return f"{failure.reason} ({tries} times)"
    if failure.kind == "memory" and (size := params_in_use(job, record, failure).get(TRAIN_BATCH, AUTO)) != AUTO:
        return f"{failure.reason} (with {TRAIN_BATCH} {size})"
    return failure.reason

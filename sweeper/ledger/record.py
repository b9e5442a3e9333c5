"""Define the record of a trial, its key and its best evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import reduce
from typing import Any, Literal

from jobs import get_job
from jobs.job import STANDS_FOR, Direction
from jobs.params import EVALUATION_BATCH, TRAIN_BATCH
from jobs.training.precision import FP32

State = Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL"]
EVALUATION = "evaluation:"
INCIDENT = "incident:"
ORIGIN = "origin"
STOPPED = "stopped"  # True in the evaluation at which the scheduler ended the trial
ATTEMPT = "attempt:"
CUT_BY = "ended_by"
SIZE_PARAMS = (TRAIN_BATCH, EVALUATION_BATCH, "gradient_checkpointing")
INCIDENT_TEXTS = {"crash": "its process died", "node": "its machine was lost", "memory": "out of memory"}

Incident = Mapping[str, Any]


@dataclass(frozen=True)
class TrialRecord:
    """Hold one trial as stored in the ledger.

    value        the objective at the best evaluation so far, None before the first
    metrics      all metrics at that evaluation
    evaluations  reports in order: the job's metrics, `epoch`, `seconds` since the start of the trial, `timing` with the
                 seconds of each phase since the previous report, `conditions` such as the precision
    checkpoint   the folder or s3:// address of the best evaluation
    reason       the cause of PRUNED or FAIL
    repeat_of    the number of the trial that this one repeats with another seed
    test         the score on the test questions, None if not evaluated
    incidents    failures after which the trial continued, in order: `kind`, `reason`, the `epoch` reached, the
                 parameters `changed` for the next attempt, and perhaps the number of trials that may run `at_once`
                 from then on, on machines with no more than `memory` bytes
    origin       SWEEP/NUMBER of the original if the trial was copied from another sweep
    attempts     each time that the trial ran: its `seconds`, the `gpus` that all its workers reserved together, and the
                 `epoch` reached if the job tells it
    ended_by     key of the limit in `budget` that ended the trial before its end, None if none did
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
    attempts: tuple[Mapping[str, float], ...] = ()
    ended_by: str | None = None

    @property
    def used(self) -> Mapping[str, Any]:
        """Return the parameters with the changes of all incidents. `params` and `key` keep the drawn values."""
        changes = [incident["changed"] for incident in self.incidents]
        return reduce(lambda params, changed: {**params, **changed}, changes, dict(self.params))

    @property
    def conditions(self) -> Mapping[str, Any]:
        """Return the conditions at the last report, such as the precision; empty for trials of earlier versions."""
        return self.evaluations[-1].get("conditions", {}) if self.evaluations else {}

    @property
    def gpu_memory_bytes(self) -> int | None:
        """Return the most GPU memory that the trial's first worker has taken; None if it was not measured."""
        found = (one.get("conditions", {}).get("gpu_memory_bytes") for one in self.evaluations)
        return max(filter(None, found), default=None)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Return the precision of the training; several, if it went on on another device. Empty if it is not known.

        Earlier versions recorded none, and trained in fp32 unless `bf16` was true.
        """
        if self.evaluations and not self.conditions and self.params.get("bf16") is False:
            return (FP32.name,)
        found = (one.get("conditions", {}).get("precision") for one in self.evaluations)
        return tuple(dict.fromkeys(filter(None, found)))

    @property
    def used_precision(self) -> str | None:
        """Return `precisions` as one text; None if none is known."""
        return " and ".join(self.precisions) or None

    @property
    def used_sizes(self) -> Mapping[str, Any]:
        """Return the batch sizes of a device and if activations were computed again, as last reported; empty if not
        known."""
        return {name: self.conditions[name] for name in SIZE_PARAMS if name in self.conditions}

    @property
    def epochs(self) -> float:
        return float(self.evaluations[-1]["epoch"]) if self.evaluations else 0.0

    @property
    def progress(self) -> float:
        """Return the epochs of the last evaluation, or how far within an epoch a running trial is, if that is more."""
        newest = self.attempts[-1] if self.attempts and self.state == "RUNNING" else {}
        return max(self.epochs, newest.get("epoch", 0.0))

    @property
    def elapsed(self) -> float:
        """Return the seconds of all attempts."""
        return sum(attempt["seconds"] for attempt in self.attempts)

    @property
    def trained(self) -> bool:
        """Return True if the last epoch is recorded."""
        return bool(self.evaluations) and self.epochs >= self.params["num_train_epochs"]

    @property
    def stopped(self) -> bool:
        """Return True if the scheduler ended the trial at its last report."""
        return bool(self.evaluations) and bool(self.evaluations[-1].get(STOPPED))

    @property
    def stop_reason(self) -> str:
        return f"stopped early after epoch {self.epochs:g}"

    @property
    def seconds(self) -> float:
        return float(self.evaluations[-1]["seconds"]) if self.evaluations else 0.0


def trial_key(job: str, params: Mapping[str, Any], data_fingerprint: str) -> str:
    """Return a hash of the job, all parameters including the seed, and the data. Equal trials have equal keys."""
    text = json.dumps([job, key_params(job, params), data_fingerprint], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def key_params(job: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters as the version that introduced the job would write them, so that keys stay.

    A default that has changed since has its earlier value, and one of a parameter that is new since is left out.
    """
    since = {one.name: one for one in fields(get_job(job).params) if STANDS_FOR in one.metadata}
    return {
        name: since[name].metadata[STANDS_FOR] if at_default else value
        for name, value in params.items()
        if not (at_default := name in since and value == since[name].default)
        or since[name].metadata[STANDS_FOR] is not None
    }


def defaults_since(job: str) -> dict[str, Any]:
    """Return the defaults of the parameters that are new since the version that introduced the job: it trained so."""
    known = {one.name: one for one in fields(get_job(job).params) if STANDS_FOR in one.metadata}
    return {name: one.default for name, one in known.items() if one.metadata[STANDS_FOR] is None}


def best_evaluation(
    evaluations: Sequence[Mapping[str, Any]], objective: str, direction: Direction
) -> Mapping[str, Any] | None:
    """Return the earliest evaluation with the best objective; None if there is none."""
    sign = 1 if direction == "max" else -1
    return max(evaluations, key=lambda evaluation: sign * evaluation[objective], default=None)


def evaluations_of(attrs: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the evaluations among a trial's user attributes, by epoch."""
    return tuple(attrs[key] for key in sorted(attrs) if key.startswith(EVALUATION))


def incident_line(incident: Incident) -> str:
    """Return an incident as one line.

    >>> incident_line(record.incidents[0])
    'out of memory after epoch 1, goes on with per_device_train_batch_size 4'
    """
    what = INCIDENT_TEXTS[incident["kind"]]
    settings = " and ".join(f"{name} {value}" for name, value in incident["changed"].items())
    fewer = f"; from now on at most {incident['at_once']} at once" if "at_once" in incident else ""
    return f"{what} after epoch {incident['epoch']:g}, goes on{f' with {settings}' if settings else ''}{fewer}"

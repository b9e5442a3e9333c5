"""What MLflow is to show of a sweep and of each trial, as plain values. Knows no MLflow."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from sweeper.secrets import redacted, redacted_values

LONGEST_PARAM, LONGEST_TAG = 6000, 8000  # MLflow's limits, in characters
REASON = "sweeper.reason"
SWEEP = ""  # the parent run's key beside the trials' keys


@dataclass(frozen=True)
class SweepInfo:
    """What the parent run shows from the start.

    name, key   `key` finds the run again, so it must be the same whenever the sweep is
    objective   a trial's best value becomes its metric `best_<objective>`
    direction   `max` or `min`: whether more or less of the objective is better
    columns     parameters worth a column beside that value, the searched ones
    tags        versions, data fingerprint, command ...
    texts       artifacts by file name, such as the resolved `search_space.yaml`
    files       artifacts that lie on disk
    """

    name: str
    key: str
    objective: str
    direction: str = "max"
    columns: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[Path] = ()


class Point(NamedTuple):
    """One value of a metric; `timestamp` in milliseconds."""

    key: str
    value: float
    step: int
    timestamp: int


@dataclass(frozen=True)
class Record:
    """All that one run should show. `summary` holds values that may change: each change becomes a point."""

    key: str
    name: str
    state: str
    identity: Mapping[str, str]  # the tags by which the run is found again
    parent: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    summary: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    started: int | None = None
    ended: int | None = None


@dataclass
class Known:
    """What a run in MLflow is known to hold, so that only the rest is written."""

    run_id: str
    status: str = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    params: set[str] = field(default_factory=set)
    steps: dict[str, set[int]] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)


def trial_record(trial: Mapping[str, Any], sweep: SweepInfo) -> Record:
    """What a trial's run should show, of a snapshot as `Mirror.put` takes it."""
    value, reason, started = trial.get("value"), trial.get("reason"), _milliseconds(trial.get("started"))
    identity = {"sweeper.sweep_key": sweep.key, "sweeper.trial_key": str(trial["key"])}
    extra = {REASON: reason} if reason else {}
    return Record(
        key=str(trial["key"]),
        name=str(trial["name"]),
        state=str(trial["state"]),
        identity=identity,
        parent=trial.get("parent") or SWEEP,
        tags=as_texts({**trial.get("tags", {}), **extra, **_state_tags("trial", trial["state"])}, LONGEST_TAG),
        params=as_texts(trial.get("params", {}), LONGEST_PARAM),
        points=tuple(_points(trial.get("evaluations", ()), started)),
        summary={} if value is None else _finite({f"best_{sweep.objective}": value}),
        files=tuple(Path(path) for path in trial.get("artifacts", ())),
        started=started,
        ended=_milliseconds(trial.get("ended")),
    )


def sweep_record(
    sweep: SweepInfo,
    state: str = "RUNNING",
    texts: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Record:
    """What the parent run should show."""
    return Record(
        key=SWEEP,
        name=sweep.name,
        state=state,
        identity={"sweeper.sweep_key": sweep.key, "sweeper.kind": "sweep"},
        tags=as_texts({**sweep.tags, **_state_tags("sweep", state)}, LONGEST_TAG),
        params=as_texts(sweep.params, LONGEST_PARAM),
        summary=_finite(metrics or {}),
        texts={name: redacted(text) for name, text in {**sweep.texts, **(texts or {})}.items()},
        files=tuple(sweep.files),
    )


def missing_points(record: Record, known: Known, now: int) -> list[Point]:
    """The points that the run lacks."""
    points = [point for point in record.points if point.step not in known.steps.get(point.key, ())]
    for key, value in record.summary.items():
        if known.latest.get(key) != value:
            steps = (
                *(step + 1 for step in known.steps.get(key, ())),
                *(point.step for point in record.points),
            )
            points.append(Point(key, value, max(steps, default=0), record.ended or now))
    return points


def _points(evaluations: Iterable[Mapping[str, Any]], started: int | None) -> Iterator[Point]:
    """Step 1 is the first evaluation. Whatever is no number is left out; NaN is kept, as MLflow shows it."""
    now = int(1000 * time.time())
    for step, evaluation in enumerate(evaluations, 1):
        seconds = evaluation.get("seconds")
        timestamp = now if started is None or seconds is None else started + int(1000 * seconds)
        for key, value in evaluation.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield Point(key, float(value), step, timestamp)


def _state_tags(kind: str, state: str) -> dict[str, str]:
    return {"sweeper.kind": kind, "sweeper.state": state, "mlflow.source.name": "sweeper"}


def as_texts(values: Mapping[str, Any], longest: int) -> dict[str, str]:
    return {key: storable_text(value, longest) for key, value in redacted_values(values).items()}


def storable_text(value: Any, longest: int) -> str:
    """`value` as a text that every database takes: no lone surrogate, no NUL, cut at `longest` characters."""
    structured = isinstance(value, dict | list)
    text = json.dumps(value, ensure_ascii=False, default=str) if structured else str(value)
    text = redacted(text).encode("utf-8", "replace").decode().replace("\0", "�")
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in metrics.items() if math.isfinite(value)}


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(1000 * moment.timestamp())

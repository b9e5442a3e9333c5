"""Turn a sweep and its trials into the values that MLflow shows: names, tags, parameters, points and files.
Leaves the writing to `client` and imports no MLflow."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from sweeper.ledger.record import TrialRecord
from sweeper.secrets import redacted, redacted_values

PARAM_CHARS, TAG_CHARS = 6000, 8000  # MLflow's limits
REASON = "sweeper.reason"
SWEEP = ""  # key of the parent run; trials have their trial keys


@dataclass(frozen=True)
class SweepInfo:
    """Hold the values that a sweep's parent run shows from the start.

    key         identifies the run in MLflow: the same for every start of the sweep
    objective   the metric `best_<objective>` of a trial's run is the trial's best value
    direction   `max` or `min`
    columns     searched parameters, each a column of MLflow's run table
    tags        versions, data fingerprint, command ...
    texts       artifacts by file name, such as the resolved `search_space.yaml`
    files       artifacts that exist on disk
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
    """Hold one value of a metric; `timestamp` in milliseconds since 1970."""

    key: str
    value: float
    step: int
    timestamp: int


@dataclass(frozen=True)
class RunContent:
    """Hold everything that a run should show. A value in `summary` may change; each change adds a point."""

    key: str
    name: str
    state: str
    identity: Mapping[str, str]  # tags that identify the run in MLflow
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
class StoredRun:
    """Hold the values that a run already has in MLflow, so that only missing ones are written."""

    run_id: str
    status: str = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    params: set[str] = field(default_factory=set)
    steps: dict[str, set[int]] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)


def trial_content(
    record: TrialRecord,
    sweep: SweepInfo,
    parent: str | None = None,
    files: Sequence[Path] = (),
    stopped: bool = False,
) -> RunContent:
    """Return the content of a trial's run. `Mirror.put` describes the arguments."""
    state = "STOPPED" if stopped else record.state
    repeat = f"trial {record.repeat_of}, seed {record.params['seed']}" if record.repeat_of is not None else None
    optional = {"sweeper.origin": record.origin, REASON: record.reason}
    tags = {key: value for key, value in optional.items() if value} | _state_tags("trial", state)
    started = _milliseconds(record.started)
    return RunContent(
        key=record.key,
        name=repeat or f"trial {record.number}",
        state=state,
        identity={"sweeper.sweep_key": sweep.key, "sweeper.trial_key": record.key},
        parent=parent or SWEEP,
        tags=storable_texts(tags, TAG_CHARS),
        params=storable_texts(record.params, PARAM_CHARS),
        points=tuple(_points(record.evaluations, started)),
        summary={} if record.value is None else _finite({f"best_{sweep.objective}": record.value}),
        files=tuple(files),
        started=started,
        ended=_milliseconds(record.ended),
    )


def sweep_content(
    sweep: SweepInfo,
    state: str = "RUNNING",
    texts: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> RunContent:
    """Return what the parent run of a sweep shows: `texts` are artifacts by file name, `metrics` the final ones."""
    return RunContent(
        key=SWEEP,
        name=sweep.name,
        state=state,
        identity={"sweeper.sweep_key": sweep.key, "sweeper.kind": "sweep"},
        tags=storable_texts({**sweep.tags, **_state_tags("sweep", state)}, TAG_CHARS),
        params=storable_texts(sweep.params, PARAM_CHARS),
        summary=_finite(metrics or {}),
        texts={name: redacted(text) for name, text in {**sweep.texts, **(texts or {})}.items()},
        files=tuple(sweep.files),
    )


def missing_points(content: RunContent, stored: StoredRun, now: int) -> list[Point]:
    """Return the points of `content` that the stored run lacks. `now` is the time of an unfinished run's points."""
    points = [point for point in content.points if point.step not in stored.steps.get(point.key, ())]
    for key, value in content.summary.items():
        if stored.latest.get(key) != value:
            steps = (
                *(step + 1 for step in stored.steps.get(key, ())),
                *(point.step for point in content.points),
            )
            points.append(Point(key, value, max(steps, default=0), content.ended or now))
    return points


def _points(evaluations: Iterable[Mapping[str, Any]], started: int | None) -> Iterator[Point]:
    """Yield a point for each number of each evaluation, the first at step 1. NaN is kept, since MLflow shows it."""
    now = int(1000 * time.time())
    for step, evaluation in enumerate(evaluations, 1):
        seconds = evaluation.get("seconds")
        timestamp = now if started is None or seconds is None else started + int(1000 * seconds)
        for key, value in evaluation.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield Point(key, float(value), step, timestamp)


def _state_tags(kind: str, state: str) -> dict[str, str]:
    return {"sweeper.kind": kind, "sweeper.state": state, "mlflow.source.name": "sweeper"}


def storable_texts(values: Mapping[str, Any], max_chars: int) -> dict[str, str]:
    """Return the values as texts that MLflow can store, without secrets."""
    return {key: storable_text(value, max_chars) for key, value in redacted_values(values).items()}


def storable_text(value: Any, max_chars: int) -> str:
    """Return `value` as a text that every database stores: without lone surrogates and NUL, cut to `max_chars`."""
    structured = isinstance(value, dict | list)
    text = json.dumps(value, ensure_ascii=False, default=str) if structured else str(value)
    text = redacted(text).encode("utf-8", "replace").decode().replace("\0", "�")
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in metrics.items() if math.isfinite(value)}


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(1000 * moment.timestamp())

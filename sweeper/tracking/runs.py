"""Turn a sweep and its trials into the values that MLflow shows: names, tags, parameters, points and files.
Leaves the writing to `client` and imports no MLflow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from sweeper.ledger.record import TrialRecord
from sweeper.secrets import redacted, redacted_values

PARAM_CHARS, TAG_CHARS = 6000, 8000  # MLflow's limits
REASON, ORIGIN_TAG = "sweeper.reason", "sweeper.origin"
# of a sweep's run: seconds, GPU-hours and cost so far, and the limit of the budget that ended the sweep
SPENT_TAG, GPU_HOURS_TAG, COST_TAG = "sweeper.spent_seconds", "sweeper.gpu_hours", "sweeper.cost"
ENDED_TAG = "sweeper.ended_by"
REPLACES, REPLACED_BY = (
    "sweeper.replaces",
    "sweeper.replaced_by",
)  # ids of the runs that a trial had before and has since
# Numbers of an evaluation that are no metrics: the step of a point is its evaluation, its time tells the seconds.
RETIRED_METRICS = ("epoch", "step", "seconds")
BEST = "best_"  # begins the name of the metric with the best objective up to an evaluation
MAX_NUMBER = 1.7976931348623157e308  # stands for infinity in MLflow
SWEEP = ""  # key of the parent run; trials have their trial keys


@dataclass(frozen=True)
class SweepInfo:
    """Hold the values that a sweep's parent run shows from the start.

    key         identifies the run in MLflow: the same for every start of the sweep
    objective   the metric `best_<objective>` of a trial's run is the trial's best value
    direction   `max` or `min`
    columns     searched parameters, each a column of MLflow's run table
    metrics     the job's metrics
    run_id      a run of one of its trials, if MLflow had one before
    tags        versions, data fingerprint, command ...
    texts       artifacts by file name, such as the resolved `search_space.yaml`
    files       artifacts that exist on disk
    """

    name: str
    key: str
    objective: str
    direction: str = "max"
    columns: Sequence[str] = ()
    metrics: Sequence[str] = ()
    run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[Path] = ()


class Point(NamedTuple):
    """Hold one value of a metric; `timestamp` in milliseconds since 1970, None if it is unknown."""

    key: str
    value: float
    step: int
    timestamp: int | None


@dataclass(frozen=True)
class RunContent:
    """Hold everything that a run should show.

    metrics  the names of all metrics that the run may have; others belong to the user
    summary  values that may change; each change adds a point
    run_id   the run in MLflow, as far as the ledger knows it
    """

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
    metrics: tuple[str, ...] = ()
    run_id: str | None = None


@dataclass
class StoredRun:
    """Hold the values that a run already has in MLflow, so that only missing ones are written.

    files     names of its artifacts
    contents  their contents, as far as they were written or read
    """

    run_id: str
    status: str = "RUNNING"
    name: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    points: dict[str, list[Point]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    started: int | None = None
    ended: int | None = None

    def latest(self, key: str) -> float | None:
        """Return the value that MLflow's tables show: the one of the last step."""
        found = max(self.points.get(key, ()), key=lambda point: (point.step, point.timestamp or 0), default=None)
        return None if found is None else found.value


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
    optional = {ORIGIN_TAG: record.origin, REASON: record.reason}
    tags = {key: value for key, value in optional.items() if value} | _state_tags("trial", state)
    tags |= {f"sweeper.{name}": text for name, text in _progress(record).items()}
    started = _milliseconds(record.started)
    best = f"{BEST}{sweep.objective}"
    return RunContent(
        key=record.key,
        name=storable_text(repeat or f"trial {record.number}", TAG_CHARS),
        state=state,
        identity={"sweeper.sweep_key": sweep.key, "sweeper.trial_key": record.key},
        parent=parent or SWEEP,
        tags=storable_texts(tags, TAG_CHARS),
        params=storable_texts(record.params, PARAM_CHARS),
        points=(
            *_points(record.evaluations, started),
            *_points(best_so_far(record.evaluations, sweep.objective, sweep.direction, best), started),
        ),
        files=tuple(files),
        started=started,
        ended=_milliseconds(record.ended),
        metrics=(*sweep.metrics, best),
        run_id=record.run_id,
    )


def _progress(record: TrialRecord) -> dict[str, str]:
    """Return the epochs and the seconds of training until the last evaluation, its precision, the GPU memory if
    measured, and the batch sizes that it chose itself."""
    last = record.evaluations[-1] if record.evaluations else {}
    texts = {"epochs": ("epoch", "g"), "seconds": ("seconds", ".1f")}
    memory = {"gpu_memory_bytes": str(record.gpu_memory_bytes)} if record.gpu_memory_bytes else {}
    used = {"precision": str(record.used_precision)} if "precision" in record.conditions else {}
    sizes = {name: str(size) for name, size in record.used_sizes.items() if size != record.params.get(name)}
    progress = {name: format(last[key], form) for name, (key, form) in texts.items() if key in last}
    return progress | used | memory | sizes


def sweep_content(
    sweep: SweepInfo,
    state: str = "RUNNING",
    texts: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
) -> RunContent:
    """Return what the parent run of a sweep shows: `texts` are artifacts by file name, `metrics` and `tags` the final
    ones."""
    return RunContent(
        key=SWEEP,
        name=storable_text(sweep.name, TAG_CHARS),
        state=state,
        identity={"sweeper.sweep_key": sweep.key, "sweeper.kind": "sweep"},
        tags=storable_texts({**sweep.tags, **(tags or {}), **_state_tags("sweep", state)}, TAG_CHARS),
        params=storable_texts(sweep.params, PARAM_CHARS),
        summary=_finite(metrics or {}),
        texts={name: redacted(text) for name, text in {**sweep.texts, **(texts or {})}.items()},
        files=tuple(sweep.files),
    )


def best_so_far(
    evaluations: Sequence[Mapping[str, Any]], objective: str, direction: str, name: str
) -> Iterator[Mapping[str, Any]]:
    """Yield the best objective up to each evaluation as metric `name`, with the evaluation's `seconds`."""
    better, best = max if direction == "max" else min, None
    for evaluation in evaluations:
        value = evaluation.get(objective)
        if value is not None and math.isfinite(value):
            best = value if best is None else better(best, value)
        yield {name: best, "seconds": evaluation.get("seconds")}


def _points(evaluations: Iterable[Mapping[str, Any]], started: int | None) -> Iterator[Point]:
    """Yield a point for each metric of each evaluation, the first at step 1. NaN is kept, since MLflow shows it."""
    for step, evaluation in enumerate(evaluations, 1):
        seconds = evaluation.get("seconds")
        timestamp = None if started is None or seconds is None else started + int(1000 * seconds)
        for key, value in evaluation.items():
            if key not in RETIRED_METRICS and isinstance(value, int | float) and not isinstance(value, bool):
                yield Point(key, _storable_number(float(value)), step, timestamp)


def _storable_number(value: float) -> float:
    return value if math.isnan(value) else max(-MAX_NUMBER, min(MAX_NUMBER, value))


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

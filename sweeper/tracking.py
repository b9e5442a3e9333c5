"""MLflow, the view of the ledger: a parent run per sweep, below it a run per trial.

The only module that knows MLflow, but for its model registry. It takes plain values and paths and decides
nothing; all it writes can be written again from the ledger without duplicates. MLflow is imported inside
functions, since that takes two seconds and half of this module, like the commands that never track, does
without.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import logging
import math
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from sweeper.errors import EnvironmentFailure
from sweeper.stores import Stores, create_private, create_whole, redacted, redacted_values

STATUSES = {
    "RUNNING": "RUNNING",
    "COMPLETE": "FINISHED",
    "PRUNED": "KILLED",
    "STOPPED": "KILLED",  # a sweep that was interrupted and can be resumed
    "FAIL": "FAILED",
}
SWITCHES = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # runs what is posted to it
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # the client alone would retry a request for four minutes; Mirror tries again by itself and says so sooner
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
LONGEST_PARAM, LONGEST_TAG = 6000, 8000  # MLflow's limits, in characters
RUNS_PER_PAGE = 1000
METRICS_PER_BATCH, PARAMS_PER_BATCH, TAGS_PER_BATCH = 500, 40, 10  # a batch stays below a megabyte
HOPELESS = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})
PATIENCE = 5.0  # seconds a store has to answer before a sweep
LONGEST_PAUSE = 30.0  # seconds between attempts while a store is away
REASON = "sweeper.reason"
VIEW = "sweeper"  # name of the saved view that `Mirror.page` opens
SWEEP = ""  # the parent run's key beside the trials' keys

logger = logging.getLogger(__name__)
_T = TypeVar("_T")


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
        tags=_texts({**trial.get("tags", {}), **extra, **_state_tags("trial", trial["state"])}, LONGEST_TAG),
        params=_texts(trial.get("params", {}), LONGEST_PARAM),
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
        tags=_texts({**sweep.tags, **_state_tags("sweep", state)}, LONGEST_TAG),
        params=_texts(sweep.params, LONGEST_PARAM),
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


def _texts(values: Mapping[str, Any], longest: int) -> dict[str, str]:
    return {key: _text(value, longest) for key, value in redacted_values(values).items()}


def _text(value: Any, longest: int) -> str:
    """`value` as a text that every database takes: no lone surrogate, no NUL, cut at `longest` characters."""
    structured = isinstance(value, dict | list)
    text = json.dumps(value, ensure_ascii=False, default=str) if structured else str(value)
    text = redacted(text).encode("utf-8", "replace").decode().replace("\0", "�")
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in metrics.items() if math.isfinite(value)}


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(1000 * moment.timestamp())


@functools.cache
def _mlflow() -> Any:
    """The package, silent on the terminal: its log lines go to whoever handles the root logger."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        # MLflow's tables use a loader that SQLAlchemy 2.1 calls deprecated as they are imported
        warnings.simplefilter("ignore")
        import mlflow
        import mlflow.store.tracking.sqlalchemy_store
    for name in ("mlflow", "alembic", "sqlalchemy.engine"):
        logging.getLogger(name).handlers = [logging.NullHandler()]
        logging.getLogger(name).propagate = True
    return mlflow


def _connect(tracking_uri: str) -> Any:
    """A client, whose model registry is in the same store."""
    create_store(tracking_uri)
    return _client(tracking_uri)


def create_store(tracking_uri: str) -> None:
    """Make a SQLite address's file where it is missing, which takes two seconds. MLflow itself would make it readable
    by everyone, and never open one again whose making was cut short. Raises OSError."""
    if tracking_uri.startswith("sqlite:///"):
        file = Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0])
        create_whole(file, lambda address: _client(address).search_experiments(max_results=1))


def _client(tracking_uri: str) -> Any:
    return _mlflow().MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def ranking(sweep: SweepInfo) -> str:
    """A saved view of MLflow's run table, best trial first; the table alone shows no metric."""
    best = f"metrics.`best_{sweep.objective}`"
    columns = [best, *(f"params.`{name}`" for name in sweep.columns), "attributes.`Duration`"]
    view = {
        "searchFilter": "tags.`sweeper.kind` = 'trial'",
        "orderByKey": best,
        "orderByAsc": sweep.direction == "min",
        "selectedColumns": columns,
    }
    return json.dumps(view)


def _open_experiment(client: Any, name: str, artifacts: str | None, view: str) -> str:
    tags = {
        f"mlflow.sharedViewState.{VIEW}": view,
        "mlflow.experimentKind": "custom_model_development",  # else the pages ask what kind this is
    }
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        create_private(artifacts or "")
        return str(client.create_experiment(name, artifact_location=artifacts, tags=tags))
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    for key, value in tags.items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return str(experiment.experiment_id)


def _find(client: Any, experiment_id: str, identity: Mapping[str, str]) -> Any | None:
    """The run with these tags, the fullest if there are several; the others are deleted.

    Several come about when the answer to a create request is lost and the client sends it again.
    """
    condition = " and ".join(f"tags.`{key}` = {_quoted(value)}" for key, value in identity.items())
    return _fullest(client, client.search_runs([experiment_id], condition))


def _fullest(client: Any, runs: Sequence[Any]) -> Any | None:
    fullest, *others = sorted(runs, key=lambda run: (-len(run.data.metrics), run.info.run_id)) or [None]
    for run in others:
        client.delete_run(run.info.run_id)
    return fullest


def _trial_runs(client: Any, experiment_id: str, sweep_key: str) -> dict[str, list[Any]]:
    """All runs of a sweep's trials by trial key, in few requests. A request for each would read every tag of the
    sweep each time: MLflow has no index on their values."""
    found: dict[str, list[Any]] = {}
    condition, token = f"tags.`sweeper.sweep_key` = {_quoted(sweep_key)}", None
    while True:
        page = client.search_runs([experiment_id], condition, max_results=RUNS_PER_PAGE, page_token=token)
        for run in page:
            found.setdefault(run.data.tags.get("sweeper.trial_key", SWEEP), []).append(run)
        if not (token := page.token):
            return found


def _quoted(value: str) -> str:
    """`value` for a search; MLflow's language cannot escape a quote, and a sweep's key may be a path."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def _create(client: Any, experiment_id: str, record: Record, parent_id: str | None, remote: bool) -> Known:
    tags = {**record.identity, **({"mlflow.parentRunId": parent_id} if parent_id else {})}
    created = client.create_run(
        experiment_id, start_time=record.started, tags=tags, run_name=_text(record.name, LONGEST_TAG)
    )
    if not remote:  # nothing sends a request twice
        return Known(created.info.run_id, created.info.status, dict(created.data.tags))
    return _read_back(client, _find(client, experiment_id, record.identity) or created)


def _read_back(client: Any, run: Any) -> Known:
    run_id = run.info.run_id
    history = {key: client.get_metric_history(run_id, key) for key in run.data.metrics}
    return Known(
        run_id=run_id,
        status=run.info.status,
        tags=dict(run.data.tags),
        params=set(run.data.params),
        steps={key: {point.step for point in points} for key, points in history.items()},
        latest=dict(run.data.metrics),
        files={file.path for file in client.list_artifacts(run_id)},
    )


def _write(client: Any, record: Record, known: Known) -> None:
    """Bring the run into agreement with `record`; its status last, so that FINISHED means complete."""
    _log_values(client, record, known)
    _log_files(client, record, known)
    status = STATUSES[record.state]
    if status == known.status:
        return
    if status == "RUNNING":
        client.update_run(known.run_id, status)
    else:
        client.set_terminated(known.run_id, status, record.ended)
    known.status = status


def _log_values(client: Any, record: Record, known: Known) -> None:
    entities = _mlflow().entities
    points = missing_points(record, known, now=int(1000 * time.time()))
    params = {key: value for key, value in record.params.items() if key not in known.params}
    tags = {key: value for key, value in record.tags.items() if known.tags.get(key) != value}
    batches = zip_longest(
        _chunks([entities.Metric(p.key, p.value, p.timestamp, p.step) for p in points], METRICS_PER_BATCH),
        _chunks([entities.Param(*param) for param in params.items()], PARAMS_PER_BATCH),
        _chunks([entities.RunTag(*tag) for tag in tags.items()], TAGS_PER_BATCH),
        fillvalue=(),
    )
    for metrics_batch, params_batch, tags_batch in batches:
        client.log_batch(known.run_id, metrics_batch, params_batch, tags_batch)
    for point in points:
        known.steps.setdefault(point.key, set()).add(point.step)
        known.latest[point.key] = point.value
    if REASON in known.tags.keys() - record.tags.keys():  # what failed once runs again
        client.delete_tag(known.run_id, REASON)
        del known.tags[REASON]
    known.params |= params.keys()
    known.tags |= tags


def _log_files(client: Any, record: Record, known: Known) -> None:
    for name, text in record.texts.items():
        if known.texts.get(name) != text:
            client.log_text(known.run_id, text, name)
            known.texts[name] = text
    for path in record.files:
        if path.name in known.files:
            continue
        if not path.is_file():
            logger.warning("%s: no longer there, its run %r goes without", path, record.name)
            continue
        client.log_artifact(known.run_id, str(path))
        known.files.add(path.name)


def _chunks(items: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


class Mirror:
    """Keeps MLflow in agreement with the newest snapshots, from one background thread.

    >>> with Mirror(stores.tracking, stores.artifacts, "qa_backbones", sweep) as mirror:
    ...     mirror.put({"key": "9f3c", "name": "trial 3", "state": "RUNNING", "params": {"seed": 42},
    ...                 "evaluations": [{"epoch": 1.0, "exact_match": 0.41}]})
    ...     mirror.finish("COMPLETE", texts={"comparison.md": table}, metrics={"best_exact_match": 0.41})

    Nothing here waits for the store or raises because of it; what went wrong stands in `failure`. Leaving
    the block waits for the last writes, at most `flush_timeout` seconds, or `hurry` after an interrupt. Without
    `finish` the parent run is closed as COMPLETE, after an exception as FAIL, after an interrupt as STOPPED.

    A snapshot holds `key`, `name`, `state` (a key of STATUSES) and optionally `params`, `evaluations`
    (append-only; numbers become metrics, dated by `seconds` since `started`), `tags`, `reason`, `value` (the
    best so far), `started` and `ended` (datetimes), `artifacts` (paths) and `parent` (the key of the trial
    that this one repeats; put that one first). Other keys are ignored.

    run_ids        trial key -> MLflow run id, of the runs that exist so far
    parent_run_id  the sweep's own; None at first
    page           where an MLflow server shows the trials, best first: `<address>/<page>`; None at first
    """

    def __init__(
        self,
        tracking_uri: str,
        artifacts: str | None,
        experiment: str,
        sweep: SweepInfo,
        flush_timeout: float = 60.0,
        hurry: float = 8.0,
    ) -> None:
        self.run_ids: dict[str, str] = {}
        self.parent_run_id: str | None = None
        self.page: str | None = None
        self._tracking_uri = tracking_uri
        self._artifacts = artifacts
        self._experiment = experiment
        self._sweep = sweep
        self._flush_timeout = flush_timeout
        self._hurry = hurry
        self._pending: dict[str, Record] = {}
        self._failing: dict[str, str] = {}
        self._known: dict[str, Known] = {}
        self._runs: dict[str, list[Any]] | None = None  # what MLflow had of the trials not yet opened; None: unknown
        self._opened: tuple[Any, str] | None = None
        self._finished = False
        self._deadline = math.inf
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="mlflow mirror", daemon=True)

    @property
    def failure(self) -> str | None:
        """Why MLflow lacks something by now, in one line; None when nothing is known to be missing."""
        with self._changed:
            reason = next(iter(self._failing.values()), None)
        return reason and f"MLflow at {redacted(self._tracking_uri)}: {reason}"

    def put(self, trial: Mapping[str, Any]) -> None:
        """Show this snapshot instead of the trial's earlier ones. Returns at once."""
        self._hand_over(trial_record(trial, self._sweep))

    def finish(
        self,
        state: str,
        texts: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Close the parent run, with artifacts by file name and with final metrics. Returns at once."""
        self._finished = True
        if state == "STOPPED":
            self._flush_timeout = min(self._flush_timeout, self._hurry)
        self._hand_over(sweep_record(self._sweep, state, texts, metrics))

    def flush(self, timeout: float) -> bool:
        """Wait until everything handed over is written; False after `timeout` seconds without."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout)

    def __enter__(self) -> Mirror:
        _mlflow()  # here, as warnings can be silenced only while no other thread does the same
        self._hand_over(sweep_record(self._sweep))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._finished:
            self.finish(_closing_state(kind))
        if _closing_state(kind) == "STOPPED":
            self._flush_timeout = min(self._flush_timeout, self._hurry)
        with self._changed:
            self._deadline = time.monotonic() + self._flush_timeout
            self._changed.notify_all()
        self._thread.join(self._flush_timeout)
        with self._changed:
            for key in self._pending:
                self._failing.setdefault(key, f"not everything was written within {self._flush_timeout:g} s")

    def _hand_over(self, record: Record) -> None:
        with self._changed:
            self._pending[record.key] = record
            self._changed.notify_all()

    def _work(self) -> None:
        pause = 0.0
        while record := self._next():
            try:
                self._agree(record)
            except Exception as error:
                pause = min(LONGEST_PAUSE, 2 * pause + 0.5)
                self._failed(record, error, pause)
            else:
                pause = 0.0
                self._written(record)

    def _next(self) -> Record | None:
        """The record that waits longest; None when the work is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing)
            if not self._pending or time.monotonic() > self._deadline:
                return None
            return next(iter(self._pending.values()))

    @property
    def _closing(self) -> bool:
        return self._deadline < math.inf

    def _agree(self, record: Record) -> None:
        known = self._open(record)
        # forgotten while it is written: after a mishap halfway, what the run holds is read back
        del self._known[record.key]
        client, _ = self._store()
        _write(client, record, known)
        self._known[record.key] = known

    def _open(self, record: Record) -> Known:
        if record.key not in self._known:
            parent_id = None if record.parent is None else self._parent_id(record)
            known = self._find_or_create(record, parent_id)
            self._known[record.key] = known
            if record.key == SWEEP:
                self.parent_run_id = known.run_id
            else:
                self.run_ids[record.key] = known.run_id
        return self._known[record.key]

    def _find_or_create(self, record: Record, parent_id: str | None) -> Known:
        client, experiment_id = self._store()
        if record.key == SWEEP:
            run = _find(client, experiment_id, record.identity)
        else:
            if self._runs is None:
                self._runs = _trial_runs(client, experiment_id, self._sweep.key)
            run = _fullest(client, self._runs.pop(record.key, []))
        if run is not None:
            return _read_back(client, run)
        return _create(client, experiment_id, record, parent_id, self._tracking_uri.startswith("http"))

    def _parent_id(self, record: Record) -> str:
        if record.parent == SWEEP:
            return self._open(sweep_record(self._sweep)).run_id
        if record.parent in self.run_ids:
            return self.run_ids[record.parent]
        identity = {"sweeper.sweep_key": self._sweep.key, "sweeper.trial_key": str(record.parent)}
        run = _find(*self._store(), identity)
        if run is None:
            raise LookupError(f"{record.name} repeats a trial that was not put before it")
        return str(run.info.run_id)

    def _store(self) -> tuple[Any, str]:
        """The client and the experiment's id, once the store has answered."""
        if self._opened is None:
            client = _connect(self._tracking_uri)
            view = ranking(self._sweep)
            experiment_id = _open_experiment(client, self._experiment, self._artifacts, view)
            self.page = f"#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}"
            self._opened = client, experiment_id
        return self._opened

    def _written(self, record: Record) -> None:
        with self._changed:
            self._failing.pop(record.key, None)
            newest = self._pending.pop(record.key)
            if newest is not record:
                self._pending[record.key] = newest
            self._changed.notify_all()

    def _failed(self, record: Record, error: Exception, pause: float) -> None:
        """Put the record back behind the others, unless it can never be written, and wait a little."""
        reason = _one_line(error)
        logger.warning("%s: %s", record.name, reason)
        self._runs = None  # it may have been written all the same
        with self._changed:
            self._failing[record.key] = reason
            newest = self._pending.pop(record.key)
            if newest is not record or getattr(error, "error_code", None) not in HOPELESS:
                self._pending[record.key] = newest
                self._pause(pause)
            self._changed.notify_all()

    def _pause(self, seconds: float) -> None:
        """Wait; no longer than a second once the owner waits too."""
        self._changed.wait_for(lambda: self._closing, max(0.0, seconds - 1.0))
        self._changed.wait(min(seconds, 1.0))


def _closing_state(kind: type[BaseException] | None) -> str:
    if kind is None:
        return "COMPLETE"
    return "FAIL" if issubclass(kind, Exception) else "STOPPED"


def _one_line(error: Exception) -> str:
    """What went wrong: at the bottom, where a socket or SQLite says it shortest, else what MLflow says."""
    bottom: BaseException = error
    while inner := bottom.__cause__ or bottom.__context__:
        bottom = inner
    told = bottom if isinstance(bottom, OSError | sqlite3.Error) else error
    return redacted(" ".join(str(told).split()) or type(told).__name__)[:300]


def check(stores: Stores) -> None:
    """Open MLflow's store as a sweep would, preparing a new database (two seconds).

    Raises EnvironmentFailure within seconds when that fails.
    """
    if (stores.artifacts or "").startswith("s3:") and importlib.util.find_spec("boto3") is None:
        raise EnvironmentFailure(f"artifacts at {stores.artifacts}: boto3 is not installed; pip install boto3")
    connect(stores)


def note(
    stores: Stores,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    files: Sequence[Path],
) -> str:
    """A finished run in an experiment beside those of the sweeps; returns its id. Raises EnvironmentFailure."""
    client = connect(stores)
    with answering(stores):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            create_private(stores.artifacts or "")
        experiment_id = (
            found.experiment_id if found else client.create_experiment(experiment, artifact_location=stores.artifacts)
        )
        run_id = str(client.create_run(experiment_id, run_name=name, tags=_texts(tags, LONGEST_TAG)).info.run_id)
        for key, value in metrics.items():
            client.log_metric(run_id, key, value)
        for path in files:
            client.log_artifact(run_id, str(path))
        client.set_terminated(run_id)
        return run_id


def connect(stores: Stores) -> Any:
    """MLflow's client, once the store has answered. Raises EnvironmentFailure within seconds when it does not."""
    with answering(stores):
        create_store(stores.tracking)
        _probe(stores.tracking)
        with _turn(stores.tracking):
            client = _connect(stores.tracking)
            client.search_experiments(max_results=1)
        return client


def _turn(tracking_uri: str) -> contextlib.AbstractContextManager[None]:
    """MLflow lets only the processes of one machine take turns at making its tables."""
    if not tracking_uri.startswith("postgresql"):
        return contextlib.nullcontext()
    from sweeper import postgres

    return postgres.turn(tracking_uri, "mlflow")


@contextlib.contextmanager
def answering(stores: Stores) -> Iterator[None]:
    """Turns whatever goes wrong in talking with MLflow's store into an EnvironmentFailure of one line."""
    try:
        yield
    except EnvironmentFailure:
        raise
    except Exception as error:
        raise EnvironmentFailure(
            f"MLflow at {redacted(stores.tracking)}: {_one_line(error)}; {_cure(error, stores)}, or name "
            "another store in mlflow.ini: [mlflow] tracking_uri"
        ) from None


def _cure(error: Exception, stores: Stores) -> str:
    if isinstance(error, ImportError):
        return f"`pip install {'psycopg[binary]' if error.name == 'psycopg' else error.name}`"
    return "start or unblock it" if stores.remote else "free it, repair it or move it away"


def _probe(tracking_uri: str) -> None:
    """Fail within PATIENCE seconds where MLflow would try for minutes: it retries whatever goes wrong."""
    if tracking_uri.startswith("sqlite:"):
        database = sqlite3.connect(tracking_uri.removeprefix("sqlite:///").partition("?")[0], timeout=PATIENCE)
        try:
            database.execute("BEGIN IMMEDIATE")
        finally:
            database.close()
    elif tracking_uri.startswith("http"):
        import requests

        # a certificate is judged by MLflow's client, which has settings for that
        with contextlib.suppress(requests.exceptions.SSLError):
            requests.get(f"{tracking_uri}/health", timeout=PATIENCE).close()
    else:
        import sqlalchemy

        engine = sqlalchemy.create_engine(tracking_uri, connect_args={"connect_timeout": math.ceil(PATIENCE)})
        engine.connect().close()
        engine.dispose()

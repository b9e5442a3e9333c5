"""MLflow made to follow the ledger while a sweep runs, from a thread that nobody waits for."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from sweeper.secrets import redacted
from sweeper.tracking import client as tracking
from sweeper.tracking.runs import SWEEP, Known, Record, SweepInfo, sweep_record, trial_record

HOPELESS = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})
LONGEST_PAUSE = 30.0  # seconds between attempts while a store is away

logger = logging.getLogger(__name__)


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
        tracking.mlflow_package()  # here, as warnings can be silenced only while no other thread does the same
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
        tracking.write_run(client, record, known)
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
            run = tracking.find_run(client, experiment_id, record.identity)
        else:
            if self._runs is None:
                self._runs = tracking.trial_runs(client, experiment_id, self._sweep.key)
            run = tracking.fullest(client, self._runs.pop(record.key, []))
        if run is not None:
            return tracking.read_back(client, run)
        return tracking.create_run(client, experiment_id, record, parent_id, self._tracking_uri.startswith("http"))

    def _parent_id(self, record: Record) -> str:
        if record.parent == SWEEP:
            return self._open(sweep_record(self._sweep)).run_id
        if record.parent in self.run_ids:
            return self.run_ids[record.parent]
        identity = {"sweeper.sweep_key": self._sweep.key, "sweeper.trial_key": str(record.parent)}
        run = tracking.find_run(*self._store(), identity)
        if run is None:
            raise LookupError(f"{record.name} repeats a trial that was not put before it")
        return str(run.info.run_id)

    def _store(self) -> tuple[Any, str]:
        """The client and the experiment's id, once the store has answered."""
        if self._opened is None:
            client = tracking.client_of(self._tracking_uri)
            view = tracking.ranked_view_state(self._sweep)
            experiment_id = tracking.open_experiment(client, self._experiment, self._artifacts, view)
            self.page = f"#/experiments/{experiment_id}/runs?viewStateShareKey={tracking.VIEW}"
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
        reason = tracking.one_line(error)
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

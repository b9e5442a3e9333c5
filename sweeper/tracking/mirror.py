"""Copy a sweep's trials from the ledger to MLflow in a background thread, so that training never waits for MLflow."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from sweeper.ledger.record import TrialRecord
from sweeper.secrets import redacted
from sweeper.tracking import client as tracking
from sweeper.tracking.differences import differences, with_tags
from sweeper.tracking.replacement import registered_models, replace_run
from sweeper.tracking.runs import REPLACED_BY, SWEEP, RunContent, StoredRun, SweepInfo, sweep_content, trial_content

PERMANENT_ERRORS = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})  # a retry cannot succeed
NEW = "its run was missing"
DELETED = "deleted"  # the lifecycle stage of a run in mlflow 3.17
MAX_PAUSE_SECONDS = 30.0  # longest pause between attempts while MLflow does not answer

logger = logging.getLogger(__name__)


class Mirror:
    """Write a sweep's runs to MLflow in a background thread.

    `running` shows the sweep as running from the start.

    >>> with Mirror(stores.tracking, stores.artifacts, "qa_backbones", sweep) as mirror:
    ...     mirror.put(record)
    ...     mirror.finish("COMPLETE", texts={"comparison.md": table}, metrics={"best_exact_match": 0.41})

    `put` and `finish` return at once. No method raises MLflow's errors; `failure` returns the last one. The end of the
    block waits for unfinished writes, at most `flush_timeout` seconds, or `hurry` seconds after an interrupt. If
    `finish` was not called, it closes the parent run: as COMPLETE, as FAIL after an exception, or as STOPPED after an
    interrupt.

    run_ids        MLflow run ids by trial key, for the runs that exist so far
    parent_run_id  the id of the sweep's run; None until it is created
    page           path of the ranked run table on an MLflow server; None until MLflow has answered
    corrected      phrases about what MLflow lacked or showed otherwise, by the name of the run
    uncorrected    a phrase about what MLflow shows otherwise and cannot change, by the name of the run
    """

    def __init__(
        self,
        tracking_uri: str,
        artifacts: str | None,
        experiment: str,
        sweep: SweepInfo,
        flush_timeout: float = 60.0,
        hurry: float = 8.0,
        running: bool = True,
    ) -> None:
        self.run_ids: dict[str, str] = {}
        self.parent_run_id: str | None = None
        self.page: str | None = None
        self.corrected: dict[str, list[str]] = {}
        self.uncorrected: dict[str, str] = {}
        self._tracking_uri = tracking_uri
        self._artifacts = artifacts
        self._experiment = experiment
        self._sweep = sweep
        self._flush_timeout = flush_timeout
        self._hurry = hurry
        self._running = running
        self._pending: dict[str, RunContent] = {}
        self._failing: dict[str, str] = {}
        self._stored: dict[str, StoredRun] = {}
        self._runs: dict[str, list[Any]] | None = None  # runs in MLflow of trials not written yet; None if not read yet
        self._opened: tuple[Any, str] | None = None
        self._finished = False
        self._deadline = math.inf
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="mlflow mirror", daemon=True)

    @property
    def failure(self) -> str | None:
        """Return the reason why MLflow lacks a part of the sweep, in one line; None when nothing is missing."""
        with self._changed:
            reason = next(iter(self._failing.values()), None)
        return reason and f"MLflow at {redacted(self._tracking_uri)}: {reason}"

    @property
    def unclaimed(self) -> list[str]:
        """Return the names of the sweep's runs in MLflow that belong to no trial written so far."""
        claimed = {*self.run_ids.values(), self.parent_run_id}
        runs = (run for found in (self._runs or {}).values() for run in found)
        live = (run.info for run in runs if run.info.lifecycle_stage != DELETED)
        return sorted(info.run_name for info in live if info.run_id not in claimed)

    def put(
        self, record: TrialRecord, parent: str | None = None, files: Sequence[Path] = (), stopped: bool = False
    ) -> None:
        """Queue this state of a trial for MLflow, in place of an earlier one. Returns at once.

        parent   key of the trial that this one repeats; put that trial first
        files    artifacts of the trial
        stopped  show a RUNNING trial as stopped
        """
        self._enqueue(trial_content(record, self._sweep, parent, files, stopped))

    def finish(
        self,
        state: str,
        texts: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Queue the end of the parent run, with artifacts by file name, final metrics and tags. Returns at once."""
        self._finished = True
        if state == "STOPPED":
            self._flush_timeout = min(self._flush_timeout, self._hurry)
        self._enqueue(sweep_content(self._sweep, state, texts, metrics, tags))

    def flush(self, timeout: float) -> bool:
        """Wait until everything is written. Return False if that takes more than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout)

    def __enter__(self) -> Mirror:
        tracking.mlflow_package()  # before the thread starts: silencing warnings is not thread-safe
        if self._running:
            self._enqueue(sweep_content(self._sweep))
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

    def _enqueue(self, content: RunContent) -> None:
        with self._changed:
            self._pending[content.key] = content
            self._changed.notify_all()

    def _work(self) -> None:
        pause = 0.0
        while content := self._next():
            try:
                self._write(content)
            except Exception as error:
                pause = min(MAX_PAUSE_SECONDS, 2 * pause + 0.5)
                self._failed(content, error, pause)
            else:
                pause = 0.0
                self._written(content)

    def _next(self) -> RunContent | None:
        """Wait for content to write and return the oldest; None after the end of the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing)
            if not self._pending or time.monotonic() > self._deadline:
                return None
            return next(iter(self._pending.values()))

    @property
    def _closing(self) -> bool:
        return self._deadline < math.inf

    def _write(self, content: RunContent) -> None:
        parent_id = None if content.parent is None else self._parent_id(content)
        content = with_tags(content, parent_id)
        stored = self._open(content, parent_id)
        # removed during the write, so that after a failure the run is read back from MLflow
        del self._stored[content.key]
        stored = self._replaced(content, stored, parent_id)
        self._note(content, tracking.write_run(self._store()[0], content, stored))
        self._keep(content, stored)

    def _replaced(self, content: RunContent, stored: StoredRun, parent_id: str | None) -> StoredRun:
        """Return the stored run, or a new one in its place if it shows values that MLflow cannot change.

        A registered model keeps the run that it was made from.
        """
        found = differences(content, stored)
        if not (found.fixed or found.old):
            return stored
        client, experiment_id = self._store()
        models = registered_models(client, stored.run_id)
        if content.key == SWEEP or models:
            if found.fixed:
                why = f"{models[0]} was made from it" if models else "it is the run of the sweep"
                self.uncorrected[content.name] = f"{'; '.join(found.fixed)}; MLflow cannot change that, and {why}"
            return stored
        self._note(content, [*found.fixed, *found.old, "a new run replaces it, since MLflow cannot change that"])
        return replace_run(client, experiment_id, content, stored, parent_id)

    def _note(self, content: RunContent, phrases: Sequence[str]) -> None:
        """Add what was corrected in a run. Once it is said to be new, the rest goes without saying."""
        noted = self.corrected.setdefault(content.name, [])
        if noted[:1] != [NEW]:
            noted.extend(phrases)

    def _keep(self, content: RunContent, stored: StoredRun) -> None:
        self._stored[content.key] = stored
        if content.key == SWEEP:
            self.parent_run_id = stored.run_id
        else:
            self.run_ids[content.key] = stored.run_id

    def _open(self, content: RunContent, parent_id: str | None) -> StoredRun:
        if content.key not in self._stored:
            self._keep(content, self._find_or_create(content, parent_id))
        return self._stored[content.key]

    def _find_or_create(self, content: RunContent, parent_id: str | None) -> StoredRun:
        client, experiment_id = self._store()
        if self._runs is None:
            self._runs = tracking.sweep_runs(client, experiment_id, self._sweep.key)
        found = self._runs.pop(content.key, [])
        run = self._chosen(content, found)
        if run is None and (known := tracking.known_run(client, content.run_id)):
            run = known if known.info.experiment_id == experiment_id else None
        if run is None:
            self._note(content, [NEW])
            return tracking.create_run(client, experiment_id, content, parent_id, self._tracking_uri.startswith("http"))
        if run.info.lifecycle_stage == DELETED:
            self._note(content, ["its run was deleted"])
            client.restore_run(run.info.run_id)
        return tracking.read_back(client, run)

    def _chosen(self, content: RunContent, runs: Sequence[Any]) -> Any | None:
        """Return the run to write to: of several live ones the best, the others are deleted; else one to restore."""
        live = [run for run in runs if run.info.lifecycle_stage != DELETED]
        if len(live) > 1:
            self._note(content, [f"it had {len(live)} runs"])
        if live:
            return tracking.keep_one_run(self._store()[0], live, content.run_id)
        deleted = [run for run in runs if REPLACED_BY not in run.data.tags]
        return max(deleted, key=lambda run: (run.info.run_id == content.run_id, len(run.data.metrics)), default=None)

    def _parent_id(self, content: RunContent) -> str:
        if content.parent == SWEEP:
            return self._open(with_tags(sweep_content(self._sweep), None), None).run_id
        if content.parent in self.run_ids:
            return self.run_ids[content.parent]
        identity = {"sweeper.sweep_key": self._sweep.key, "sweeper.trial_key": str(content.parent)}
        run = tracking.find_run(*self._store(), identity)
        if run is None:
            raise LookupError(f"{content.name}: put the trial that it repeats first")
        return str(run.info.run_id)

    def _store(self) -> tuple[Any, str]:
        """Return the client and the experiment's id, opened at the first call."""
        if self._opened is None:
            client = tracking.client_of(self._tracking_uri)
            experiment_id = tracking.open_experiment(client, self._experiment, self._artifacts, self._sweep)
            self.page = f"#/experiments/{experiment_id}/runs?viewStateShareKey={self._sweep.name}"
            self._opened = client, experiment_id
        return self._opened

    def _written(self, content: RunContent) -> None:
        with self._changed:
            self._failing.pop(content.key, None)
            newest = self._pending.pop(content.key)
            if newest is not content:
                self._pending[content.key] = newest
            self._changed.notify_all()

    def _failed(self, content: RunContent, error: Exception, pause: float) -> None:
        """Move the content to the end of the queue, or drop it after a permanent error; then wait."""
        reason = tracking.cause_line(error)
        logger.warning("%s: %s", content.name, reason)
        self._runs = None  # read the runs again, since the write may have succeeded
        with self._changed:
            self._failing[content.key] = reason
            newest = self._pending.pop(content.key)
            if newest is not content or getattr(error, "error_code", None) not in PERMANENT_ERRORS:
                self._pending[content.key] = newest
                self._pause(pause)
            self._changed.notify_all()

    def _pause(self, seconds: float) -> None:
        """Wait `seconds`, but at most one second after the end of the block."""
        self._changed.wait_for(lambda: self._closing, max(0.0, seconds - 1.0))
        self._changed.wait(min(seconds, 1.0))


def _closing_state(kind: type[BaseException] | None) -> str:
    if kind is None:
        return "COMPLETE"
    return "FAIL" if issubclass(kind, Exception) else "STOPPED"

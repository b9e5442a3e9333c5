"""What must be true of a sweep whatever happened to it: `check` is called at the end of every fault test."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeper.driver.checkpoints import unneeded_checkpoints
from sweeper.ledger.ledger import Ledger
from sweeper.ledger.record import TrialRecord
from sweeper.storage import checkpoint_store
from sweeper.storage.settings import Stores
from sweeper.tracking.client import connect
from sweeper.tracking.differences import STATUSES


def check(ledger: Ledger, stores: Stores, mirrored: bool = True, tidy: bool = True) -> None:
    """Assert every invariant of a sweep that nobody runs. `mirrored`: MLflow is asked too, as after a run that
    ended by itself, an orderly interrupt, or `sync`. `tidy`: checkpoints that nobody needs are gone, as after a
    run."""
    records = ledger.records()
    assert all(record.state in ("RUNNING", "COMPLETE", "PRUNED", "FAIL") for record in records)
    for values in ([record.key for record in records], [_text(record.params) for record in records]):
        assert [value for value, count in Counter(values).items() if count > 1] == []
    for record in records:
        check_record(record, ledger)
    check_checkpoints(ledger, tidy)
    check_optuna(ledger)
    if mirrored:
        check_mirror(ledger, stores)


def check_record(record: TrialRecord, ledger: Ledger) -> None:
    """A trial's epochs have no gap, its value is its best evaluation's, and its state says no more than is so."""
    epochs = [evaluation["epoch"] for evaluation in record.evaluations]
    assert epochs == [float(epoch) for epoch in range(1, len(epochs) + 1)], record
    if record.state == "COMPLETE":
        assert record.trained, record
    if record.state in ("PRUNED", "FAIL"):
        assert record.reason, record
    scores = [evaluation[ledger.objective] for evaluation in record.evaluations]
    assert record.value == ({"max": max, "min": min}[ledger.direction](scores) if scores else None), record


def check_checkpoints(ledger: Ledger, tidy: bool) -> None:
    """What is kept is whole, and what nobody needs is gone."""
    records, keep = ledger.records(), ledger.attributes["search_space"]["keep"]["checkpoints"]
    unneeded = set(unneeded_checkpoints(records, ledger.direction, keep))
    for path in _checkpoints(records):
        if path not in unneeded:
            assert not checkpoint_store.stored_damage(path), path
        elif tidy:
            assert path not in checkpoint_store.still_stored([path]), path


def check_optuna(ledger: Ledger) -> None:
    """Optuna's own trials carry the same states, values and values per epoch, and none is running that the ledger does
    not know."""
    known = {record.number: record for record in ledger.records()}
    for trial in ledger.study.get_trials(deepcopy=False):
        if trial.number not in known:
            assert trial.state.name in ("FAIL", "WAITING"), trial
            continue
        evaluations = known[trial.number].evaluations
        assert trial.intermediate_values == {n: e[ledger.objective] for n, e in enumerate(evaluations, 1)}, trial
        if trial.state.name == "COMPLETE":
            assert trial.value == known[trial.number].value


def check_mirror(ledger: Ledger, stores: Stores) -> None:
    """MLflow has each trial once, with the state, the value and every evaluation of the ledger."""
    client = connect(stores)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.`sweeper.kind` = 'trial'", max_results=1000)
    found = {run.data.tags["sweeper.trial_key"]: run for run in runs}
    assert sorted(run.data.tags["sweeper.trial_key"] for run in runs) == sorted(r.key for r in ledger.records())
    for record in ledger.records():
        run = found[record.key]
        state = "STOPPED" if record.state == "RUNNING" else record.state
        assert (run.data.tags["sweeper.state"], run.info.status) == (state, STATUSES[state]), record
        assert run.data.metrics.get(f"best_{ledger.objective}") == record.value, record
        for name in ledger.attributes["metrics"]:
            points = [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
            assert sorted(points) == [(n, e[name]) for n, e in enumerate(record.evaluations, 1)], record
        assert run.data.metrics.keys() <= {*ledger.attributes["metrics"], f"best_{ledger.objective}"}, record
    parents = client.search_runs(experiments, "tags.`sweeper.kind` = 'sweep'")
    assert [run.info.status for run in parents] in (["FINISHED"], ["SCHEDULED"])


def outcomes(ledger: Ledger) -> list[str]:
    """What two runs of the same sweep must have in common: parameters, states, and every evaluation but its
    time and place."""
    return sorted(
        _text([record.params, record.state, record.value, [_timeless(e) for e in record.evaluations]])
        for record in ledger.records()
    )


def starts(workdir: Path) -> int:
    """How often a toy trial's process began to train, from the note it leaves."""
    path = workdir / "starts"
    return len(path.read_text().splitlines()) if path.exists() else 0


def whole(database: Path) -> bool:
    """Whether SQLite finds nothing wrong with a file."""
    connection = sqlite3.connect(database)
    try:
        return connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        connection.close()


def _timeless(evaluation: Any) -> dict[str, Any]:
    return {key: value for key, value in evaluation.items() if key not in ("seconds", "timing", "checkpoint")}


def _checkpoints(records: list[TrialRecord]) -> Iterator[str]:
    yield from (e["checkpoint"] for record in records for e in record.evaluations if e["checkpoint"])


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=dict)

"""Ledger, Optuna's intermediate values and MLflow agree after every history, and `sync` corrects what was changed."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sweeper.driver import mirroring
from sweeper.driver.run import Outcome, sync_mlflow
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, create_ledger, load_ledger
from sweeper.ledger.record import TrialRecord
from sweeper.space.search_space import SearchSpace
from sweeper.storage.settings import Stores
from sweeper.tracking.differences import STATUSES, same_time
from sweeper.tracking.mirror import Mirror
from tests.support.mirrors import client
from tests.support.trials import asked, evaluated

Make = Callable[..., SearchSpace]
numbers = count()


def live_runs(stores: Stores, ledger: Ledger) -> list[Any]:
    key = ledger.attributes["shown_as"]
    experiment = client(stores).get_experiment_by_name("toy").experiment_id
    return list(client(stores).search_runs([experiment], f"tags.`sweeper.sweep_key` = '{key}'", max_results=500))


def assert_agreement(ledger: Ledger, stores: Stores) -> None:
    """Assert that each trial has one run in MLflow, which shows what the ledger and Optuna hold and nothing else."""
    runs = live_runs(stores, ledger)
    parents = [run.info.run_id for run in runs if run.data.tags["sweeper.kind"] == "sweep"]
    shown = {run.data.tags.get("sweeper.trial_key"): run for run in runs}
    assert len(parents) == 1
    assert len(runs) == len(shown) == len(ledger.records()) + 1
    for record in ledger.records():
        assert_shown(record, ledger, stores, shown[record.key], shown)
    for trial in ledger.storage.get_all_trials(ledger._study_id):
        heights = [e["height"] for e in ledger.record(trial.number).evaluations]
        assert trial.intermediate_values == dict(enumerate(heights, 1))


def assert_shown(record: TrialRecord, ledger: Ledger, stores: Stores, run: Any, shown: dict[Any, Any]) -> None:
    tags, info = run.data.tags, run.info
    above = None if record.repeat_of is None else ledger.record(record.repeat_of).key
    assert tags["mlflow.parentRunId"] == shown[above].info.run_id
    state = tags["sweeper.state"]
    assert state == record.state or (record.state == "RUNNING" and state == "STOPPED")
    assert info.status == STATUSES[state]
    assert info.run_name.startswith("trial ")
    assert (tags.get("sweeper.reason"), run.data.params) == (
        record.reason,
        {k: str(v) for k, v in record.params.items()},
    )
    started = record.started and int(1000 * record.started.timestamp())
    assert same_time(started, info.start_time)
    assert same_time(record.ended and int(1000 * record.ended.timestamp()), info.end_time)
    points = {
        (name, n, e[name], info.start_time + int(1000 * e["seconds"]))
        for n, e in enumerate(record.evaluations, 1)
        for name in ("height", "eval_loss")
    }
    names = run.data.metrics.keys() - {"best_height"}
    histories = [(name, client(stores).get_metric_history(run.info.run_id, name)) for name in names]
    found = [(name, one.step, one.value, one.timestamp) for name, history in histories for one in history]
    assert (len(found), set(found)) == (len(points), points)
    assert run.data.metrics.get("best_height") == record.value
    assert run.data.metrics.get("height") == (record.evaluations[-1]["height"] if record.evaluations else None)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out plots and report, which take seconds."""
    monkeypatch.setattr(mirroring, "page_texts", mirroring.table_texts)


def synced(ledger: Ledger, stores: Stores) -> Outcome:
    """Run `sync`, then once more, which must find nothing to correct."""
    outcome = sync_mlflow(ledger, stores)
    assert outcome.mirror_failure is None
    ledger = load_ledger(open_storage(stores.ledger), ledger.name)
    assert_agreement(ledger, stores)
    again = sync_mlflow(ledger, stores)
    assert [line for line in again.corrections if "corrected: " in line and "not corrected" not in line] == []
    return outcome


# any history


class History:
    """A sweep of one trial and a repeat, written to ledger and MLflow by drivers that come and go."""

    def __init__(self, stores: Stores, space: SearchSpace) -> None:
        self.stores, self.space, self.name = stores, space, f"toy-{next(numbers)}"
        ledger = create_ledger(open_storage(stores.ledger), space, self.name, {})
        asked(ledger, space)
        ledger.repeat(0, 7)
        self.epochs, self.seconds = {0: 0, 1: 0}, 0.0
        self.mirror: Mirror | None = None
        self.start()

    def start(self) -> None:
        """Start a driver: it repairs the ledger and shows all trials."""
        self.ledger = load_ledger(open_storage(self.stores.ledger), self.name)
        self.ledger.repair(self.space)
        self.mirror = mirroring.mirror_of(self.ledger, self.space, self.stores).__enter__()
        for record in self.ledger.records():
            mirroring.show_trial(self.mirror, self.ledger, record)

    def kill(self) -> None:
        """End the driver without a last word to MLflow. What was not shown before is not written."""
        if self.mirror is not None:
            self.mirror._finished = True
            self.mirror.__exit__(None, None, None)
            assert self.mirror.failure is None

    def running(self, number: int) -> bool:
        return self.ledger.record(number).state == "RUNNING"

    def report(self, number: int, height: float, shown: bool) -> None:
        if self.running(number) and self.epochs[number] < 3:
            self.epochs[number] += 1
            self.seconds += 1.5
            metrics = {"height": height, "eval_loss": 1 - height, "seconds": self.seconds}
            self.show(self.ledger.report(number, {**metrics, "epoch": float(self.epochs[number])}, None), shown)

    def go_back(self, number: int, epochs: int, told: bool) -> None:
        if self.running(number):
            self.epochs[number] = max(0, self.epochs[number] - epochs)
            if told:
                self.show(self.ledger.rewind(number, self.epochs[number]), True)

    def end(self, number: int, shown: bool) -> None:
        if self.running(number):
            self.show(self.ledger.finish(number, "PRUNED", "stopped early"), shown)

    def show(self, record: TrialRecord, shown: bool) -> None:
        if shown and self.mirror is not None:
            mirroring.show_trial(self.mirror, self.ledger, record)
            assert self.mirror.flush(60)

    def finish(self) -> None:
        self.kill()
        self.start()
        assert self.mirror is not None
        mirroring.finish_mirror(self.ledger, self.mirror)
        self.kill()
        assert_agreement(load_ledger(open_storage(self.stores.ledger), self.name), self.stores)


trials = st.sampled_from([0, 1])
events = st.lists(
    st.one_of(
        st.tuples(st.just("report"), trials, st.sampled_from([0.1, 0.5, 0.9]), st.booleans()),
        st.tuples(st.just("go_back"), trials, st.integers(1, 3), st.booleans()),
        st.tuples(st.just("end"), trials, st.booleans()),
        st.just(("kill",)),
    ),
    min_size=4,
    max_size=14,
)
BACK_AND_STOPPED = [  # at the second epoch, after it went back to the first
    ("report", 0, 0.1, True),
    ("report", 0, 0.5, True),
    ("report", 0, 0.9, True),
    ("go_back", 0, 2, True),
    ("report", 0, 0.1, False),
    ("end", 0, True),
]
KILLED_BEFORE_A_RECORD = [  # then other values; the run above that of a repeat is replaced
    ("report", 0, 0.9, True),
    ("report", 1, 0.9, True),
    ("report", 0, 0.9, False),
    ("kill",),
    ("go_back", 0, 2, False),
    ("report", 0, 0.5, True),
    ("report", 1, 0.1, True),
]


def play(history: History, events: list[tuple[Any, ...]]) -> None:
    for name, *arguments in events:
        if name == "kill":
            history.kill()
            history.start()
        else:
            getattr(history, name)(*arguments)
    history.finish()


@pytest.mark.parametrize("case", [BACK_AND_STOPPED, KILLED_BEFORE_A_RECORD])
def test_epochs_trained_again_replace_the_earlier_ones_everywhere(
    stores: Stores, toy_space: Make, quick: None, case: list[tuple[Any, ...]]
) -> None:
    play(History(stores, toy_space()), case)


def any_history(examples: int) -> Callable[[Any], Any]:
    quiet = list(HealthCheck)
    phases = [Phase.explicit, Phase.generate]  # a history takes seconds; a smaller one would take minutes to find
    return settings(max_examples=examples, deadline=None, suppress_health_check=quiet, phases=phases)


@any_history(3)
@given(events=events)
def test_after_any_history_all_records_agree(
    stores: Stores, toy_space: Make, quick: None, events: list[tuple[Any, ...]]
) -> None:
    play(History(stores, toy_space()), events)


@pytest.mark.long
@pytest.mark.timeout(1800)
@any_history(300)
@given(events=events)
def test_after_many_histories_all_records_agree(
    stores: Stores, toy_space: Make, quick: None, events: list[tuple[Any, ...]]
) -> None:
    play(History(stores, toy_space()), events)


# what others changed


def add_sweep(stores: Stores, space: SearchSpace, count: int) -> tuple[Ledger, dict[int, str]]:
    """Make a finished sweep, all of it in MLflow. Return its ledger and the run ids of its trials."""
    ledger = create_ledger(open_storage(stores.ledger), space, "toy", {})
    for number in range(count):
        workdir = stores.root / f"toy/trials/{number:04d}"
        evaluated(ledger, asked(ledger, space).number, workdir, 2)
        (workdir / "checkpoint-000002/predictions.json").write_text(f"[{number}]")
        ledger.finish(number, "PRUNED", "stopped early after epoch 2")
    sync_mlflow(ledger, stores)
    ledger = load_ledger(open_storage(stores.ledger), "toy")
    assert_agreement(ledger, stores)
    return ledger, {record.number: str(record.run_id) for record in ledger.records()}


def sql(stores: Stores, statement: str, *values: Any) -> None:
    with contextlib.closing(sqlite3.connect(stores.root / "mlflow.db")) as database, database:
        assert database.execute(statement, values).rowcount > 0


def double(stores: Stores, run_id: str) -> None:
    run = client(stores).get_run(run_id)
    client(stores).create_run(run.info.experiment_id, tags=run.data.tags)


def other_file(stores: Stores, run_id: str) -> None:
    (stores.root / f"artifacts/{run_id}/artifacts/predictions.json").write_text("[9]")


Change = Callable[[Stores, str], object]
CHANGES: list[tuple[Change, str]] = [
    (lambda at, run: client(at).set_tag(run, "sweeper.state", "FAIL"), "tag sweeper.state was 'FAIL'"),
    (lambda at, run: client(at).delete_tag(run, "sweeper.reason"), "tag sweeper.reason was missing"),
    (lambda at, run: client(at).set_tag(run, "mlflow.parentRunId", "elsewhere"), "it lay below another run"),
    (lambda at, run: client(at).update_run(run, name="mine"), "its name was 'mine'"),
    (lambda at, run: client(at).update_run(run, status="KILLED"), "its status was KILLED"),
    (lambda at, run: client(at).set_terminated(run, "FINISHED", 1234567), "its end time was wrong"),
    (lambda at, run: client(at).delete_run(run), "its run was deleted"),
    (double, "it had 2 runs"),
    (lambda at, run: client(at).log_metric(run, "height", 9.0, step=1), "metric height had other values"),
    (lambda at, run: client(at).log_metric(run, "height", 9.0, step=7), "metric height had other values"),
    (lambda at, run: client(at).log_metric(run, "seconds", 9.0), "seconds was among the metrics"),
    (
        lambda at, run: sql(at, "UPDATE params SET value = '7' WHERE run_uuid = ? AND key = 'backbone'", run),
        "parameter backbone was '7'",
    ),
    (
        lambda at, run: sql(at, "DELETE FROM params WHERE run_uuid = ? AND key = 'backbone'", run),
        "parameter backbone was missing",
    ),
    (lambda at, run: sql(at, "UPDATE runs SET start_time = 7 WHERE run_uuid = ?", run), "its start time was wrong"),
    (
        lambda at, run: sql(at, "DELETE FROM metrics WHERE run_uuid = ? AND key = 'height' AND step = 1", run),
        "metric height lacked 1 value",
    ),
    (other_file, "file predictions.json differed"),
    (lambda at, run: client(at).set_tag(run, "sweeper.trial_key", "another"), "tag sweeper.trial_key was 'another'"),
    (lambda at, run: client(at).set_tag(run, "sweeper.sweep_key", "another"), "tag sweeper.sweep_key was 'another'"),
]


@pytest.mark.timeout(300)
def test_sync_corrects_what_was_changed_in_mlflow_and_says_so(stores: Stores, toy_space: Make, quick: None) -> None:
    ledger, runs = add_sweep(stores, toy_space("search.trials=20"), len(CHANGES))
    for number, (change, _) in enumerate(CHANGES):
        change(stores, runs[number])
    outcome = synced(ledger, stores)
    lines = {line.partition(":")[0]: line for line in outcome.corrections}
    assert [f"trial {n}" for n, (_, told) in enumerate(CHANGES) if told not in lines.get(f"trial {n}", "")] == []
    assert len(lines) == len(CHANGES)
    for number in range(len(CHANGES)):
        run_id = load_ledger(open_storage(stores.ledger), "toy").record(number).run_id
        file = stores.root / f"artifacts/{run_id}/artifacts/predictions.json"
        assert file.read_text() == f"[{number}]"


def test_sync_corrects_the_run_of_the_sweep(stores: Stores, toy_space: Make, quick: None) -> None:
    ledger, _ = add_sweep(stores, toy_space(), 1)
    parent = next(run for run in live_runs(stores, ledger) if run.data.tags["sweeper.kind"] == "sweep").info.run_id
    folder = stores.root / f"artifacts/{parent}/artifacts"
    (folder / "comparison.md").unlink()
    (folder / "search_space.yaml").write_text("name: other\n")
    client(stores).log_metric(parent, "best_height", 9.0, step=5)
    client(stores).update_run(parent, status="FAILED")
    (line,) = synced(ledger, stores).corrections
    for told in (
        "file comparison.md was missing",
        "file search_space.yaml differed",
        "metric best_height lacked 1 value",
        "its status was FAILED",
    ):
        assert told in line
    assert "best_height" in client(stores).get_run(parent).data.metrics


@pytest.mark.slow
def test_a_renamed_experiment_keeps_its_sweep(stores: Stores, toy_space: Make, quick: None) -> None:
    ledger, runs = add_sweep(stores, toy_space(), 1)
    experiment = client(stores).get_experiment_by_name("toy").experiment_id
    client(stores).rename_experiment(experiment, "my toys")
    assert sync_mlflow(ledger, stores).corrections == ()
    assert client(stores).get_experiment_by_name("toy") is None
    assert client(stores).get_run(runs[0]).info.experiment_id == experiment


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["experiment", "database", "parent"])
def test_sync_brings_back_what_was_deleted(
    stores: Stores, toy_space: Make, quick: None, blank: Path, loss: str
) -> None:
    ledger, runs = add_sweep(stores, toy_space(), 2)
    client(stores).log_metric(runs[0], "height", 9.0, step=1)  # so that one run is replaced before
    synced(ledger, stores)
    if loss == "experiment":
        client(stores).delete_experiment(client(stores).get_experiment_by_name("toy").experiment_id)
    elif loss == "parent":
        client(stores).delete_run(client(stores).get_run(runs[1]).data.tags["mlflow.parentRunId"])
    else:
        shutil.copy(blank, stores.root / "mlflow.db")
    ledger = load_ledger(open_storage(stores.ledger), "toy")
    told = " ".join(synced(ledger, stores).corrections)
    assert {"database": "trial 1: corrected: its run was missing", "parent": "toy: corrected: its run was deleted"}.get(
        loss, "trial 0: corrected: it had 2 runs"
    ) in told


def test_what_a_user_added_to_a_run_outlives_its_replacement(stores: Stores, toy_space: Make, quick: None) -> None:
    ledger, runs = add_sweep(stores, toy_space(), 1)
    at = client(stores)
    at.set_tag(runs[0], "mlflow.note.content", "look here")
    at.set_tag(runs[0], "mine", "yes")
    at.log_param(runs[0], "my_param", "1")
    at.log_metric(runs[0], "my_metric", 0.5, step=3)
    at.log_text(runs[0], "a note", "notes/note.txt")
    at.log_metric(runs[0], "height", 9.0, step=1)
    outcome = sync_mlflow(ledger, stores)
    new = str(outcome.records[0].run_id)
    assert new != runs[0]
    run, old = at.get_run(new), at.get_run(runs[0])
    assert (run.data.tags["mlflow.note.content"], run.data.tags["mine"]) == ("look here", "yes")
    assert (run.data.params["my_param"], run.data.metrics["my_metric"]) == ("1", 0.5)
    assert (stores.root / f"artifacts/{new}/artifacts/notes/note.txt").read_text() == "a note"
    assert (run.data.tags["sweeper.replaces"], old.data.tags["sweeper.replaced_by"]) == (runs[0], new)
    assert old.info.lifecycle_stage == "deleted"
    assert sync_mlflow(ledger, stores).corrections == ()


@pytest.mark.slow
def test_a_run_that_a_model_was_made_from_is_kept_and_told(stores: Stores, toy_space: Make, quick: None) -> None:
    ledger, runs = add_sweep(stores, toy_space(), 1)
    client(stores).create_registered_model("toy")
    client(stores).create_model_version("toy", "file:///a/folder", runs[0])
    client(stores).log_metric(runs[0], "seconds", 9.0)  # as an earlier version did: not worth a word
    assert sync_mlflow(ledger, stores).corrections == ()
    client(stores).log_metric(runs[0], "height", 9.0, step=1)
    outcome = sync_mlflow(ledger, stores)
    assert outcome.corrections == (
        "trial 0: not corrected: metric height had other values; MLflow cannot change that, and toy version 1 was made "
        "from it",
    )
    assert outcome.records[0].run_id == runs[0]


def test_a_run_of_no_trial_is_told_and_left_alone(stores: Stores, toy_space: Make, quick: None) -> None:
    ledger, runs = add_sweep(stores, toy_space(), 1)
    run = client(stores).get_run(runs[0])
    tags = {**run.data.tags, "sweeper.trial_key": "unknown", "mlflow.runName": "stranger"}
    made = client(stores).create_run(run.info.experiment_id, tags=tags)
    (line,) = sync_mlflow(ledger, stores).corrections
    assert line.startswith("stranger: left alone: it belongs to no trial of the ledger")
    assert client(stores).get_run(made.info.run_id).info.lifecycle_stage == "active"


@pytest.mark.slow
def test_times_read_in_another_zone_are_no_difference(
    stores: Stores, toy_space: Make, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, _ = add_sweep(stores, toy_space(), 1)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        assert sync_mlflow(ledger, stores).corrections == ()
    finally:
        monkeypatch.undo()
        time.tzset()

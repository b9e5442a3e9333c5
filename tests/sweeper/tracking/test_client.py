"""MLflow agrees with the newest snapshots, whatever happened in between. A real SQLite store, no server."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.errors import EnvironmentFailure
from sweeper.ledger.record import TrialRecord
from sweeper.storage.settings import Stores, read_stores
from sweeper.tracking import client as tracking
from sweeper.tracking import server
from sweeper.tracking.client import check_store
from sweeper.tracking.differences import missing_points
from sweeper.tracking.mirror import Mirror
from sweeper.tracking.runs import Point, StoredRun, SweepInfo, sweep_content, trial_content
from tests.support.limits import killed_at
from tests.support.mirrors import STARTED, SWEEP, client, history, open_mirror, snapshot


def record(stores: Stores, *trials: TrialRecord, sweep: SweepInfo = SWEEP, **options: Any) -> Mirror:
    """A whole mirror: every snapshot written, then the end."""
    with open_mirror(stores, sweep) as mirror:
        for trial in trials:
            mirror.put(trial, **options)
            assert mirror.flush(20)
    assert mirror.failure is None
    return mirror


def runs(stores: Stores) -> dict[str, Any]:
    """Live runs by name; a second run of a name would be a duplicate."""
    found = client(stores).search_runs([e.experiment_id for e in client(stores).search_experiments()])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


# what a run should show, without MLflow


def test_importing_tracking_imports_no_mlflow() -> None:
    code = "import sys, sweeper.tracking.client, sweeper.tracking.mirror; sys.exit('mlflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_evaluation_is_dated_by_its_seconds_since_the_start() -> None:
    points = trial_content(snapshot(epochs=2), SWEEP).points
    start = int(STARTED.timestamp() * 1000)
    assert [point for point in points if point.key == "exact_match"] == [
        Point("exact_match", 0.1, 1, start + 30_000),
        Point("exact_match", 0.2, 2, start + 60_000),
    ]


def test_only_numbers_become_metrics_and_nan_is_one() -> None:
    evaluation = {"loss": math.nan, "count": 3, "good": True, "note": "text", "gone": None}
    points = trial_content(snapshot(evaluations=[evaluation]), SWEEP).points
    assert [point.key for point in points] == ["loss", "count"]
    assert math.isnan(points[0].value)


def test_the_memory_of_a_gpu_is_a_tag_if_it_was_measured() -> None:
    evaluations = [{"exact_match": 0.5, "epoch": 1.0, "conditions": {"gpu_memory_bytes": 123}}]
    assert trial_content(snapshot(evaluations=evaluations), SWEEP).tags["sweeper.gpu_memory_bytes"] == "123"
    assert "sweeper.gpu_memory_bytes" not in trial_content(snapshot(epochs=2), SWEEP).tags


def test_the_precision_of_a_training_is_a_tag() -> None:
    evaluations = [{"exact_match": 0.5, "epoch": 1.0, "conditions": {"precision": "bf16", "device": "A100"}}]
    content = trial_content(snapshot(evaluations=evaluations), SWEEP)
    assert content.tags["sweeper.precision"] == "bf16"
    earlier = snapshot(epochs=2, params={"bf16": False})
    assert (earlier.used_precision, "sweeper.precision" in trial_content(earlier, SWEEP).tags) == ("fp32", False)
    assert not {"device", "precision"} & {point.key for point in content.points}


def test_the_batch_sizes_that_a_training_found_are_tags() -> None:
    sizes = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 8, "gradient_checkpointing": True}
    evaluations = [{"exact_match": 0.5, "epoch": 1.0, "conditions": sizes}]
    params = {"per_device_train_batch_size": "auto", "per_device_eval_batch_size": 8, "gradient_checkpointing": False}
    tags = trial_content(snapshot(evaluations=evaluations, params=params), SWEEP).tags
    assert tags["sweeper.per_device_train_batch_size"] == "2"
    assert tags["sweeper.gradient_checkpointing"] == "True"
    assert "sweeper.per_device_eval_batch_size" not in tags  # the file says it


def test_long_and_odd_texts_are_made_to_fit() -> None:
    params = {"long": "長" * 7000, "odd": "a\ud800b\0c", "list": ["a", "b"], "none": None}
    record = trial_content(snapshot(params=params, origin="x" * 9000), SWEEP)
    assert record.params["long"] == "長" * 5999 + "…"
    assert record.params["odd"] == "a?b\ufffdc"
    assert record.params["list"] == '["a", "b"]'
    assert record.params["none"] == "None"
    assert len(record.tags["sweeper.origin"]) == 8000


def test_only_what_a_run_lacks_is_written() -> None:
    record = trial_content(snapshot(epochs=3), SWEEP)
    known = StoredRun("id", points={"exact_match": [Point("exact_match", n / 10, n, 0) for n in (1, 2)]})
    points = missing_points(record, known)
    assert [(point.key, point.step, point.value) for point in points] == [
        ("exact_match", 3, 0.3),
        *(("best_exact_match", n, n / 10) for n in (1, 2, 3)),
    ]


def test_an_unchanged_best_value_of_a_sweep_is_not_written_again() -> None:
    record = sweep_content(SWEEP, "COMPLETE", metrics={"best_exact_match": 0.4})
    known = StoredRun("id", points={"best_exact_match": [Point("best_exact_match", 0.4, 0, 0)]})
    assert missing_points(record, known) == []


def test_a_better_result_of_a_resumed_sweep_is_a_further_point() -> None:
    record = sweep_content(SWEEP, "COMPLETE", metrics={"best_exact_match": 0.5, "best_f1": math.nan})
    known = StoredRun("id", points={"best_exact_match": [Point("best_exact_match", 0.4, 0, 0)]})
    assert missing_points(record, known) == [Point("best_exact_match", 0.5, 1, None)]


# what MLflow shows


def test_a_sweep_shows_as_a_parent_with_a_child_per_trial(stores: Stores) -> None:
    mirror = record(stores, snapshot(0), snapshot(1), snapshot(2))
    found = runs(stores)
    parent = found.pop("qa_backbones")
    assert sorted(found) == ["trial 0", "trial 1", "trial 2"]
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {parent.info.run_id}
    assert parent.info.run_id == mirror.parent_run_id
    assert {run.data.tags["sweeper.trial_key"]: run.info.run_id for run in found.values()} == mirror.run_ids
    assert parent.data.params == {"search.trials": "3"}
    assert parent.data.tags["torch"] == "2.13.0"
    assert found["trial 1"].data.params == {"backbone": "bert-base-chinese", "seed": "1"}


def test_the_history_is_every_evaluation_in_order(stores: Stores) -> None:
    record(stores, *(snapshot(2, epochs, state="RUNNING") for epochs in range(4)), snapshot(2))
    run = runs(stores)["trial 2"]
    assert history(stores, run, "exact_match") == [(n, n / 10 + 0.02) for n in (1, 2, 3, 4)]
    assert sorted(run.data.metrics) == ["best_exact_match", "exact_match"]  # and no epoch, step or seconds
    assert (run.data.tags["sweeper.epochs"], run.data.tags["sweeper.seconds"]) == ("4", "120.0")
    assert run.info.start_time == STARTED.timestamp() * 1000
    assert run.info.end_time == STARTED.timestamp() * 1000 + 300_000


def test_the_run_table_has_the_best_value_not_the_last(stores: Stores) -> None:
    evaluations = [{"epoch": 1.0, "exact_match": 0.5}, {"epoch": 2.0, "exact_match": 0.3}]
    record(stores, snapshot(evaluations=evaluations, value=0.5))
    metrics = runs(stores)["trial 0"].data.metrics
    assert (metrics["best_exact_match"], metrics["exact_match"]) == (0.5, 0.3)


@pytest.mark.parametrize(
    ("state", "status"),
    [("COMPLETE", "FINISHED"), ("PRUNED", "FINISHED"), ("FAIL", "FAILED"), ("RUNNING", "RUNNING")],
)
def test_states_are_mapped_and_kept_as_a_tag(stores: Stores, state: str, status: str) -> None:
    record(stores, snapshot(state=state))
    run = runs(stores)["trial 0"]
    assert (run.info.status, run.data.tags["sweeper.state"]) == (status, state)


def test_the_reason_of_a_failure_is_a_tag_until_the_trial_runs_again(stores: Stores) -> None:
    record(stores, snapshot(epochs=1, state="FAIL", reason="RuntimeError: the hill is closed"))
    assert runs(stores)["trial 0"].data.tags["sweeper.reason"] == "RuntimeError: the hill is closed"
    record(stores, snapshot(epochs=2, state="RUNNING"))
    run = runs(stores)["trial 0"]
    assert "sweeper.reason" not in run.data.tags
    assert run.info.status == "RUNNING"


def test_the_parent_has_the_search_space_and_the_results(stores: Stores) -> None:
    with open_mirror(stores) as mirror:
        mirror.finish("STOPPED", {"comparison.md": "| trial |"}, {"best_exact_match": 0.4})
    parent = runs(stores)["qa_backbones"]
    assert (parent.info.status, parent.data.tags["sweeper.state"]) == ("SCHEDULED", "STOPPED")
    assert parent.data.metrics == {"best_exact_match": 0.4}
    folder = stores.root / "artifacts" / parent.info.run_id / "artifacts"
    assert (folder / "search_space.yaml").read_text() == SWEEP.texts["search_space.yaml"]
    assert (folder / "comparison.md").read_text() == "| trial |"


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "SCHEDULED")]
)
def test_a_sweep_that_is_left_is_closed(stores: Stores, error: type[BaseException] | None, status: str) -> None:
    with contextlib.suppress(*[error] if error else []), open_mirror(stores):
        if error:
            raise error
    assert runs(stores)["qa_backbones"].info.status == status


def test_a_changed_file_replaces_the_stored_one_and_a_lost_one_is_no_failure(stores: Stores, tmp_path: Path) -> None:
    kept = tmp_path / "predictions.json"
    kept.write_text("{}")
    record(stores, snapshot(), files=[kept, tmp_path / "lost.json"])
    kept.write_text("changed")
    record(stores, snapshot(), files=[kept])
    folder = stores.root / "artifacts" / runs(stores)["trial 0"].info.run_id / "artifacts"
    assert [(file.name, file.read_text()) for file in folder.iterdir()] == [("predictions.json", "changed")]


def test_a_repeat_is_a_child_of_the_trial_it_repeats(stores: Stores) -> None:
    record(stores, snapshot(0))
    record(stores, snapshot(7, params={"seed": 43}, repeat_of=0), parent="key0")
    found = runs(stores)
    parent_id = found["trial 0, seed 43"].data.tags["mlflow.parentRunId"]
    assert parent_id == found["trial 0"].info.run_id


def test_the_saved_view_ranks_trials_by_the_objective(stores: Stores) -> None:
    sweep = dataclasses.replace(SWEEP, objective="eval_loss", direction="min", columns=["learning_rate"])
    mirror = record(stores, sweep=sweep)
    experiment = client(stores).get_experiment_by_name("qa_backbones")
    assert mirror.page == f"#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=qa_backbones"
    view = experiment.tags["mlflow.sharedViewState.qa_backbones"]
    assert '"orderByKey": "metrics.`best_eval_loss`", "orderByAsc": true' in view
    assert "params.`learning_rate`" in view
    assert "tags.`sweeper.state`" in view
    assert "sweeper.sweep_key" in view  # a sweep of the same name whose ledger was deleted is not among them


# no duplicates


def test_writing_everything_again_adds_nothing(stores: Stores) -> None:
    trials = [
        snapshot(0),
        snapshot(1, state="PRUNED", ended=None),
        snapshot(2, 1, state="FAIL", reason="diverged"),
    ]
    first = record(stores, *trials)
    before = {name: run.to_dictionary() for name, run in runs(stores).items()}
    second = record(stores, *trials)
    after = {name: run.to_dictionary() for name, run in runs(stores).items()}
    parent = (before.pop("qa_backbones"), after.pop("qa_backbones"))
    assert after == before
    assert parent[1]["info"]["run_id"] == parent[0]["info"]["run_id"]
    assert second.run_ids == first.run_ids
    assert history(stores, runs(stores)["trial 0"], "exact_match") == [(n, n / 10) for n in (1, 2, 3, 4)]


def test_a_run_that_was_left_halfway_is_completed(stores: Stores) -> None:
    record(stores, snapshot(0, 2, state="RUNNING"))
    record(stores, snapshot(0, 4))
    run = runs(stores)["trial 0"]
    assert history(stores, run, "exact_match") == [(n, n / 10) for n in (1, 2, 3, 4)]
    assert history(stores, run, "best_exact_match") == [(n, n / 10) for n in (1, 2, 3, 4)]
    assert run.info.status == "FINISHED"


def test_two_sweeps_with_the_same_trial_each_show_it(stores: Stores) -> None:
    record(stores, snapshot(0))
    record(stores, snapshot(1, key="key0"), sweep=dataclasses.replace(SWEEP, key="other", name="other"))
    assert sorted(runs(stores)) == ["other", "qa_backbones", "trial 0", "trial 1"]


def test_runs_doubled_by_a_repeated_request_become_one(stores: Stores) -> None:
    mirror = record(stores, snapshot(0, 1, state="RUNNING"))
    full = client(stores).get_run(mirror.run_ids["key0"])
    tags = {k: v for k, v in full.data.tags.items() if k != "mlflow.runName"}
    for _ in range(2):
        client(stores).create_run(full.info.experiment_id, tags=tags, run_name="trial 0")
    record(stores, snapshot(0))
    assert runs(stores)["trial 0"].info.run_id == full.info.run_id


def test_a_deleted_experiment_comes_back(stores: Stores) -> None:
    record(stores, snapshot(0))
    client(stores).delete_experiment(client(stores).get_experiment_by_name("qa_backbones").experiment_id)
    record(stores, snapshot(1))
    assert "trial 1" in runs(stores)


KILLED = """
import os, signal, sys
from pathlib import Path
from sweeper.storage.settings import read_stores
from tests.support.mirrors import open_mirror, snapshot
with open_mirror(read_stores(Path(sys.argv[1]), {})) as mirror:
    mirror.put(snapshot(0, 2, state="RUNNING"))
    mirror.put(snapshot(1, 4))
    assert mirror.flush(60)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_after_a_kill_everything_is_completed_without_duplicates(stores: Stores) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(stores.root.parent)], check=False)
    assert killed.returncode == -signal.SIGKILL
    before = runs(stores)
    assert {name: run.info.status for name, run in before.items()} == {
        "qa_backbones": "RUNNING",
        "trial 0": "RUNNING",
        "trial 1": "FINISHED",
    }
    record(stores, snapshot(0), snapshot(1))
    after = runs(stores)
    assert {name: run.info.run_id for name, run in after.items()} == {
        name: run.info.run_id for name, run in before.items()
    }
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    assert history(stores, after["trial 0"], "exact_match") == [(n, n / 10) for n in (1, 2, 3, 4)]


@pytest.mark.slow
def test_a_process_killed_while_it_makes_mlflows_database_leaves_none(tmp_path: Path) -> None:
    stores = read_stores(tmp_path, {})
    killed_at("database.create:1:kill", tmp_path / "log", lambda: tracking.check_store(stores))
    assert not (stores.root / "mlflow.db").exists()
    (stores.root / ".mlflow.db-abcdefgh.part").write_text("of a process that was killed earlier still")
    tracking.check_store(stores)
    record(stores, snapshot(0))
    assert runs(stores)["trial 0"].info.status == "FINISHED"
    assert sorted(path.name for path in stores.root.glob("*mlflow.db*")) == ["mlflow.db", "mlflow.db.lock"]


# the store is slow, away or broken


def test_superseded_snapshots_are_skipped(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    begun, go_on = threading.Event(), threading.Event()
    original = tracking.write_run

    def slow(client: Any, record: Any, known: StoredRun) -> list[str]:
        written.append(record.key)
        begun.set()
        assert go_on.wait(20)
        return original(client, record, known)

    monkeypatch.setattr(tracking, "write_run", slow)
    with open_mirror(stores) as mirror:
        assert begun.wait(20)
        for epochs in range(50):
            mirror.put(snapshot(0, epochs, state="RUNNING"))
        go_on.set()
    assert written.count("key0") == 1
    assert len(history(stores, runs(stores)["trial 0"], "exact_match")) == 49


def test_a_short_lock_is_waited_out_and_nobody_else_waits(stores: Stores) -> None:
    with open_mirror(stores) as mirror:
        assert mirror.flush(20)
        lock = sqlite3.connect(stores.root / "mlflow.db", isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        began = time.perf_counter()
        for epochs in range(5):
            mirror.put(snapshot(0, epochs))
        assert time.perf_counter() - began < 2  # waiting for the lock would take for ever
        assert not mirror.flush(0.2)
        lock.rollback()
        lock.close()
    assert mirror.failure is None
    assert len(history(stores, runs(stores)["trial 0"], "exact_match")) == 4


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a port that refuses connections, to a client that gives up at once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:  # bound, so that nobody else gets the port, but not listening
        closed.bind(("127.0.0.1", 0))
        yield f"http://me:hunter2@127.0.0.1:{closed.getsockname()[1]}"


def test_a_server_that_never_answers_makes_nobody_wait(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.perf_counter()
        with Mirror(address, None, "qa_backbones", SWEEP, flush_timeout=0.3) as mirror:
            mirror.put(snapshot(0))
        assert time.perf_counter() - began < 5
        assert mirror.failure == f"MLflow at {address}: not everything was written within 0.3 s"
        record(stores, snapshot(0))  # another sweep in this process is not held up either


def first_failure(mirror: Mirror) -> str:
    while not (failure := mirror.failure):
        assert not mirror.flush(0.05)
    return failure


def test_a_server_that_is_away_is_told_in_one_line(nowhere: str) -> None:
    with Mirror(nowhere, None, "qa_backbones", SWEEP, flush_timeout=0.3) as mirror:
        mirror.put(snapshot(0))
        failure = first_failure(mirror)
    assert failure.startswith("MLflow at http://me:***@127.0.0.1:")
    assert failure.endswith("Connection refused")
    assert mirror.failure == failure


def test_check_tells_an_unreachable_server_in_one_line(nowhere: str, tmp_path: Path) -> None:
    stores = read_stores(tmp_path, {"MLFLOW_TRACKING_URI": nowhere})
    with pytest.raises(EnvironmentFailure, match=r"^MLflow at http://me:\*\*\*@.*; start or unblock it") as caught:
        check_store(stores)
    assert len(caught.value.lines) == 1
    assert "hunter2" not in caught.value.lines[0]


def test_a_broken_database_is_told_and_nothing_is_printed(tmp_path: Path, capfd: Any) -> None:
    stores = read_stores(tmp_path, {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"})
    (tmp_path / "mlflow.db").write_text("this is no database, " * 100)
    with pytest.raises(EnvironmentFailure, match=r"file is not a database; free it, repair it"):
        check_store(stores)
    with open_mirror(stores, flush_timeout=0.3) as mirror:
        mirror.put(snapshot(0))
        first_failure(mirror)
    assert capfd.readouterr() == ("", "")


def test_check_names_a_lock(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "PROBE_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(stores.root / "mlflow.db", isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        with pytest.raises(EnvironmentFailure, match=r"mlflow.db: database is locked; free it"):
            check_store(stores)
    check_store(stores)


def test_check_names_a_missing_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    stores = read_stores(tmp_path, {"MLFLOW_TRACKING_URI": "postgresql+psycopg://me:pw@127.0.0.1:9/runs"})
    with pytest.raises(EnvironmentFailure, match=r"me:\*\*\*@127.0.0.1:9/runs: .*; `pip install psycopg\[binary\]`"):
        check_store(stores)


def test_a_record_that_can_never_be_written_holds_up_no_other(stores: Stores) -> None:
    with open_mirror(stores) as mirror:
        mirror.put(snapshot(0, params={"no$such": 1}))
        mirror.put(snapshot(1))
        assert mirror.flush(20)
        assert mirror.failure is not None
        assert "no$such" in mirror.failure
        assert history(stores, runs(stores)["trial 1"], "exact_match") == [(n, n / 10 + 0.01) for n in (1, 2, 3, 4)]
        mirror.put(snapshot(0))
        assert mirror.flush(20)
        assert mirror.failure is None


def test_what_a_lost_answer_had_written_is_read_back(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    original = tracking.log_values
    lost: list[str] = []

    def loses_the_answer_once(client: Any, record: Any, known: StoredRun) -> None:
        if known.tags.get("sweeper.trial_key") == "key0" and not lost:
            lost.append(known.run_id)
            original(client, record, copy.deepcopy(known))
            raise OSError("cable pulled")
        original(client, record, known)

    monkeypatch.setattr(tracking, "log_values", loses_the_answer_once)
    # without `seconds` every snapshot dates the points anew, so the store cannot tell doubles by itself
    evaluations = [{"epoch": float(epoch), "exact_match": epoch / 10} for epoch in range(1, 5)]
    with open_mirror(stores) as mirror:
        mirror.put(snapshot(0, evaluations=evaluations))
        assert first_failure(mirror).endswith("cable pulled")
        mirror.put(snapshot(0, evaluations=evaluations))
    run = runs(stores)["trial 0"]
    assert lost == [run.info.run_id]
    assert run.info.status == "FINISHED"
    assert history(stores, run, "exact_match") == [(n, n / 10) for n in (1, 2, 3, 4)]


# secrets and access


def test_no_secret_reaches_the_store(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "canary-one")
    sweep = dataclasses.replace(
        SWEEP,
        tags={"command": "sweeper run --hf-token canary-two", "hf_token": "canary-three"},
        texts={"search_space.yaml": "data: https://me:canary-four@host/data\npassword: canary-five\n"},
    )
    trial = snapshot(
        params={"api_key": "canary-six", "data": "postgresql://me:canary-seven@h/d"},
        state="FAIL",
        reason="OSError: login canary-one refused",
    )
    record(stores, trial, sweep=sweep)
    files = [path for path in stores.root.rglob("*") if path.is_file()]
    assert {"mlflow.db", "search_space.yaml"} <= {path.name for path in files}
    assert [path for path in files if b"canary" in path.read_bytes()] == []
    assert runs(stores)["trial 0"].data.tags["sweeper.reason"] == "OSError: login *** refused"


@pytest.mark.slow
def test_a_mirror_that_is_the_first_at_a_store_makes_it_private(tmp_path: Path) -> None:
    stores = read_stores(tmp_path, {})
    record(stores, snapshot(0))
    assert (stores.root / "mlflow.db").stat().st_mode & 0o777 == 0o600
    assert {path.stat().st_mode & 0o777 for path in (stores.root, stores.root / "artifacts")} == {0o700}


def test_what_mlflow_writes_is_closed_to_others(blank: Path) -> None:
    assert blank.stat().st_mode & 0o777 == 0o600
    assert blank.parent.stat().st_mode & 0o777 == 0o700


def test_the_servers_command_line_holds_no_address_of_a_database(tmp_path: Path) -> None:
    environ = {"MLFLOW_TRACKING_URI": "postgresql://me:hunter2@db/runs"}
    stores = read_stores(tmp_path, environ)
    command = " ".join(server.server_command(stores))
    assert "--host 127.0.0.1 --port 5000" in command
    assert "hunter2" not in command
    environment = server.server_environment(stores)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == stores.tracking
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


# serving


def test_a_remote_store_is_announced_and_not_served(tmp_path: Path) -> None:
    announced: list[str] = []
    stores = read_stores(tmp_path, {"MLFLOW_TRACKING_URI": "https://me:pw@mlflow.example.org"})
    server.serve(stores, None, announced.append)
    assert announced == ["https://me:***@mlflow.example.org"]


def test_a_taken_port_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentFailure, match=rf"^http://127.0.0.1:{port}: .*in use.*--port"):
            server.serve(read_stores(tmp_path, {}), port, print)
    assert list(tmp_path.iterdir()) == []


def test_waiting_ends_when_the_server_has_ended_or_time_is_up(nowhere: str) -> None:
    with pytest.raises(EnvironmentFailure, match="ended before it answered"):
        server.wait_until_up(nowhere, 60, alive=lambda: False)
    with pytest.raises(EnvironmentFailure, match="did not answer within 0 s"):
        server.wait_until_up(nowhere, 0)

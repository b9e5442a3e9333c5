"""Shared stores, as a team has them: ledger and MLflow in a PostgreSQL, artifacts and checkpoints in a bucket. Real
servers on loopback, real drivers, real Ray.
"""

from __future__ import annotations

import csv
import json
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from jobs.dataset.data import Data
from jobs.fault_injection import happened
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, load_ledger
from sweeper.storage import checkpoint_store
from sweeper.storage.settings import Stores, read_stores
from sweeper.tracking.client import connect
from sweeper.tracking.server import server_command, server_environment, wait_until_up
from tests.support.drivers import Driver
from tests.support.invariants import check, starts
from tests.support.servers import BUCKET, PASSWORD, Postgres, bucket, client, free_port, keys, postgres
from tests.support.spaces import TOY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]
STORAGES: list[RDBStorage] = []
SECRETS = (PASSWORD, "correct-horse-bucket")


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def storage_server() -> Iterator[None]:
    with bucket() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        checkpoint_store._bucket_files.cache_clear()
        yield
    checkpoint_store._bucket_files.cache_clear()


@dataclass(frozen=True)
class Team:
    """Stores of a test's own in the shared servers, and machines that use them."""

    folder: Path
    ledger: str
    tracking: str
    name: str

    def machine(self, name: str) -> Path:
        """A folder with the settings of the team: all that two machines have in common."""
        folder = self.folder / name
        folder.mkdir()
        artifacts = "" if self.tracking.startswith("http") else f"artifacts = s3://{BUCKET}/{self.name}/artifacts\n"
        (folder / "mlflow.ini").write_text(
            f"[storage]\nledger = {self.ledger}\ncheckpoints = s3://{BUCKET}/{self.name}/checkpoints\n"
            f"[mlflow]\ntracking_uri = {self.tracking}\n{artifacts}"
        )
        (folder / "toy.yaml").write_text(TOY, encoding="utf-8")
        return folder


@pytest.fixture
def team(database: Postgres, tmp_path: Path, request: pytest.FixtureRequest) -> Team:
    name = request.node.name[:40]
    return Team(tmp_path, database.create(f"{name}-l"), database.create(f"{name}-m"), name)


@pytest.fixture
def drive() -> Iterator[Callable[..., Driver]]:
    started: list[Driver] = []

    def drive(folder: Path, *arguments: str, faulty: bool = False) -> Driver:
        started.append(Driver(folder, *arguments, faulty=faulty))
        return started[-1]

    yield drive
    for driver in started:
        driver.end()


@pytest.fixture
def done(drive: Callable[..., Driver]) -> Callable[..., str]:
    """What a command says that ends well."""

    def done(folder: Path, *arguments: str, code: int = 0, faulty: bool = False) -> str:
        driver = drive(folder, *arguments, faulty=faulty)
        ended = driver.wait()
        said = driver.said.read_text(encoding="utf-8")
        assert ended == code, said
        assert "Traceback" not in said
        assert not [secret for secret in SECRETS if secret in said]
        return said

    return done


def stores_of(folder: Path) -> Stores:
    return read_stores(folder, {})


@pytest.fixture(autouse=True)
def opened() -> Iterator[None]:
    """psycopg warns of connections that nobody has closed."""
    yield
    while STORAGES:
        STORAGES.pop().engine.dispose()


def ledger_of(folder: Path, name: str = "toy") -> Ledger:
    STORAGES.append(open_storage(stores_of(folder).ledger))
    return load_ledger(STORAGES[-1], name)


def test_a_sweep_goes_from_a_killed_driver_to_a_submission(team: Team, few: Data, done: Callable[..., str]) -> None:
    """The driver dies in the middle of a trial; another machine, with nothing but the shared stores, goes on."""
    one, two = team.machine("one"), team.machine("two")
    spaces = Path(__file__).parents[2] / "search_spaces"
    common = (f"data={few.location}", "search.enqueue=[]", "early_stopping=null", "parameters.backbone=scratch:1x64x1")
    (one / "asked").write_text("ledger.report:3:kill")
    reader = (str(spaces / "quickstart.yaml"), *common, "search.trials=2", "parameters.num_train_epochs=3")
    done(one, "run", *reader, code=-signal.SIGKILL, faulty=True)
    assert happened(one) == ["ledger.report:3:kill"]
    before = ledger_of(one, "quickstart").records()
    assert "RUNNING" in {record.state for record in before}
    assert sum(len(record.evaluations) for record in before) == 2

    said = done(two, "resume", "quickstart")
    assert "from epoch" in said
    ledger = ledger_of(two, "quickstart")
    records = ledger.records()
    assert [(record.state, record.epochs) for record in records] == [("COMPLETE", 3.0)] * 2
    check(ledger, stores_of(two))
    kept = checkpoint_store.still_stored(
        evaluation["checkpoint"] for record in records for evaluation in record.evaluations
    )
    assert kept == {record.checkpoint for record in records}
    assert not list((two / "sweeps").rglob("checkpoint-*"))  # what is left lies in the bucket
    assert [key for key in keys(f"{team.name}/artifacts") if key.endswith("predictions.json")]

    done(two, "run", str(spaces / "mc_quickstart.yaml"), *common, "search.trials=1", "parameters.num_train_epochs=1")
    for sweep, job in (("quickstart", "qa"), ("mc_quickstart", "mc")):
        assert f"is champion of {job} (version 1)" in done(two, "promote", sweep)
    context, test = (str(Path(few.location) / f"{name}.json") for name in ("context", "test"))
    done(two, "submit", "--context", context, "--test", test)
    with (two / "submission.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    questions = json.loads(Path(test).read_text(encoding="utf-8"))
    assert [row["id"] for row in rows] == [question["id"] for question in questions]
    assert all(row["answer"] for row in rows)


@pytest.mark.long
def test_two_drivers_share_a_ledger_and_an_mlflow_and_the_counts_are_exact(
    team: Team, drive: Callable[..., Driver]
) -> None:
    machines = {name: team.machine(name) for name in ("one", "two")}
    space = ("toy.yaml", "search.trials=20")
    drivers = [drive(folder, "run", *space, f"name={name}") for name, folder in machines.items()]
    assert [driver.wait() for driver in drivers] == [0, 0], [driver.said.read_text() for driver in drivers]
    mlflow = connect(stores_of(machines["one"]))
    experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
    runs = [run.data.tags for run in mlflow.search_runs(experiments, max_results=1000)]
    kinds = Counter(tags["sweeper.kind"] for tags in runs)
    assert kinds == {"sweep": 2, "trial": 40}
    for name, folder in machines.items():
        ledger = ledger_of(folder, name)
        check(ledger, stores_of(folder), mirrored=False)
        records = ledger.records()
        assert [(record.number, record.state) for record in records] == [(n, "COMPLETE") for n in range(20)]
        shown = Counter(tags.get("sweeper.trial_key") for tags in runs if f"/{name}@" in tags["sweeper.sweep_key"])
        assert shown == {None: 1, **{record.key: 1 for record in records}}
        assert [starts(folder / "sweeps" / name / f"trials/{n:04d}") for n in range(20)] == [1] * 20


@pytest.mark.long
def test_a_second_machine_is_refused_until_the_first_is_killed(
    team: Team, drive: Callable[..., Driver], done: Callable[..., str]
) -> None:
    one, two = team.machine("one"), team.machine("two")
    wait = ("search.trials=2", "parameters.trouble=wait", f"parameters.folder={team.folder}")
    first = drive(one, "run", "toy.yaml", *wait)
    first.until(lambda: bool(list(team.folder.glob("here-*"))))
    for command in (("resume", "toy"), ("sync", "toy")):
        said = done(two, *command, code=4)
        assert f"sweep toy: process {first.process.pid} on " in said
    first.process.kill()
    first.process.wait()
    (team.folder / "go").touch()
    done(two, "resume", "toy")
    check(ledger_of(two), stores_of(two), mirrored=False)


@pytest.mark.long
def test_a_database_that_goes_away_ends_a_sweep_that_can_be_resumed(
    team: Team, database: Postgres, drive: Callable[..., Driver], done: Callable[..., str]
) -> None:
    one = team.machine("one")
    wait = ("search.trials=2", "parameters.trouble=wait", f"parameters.folder={team.folder}")
    driver = drive(one, "run", "toy.yaml", *wait)
    driver.until(lambda: len(list(team.folder.glob("here-*"))) == 2)
    database.stop()
    try:
        (team.folder / "go").touch()
        code = driver.wait()
    finally:
        database.start()
    said = driver.said.read_text(encoding="utf-8")
    assert code == 4, said
    assert "Traceback" not in said
    assert "ledger postgresql://" in said or "has dropped its lock" in said
    assert not [secret for secret in SECRETS if secret in said]
    done(one, "resume", "toy")
    assert [record.state for record in ledger_of(one).records()] == ["COMPLETE"] * 2
    check(ledger_of(one), stores_of(one))


@pytest.mark.long
def test_a_bucket_that_goes_away_ends_a_sweep_that_can_be_resumed(
    team: Team, drive: Callable[..., Driver], done: Callable[..., str]
) -> None:
    one = team.machine("one")
    wait = ("search.trials=2", "parameters.trouble=wait", f"parameters.folder={team.folder}")
    driver = drive(one, "run", "toy.yaml", *wait)
    driver.until(lambda: len(list(team.folder.glob("here-*"))) == 2)
    with without_bucket():
        (team.folder / "go").touch()
        code = driver.wait()
    said = driver.said.read_text(encoding="utf-8")
    assert code == 4, said
    assert f"s3://{BUCKET}/" in said
    assert "Traceback" not in said
    assert "FAIL" not in {record.state for record in ledger_of(one).records()}
    done(one, "resume", "toy")
    assert [record.state for record in ledger_of(one).records()] == ["COMPLETE"] * 2
    check(ledger_of(one), stores_of(one))


@contextmanager
def without_bucket() -> Iterator[None]:
    """The server is there and refuses; what it had is lost."""
    for key in keys():
        client().delete_object(Bucket=BUCKET, Key=key)
    for entry in client().list_objects_v2(Bucket=BUCKET).get("Contents", ()):  # the marks of folders
        client().delete_object(Bucket=BUCKET, Key=entry["Key"])
    client().delete_bucket(Bucket=BUCKET)
    try:
        yield
    finally:
        client().create_bucket(Bucket=BUCKET)


def test_a_tracking_server_keeps_runs_in_the_database_and_files_in_the_bucket(
    team: Team, done: Callable[..., str]
) -> None:
    shared = read_stores(team.folder, {"MLFLOW_TRACKING_URI": team.tracking})
    with tracking_server(team, shared) as address:
        one = Team(team.folder, team.ledger, address, team.name).machine("one")
        done(one, "run", "toy.yaml", "search.trials=2")
        check(ledger_of(one), stores_of(one))
        assert "nothing to correct" in done(one, "sync", "toy")
        runs, at = [str(record.run_id) for record in ledger_of(one).records()], connect(stores_of(one))
        at.log_metric(runs[0], "height", 9.0, step=1)
        at.delete_run(runs[1])
        said = done(one, "sync", "toy")
        assert "trial 0: corrected: metric height had other values" in said
        assert "trial 1: corrected: its run was deleted" in said
        check(ledger_of(one), stores_of(one))
        assert "nothing to correct" in done(one, "sync", "toy")
    files = keys(f"{team.name}/files")
    assert [key for key in files if key.endswith("report.html")]
    assert [key for key in files if key.endswith("search_space.yaml")]


@contextmanager
def tracking_server(team: Team, shared: Stores) -> Iterator[str]:
    """`mlflow server --artifacts-destination s3://…` on the database."""
    stores = replace(shared, port=free_port(), artifacts=f"s3://{BUCKET}/{team.name}/files")
    with subprocess.Popen(server_command(stores), env=server_environment(stores), start_new_session=True) as process:
        try:
            wait_until_up(stores.address, 120, lambda: process.poll() is None)
            yield stores.address
        finally:
            process.terminate()

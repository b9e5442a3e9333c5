"""Real drivers in processes of their own, interrupted and killed. Toy trials, real Ray, real stores.

In the tier `long`, SWEEPER_INSTANTS=20 kills at twenty instants instead of four, and SWEEPER_SEEDS=10 soaks ten times.

Every fault there is a test for, and where:
1    a worker is killed at a step              driver/test_retries.py, here with real training
2    a trial's process is killed               driver/test_retries.py
3    a node is lost                            cluster/test_nodes.py
4    the driver is killed                      here, at any instant and at named points
5    SIGINT, once and twice                    here
6    SIGTERM, once and twice                   here
7    MLflow is away, broken, slow, or forgets  test_outage.py
8    a database is locked                      ledger/test_database.py, tracking/test_client.py, test_disk.py
9    the disk is full                          test_disk.py, ledger/test_database.py, release/test_teams.py,
                                               release/test_promotion.py,
                                               tests/jobs/test_checkpoint.py, tests/jobs/answering/test_submission.py
10   the ledger is cut short                   ledger/test_database.py
11   a checkpoint is damaged                   tests/jobs/test_checkpoint.py, driver/test_checkpoints.py, here
12   the cache of features is damaged          tests/jobs/features/test_windows.py
13   a loss or metric is not finite            driver/test_tuning.py
14   out of memory                             driver/test_retries.py
15   a trial hangs                             driver/test_retries.py
16   a job raises, ends early, dies, talks     driver/test_tuning.py, driver/test_retries.py
17   all trials fail                           test_cli.py
18   a bad configuration                       test_bad_configurations.py
19   bad data                                  tests/jobs/dataset/test_bad_data.py
20   one sweep is started twice at once        test_ownership.py
21   two sweeps share MLflow                   test_ownership.py
22   the clock jumps                           tests/test_clock.py
23   promotions race                           release/test_promotion.py
24   a submission is half written              tests/jobs/answering/test_submission.py, release/test_teams.py
25   a finished sweep is run again, or changed test_cli.py, driver/test_run.py, driver/test_extending.py
26   checkpoints are deleted                   driver/test_retention.py, release/test_promotion.py
27   read-only, removed, no descriptors, 1,000 ledger/test_database.py, test_disk.py, test_outage.py
28   a ledger of an earlier version            ledger/test_database.py, test_earlier_releases.py
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.checkpoint import MANIFEST
from jobs.fault_injection import happened
from sweeper.ledger.ledger import Ledger
from tests.support.drivers import Driver, assert_free, ledger_in, settings, stores_in, waiting
from tests.support.invariants import check, outcomes, starts, whole
from tests.support.spaces import TOY
from tests.toy import ToyParams, height

INSTANTS = int(os.environ.get("SWEEPER_INSTANTS", "4"))
SEEDS = int(os.environ.get("SWEEPER_SEEDS", "1"))
LIMIT = 30.0  # seconds an interrupted sweep has
TABLES = ("studies", "study_user_attributes", "trials", "trial_params", "trial_user_attributes", "trial_values")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]


def long(value: object) -> Any:
    """Return a parameter whose test is in the tier `long`."""
    return pytest.param(value, marks=pytest.mark.long)


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Starts drivers in tmp_path and ends what they leave."""
    started: list[Driver] = []

    def drive(*arguments: str, **options: bool) -> Driver:
        started.append(Driver(tmp_path, *arguments, **options))
        return started[-1]

    (tmp_path / "toy.yaml").write_text(TOY, encoding="utf-8")
    yield drive
    for driver in started:
        driver.end()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """The sweep as it is when nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "toy.yaml").write_text(TOY, encoding="utf-8")
    driver = Driver(folder, "run", "toy.yaml")
    try:
        assert driver.wait() == 0, driver.said.read_text()
    finally:
        driver.end()
    check(ledger_in(folder), stores_in(folder))
    return ledger_in(folder)


def writes(database: Path) -> int:
    """How far the ledger has grown, in rows; 0 while it is not there."""
    if not database.is_file():
        return 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            return sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES)
        except sqlite3.OperationalError:  # its tables are not there yet, or it is being written to
            return 0


def starts_of(folder: Path, ledger: Ledger) -> dict[int, int]:
    return {
        record.number: starts(folder / f"sweeps/toy/trials/{record.number:04d}")
        for record in ledger.records()
        if record.state == "COMPLETE"
    }


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.long
def test_a_signal_leaves_a_sweep_that_goes_on(
    drive: Callable[..., Driver], tmp_path: Path, signum: signal.Signals, record_property: Callable[..., None]
) -> None:
    """To the whole process group, as a terminal or a batch system sends it."""
    driver = drive("run", "toy.yaml", *settings(tmp_path))
    driver.until(waiting(tmp_path))
    began = time.monotonic()
    os.killpg(driver.process.pid, signum)
    assert driver.wait() == 128 + signum
    took = time.monotonic() - began
    record_property("seconds", took)
    print(f"{signum.name}: {took:.1f} s")
    assert took < LIMIT
    assert driver.orphans() == []
    assert_free(tmp_path)
    assert "finished work is kept" in driver.said.read_text()
    ledger, stores = ledger_in(tmp_path), stores_in(tmp_path)
    assert {record.state for record in ledger.records()} == {"RUNNING"}
    check(ledger, stores)

    (tmp_path / "go").touch()
    again = drive("resume", "toy")
    assert again.wait() == 0, again.said.read_text()
    assert "0 of 3 trials are finished, 2 resume from epochs 2 and 2" in again.said.read_text()
    ledger = ledger_in(tmp_path)
    assert [(record.state, record.epochs) for record in ledger.records()] == [("COMPLETE", 4.0)] * 3
    begun = [(tmp_path / f"sweeps/toy/trials/{number:04d}/starts").read_text().split() for number in range(3)]
    assert sorted(begun) == [["0"], ["0", "2"], ["0", "2"]]  # the epochs they began after
    check(ledger, stores)


@pytest.mark.parametrize("signum", [signal.SIGINT, long(signal.SIGTERM)], ids=lambda s: s.name)
def test_a_second_signal_ends_it_at_once(
    drive: Callable[..., Driver], tmp_path: Path, signum: signal.Signals, record_property: Callable[..., None]
) -> None:
    driver = drive("run", "toy.yaml", *settings(tmp_path))
    driver.until(waiting(tmp_path))
    driver.process.send_signal(signum)
    driver.until(lambda: "Stop signal received" in (tmp_path / "sweeps/toy/log.txt").read_text())
    began = time.monotonic()
    driver.process.send_signal(signum)
    assert driver.wait() == 128 + signum
    took = time.monotonic() - began
    record_property("seconds", took)
    print(f"{signum.name} twice: {took:.1f} s")
    assert took < 3
    psutil.wait_procs(driver.orphans(), timeout=5)
    assert driver.orphans() == []
    assert_free(tmp_path)
    check(ledger_in(tmp_path), stores_in(tmp_path), mirrored=False, tidy=False)
    synced = drive("sync", "toy")
    assert synced.wait() == 0, synced.said.read_text()
    check(ledger_in(tmp_path), stores_in(tmp_path), tidy=False)


@pytest.mark.parametrize("seed", [0, *(long(seed) for seed in range(1, INSTANTS))])
def test_a_driver_that_is_killed_at_any_instant_loses_nothing(
    drive: Callable[..., Driver], tmp_path: Path, undisturbed: Ledger, seed: int
) -> None:
    database = tmp_path / "sweeps/ledger.db"
    total = writes(Path(undisturbed.storage.engine.url.database or ""))
    instant = random.Random(seed).randrange(1, total - 5)
    driver = drive("run", "toy.yaml")
    driver.until(lambda: writes(database) >= instant)
    driver.process.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    print(f"seed {seed}: killed after write {writes(database)} of {total}, asked for {instant}")
    driver.end()
    assert_free(tmp_path)
    assert whole(database)
    known = writes(database) > 0 and "toy" in names_in(tmp_path)
    before = starts_of(tmp_path, ledger_in(tmp_path)) if known else {}

    again = drive("resume", "toy")
    if again.wait() == 2:  # killed before the sweep was on record
        assert not before
        again = drive("run", "toy.yaml")
    assert again.wait() == 0, again.said.read_text()
    ledger = ledger_in(tmp_path)
    assert outcomes(ledger) == outcomes(undisturbed)
    assert before.items() <= starts_of(tmp_path, ledger).items()  # what was finished is not trained again
    check(ledger, stores_in(tmp_path))


def names_in(folder: Path) -> list[str]:
    """The sweeps on record with their search space."""
    with closing(sqlite3.connect(folder / "sweeps/ledger.db")) as connection:
        query = "SELECT study_name FROM studies NATURAL JOIN study_user_attributes WHERE key = 'search_space'"
        return [name for (name,) in connection.execute(query)]


@pytest.mark.long
@pytest.mark.parametrize("fault", ["ledger.report:5:kill", "mirror.put:5:kill", "ledger.finish:2:kill"])
def test_a_driver_killed_between_two_records_loses_nothing(
    drive: Callable[..., Driver], tmp_path: Path, undisturbed: Ledger, fault: str
) -> None:
    """Before the ledger is written, and between the ledger and MLflow."""
    (tmp_path / "asked").write_text(fault)
    driver = drive("run", "toy.yaml", faulty=True)
    assert driver.wait() == -signal.SIGKILL
    assert happened(tmp_path) == [fault]
    again = drive("run", "toy.yaml")
    assert again.wait() == 0, again.said.read_text()
    assert outcomes(ledger_in(tmp_path)) == outcomes(undisturbed)
    check(ledger_in(tmp_path), stores_in(tmp_path))


REAL = """\
name: toy
job: qa
data: sample
objective: exact_match
parameters:
  backbone: "scratch:1x32x2"
  learning_rate: {values: [1e-3, 3e-3]}
  num_train_epochs: 2
  max_length: 64
  doc_stride: 16
search: {sampler: grid}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """Two small readers, trained for two epochs each with nothing in the way."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "real.yaml").write_text(REAL, encoding="utf-8")
    driver = Driver(folder, "run", "real.yaml", alone=True)
    try:
        assert driver.wait(600) == 0, driver.said.read_text()
    finally:
        driver.end()
    return ledger_in(folder)


def test_real_training_goes_on_from_its_step_and_ends_the_same(
    drive: Callable[..., Driver], tmp_path: Path, trained: Ledger
) -> None:
    """The first trial's process is killed after its second epoch; the driver before it has written down that of the
    second trial."""
    (tmp_path / "real.yaml").write_text(REAL, encoding="utf-8")
    wanted = ["checkpoint.rename:2:kill", "ledger.report:4:kill"]
    (tmp_path / "asked").write_text("\n".join(wanted))
    driver = drive("run", "real.yaml", faulty=True, alone=True)
    assert driver.wait(600) == -signal.SIGKILL, driver.said.read_text()
    assert happened(tmp_path) == wanted
    assert "its process died after epoch 1, goes on" in driver.said.read_text()
    epochs = [(record.state, record.epochs) for record in ledger_in(tmp_path).records()]
    assert epochs == [("COMPLETE", 2.0), ("RUNNING", 1.0)]

    again = drive("resume", "toy", alone=True)
    assert again.wait(600) == 0, again.said.read_text()
    ledger = ledger_in(tmp_path)
    assert outcomes(ledger) == outcomes(trained)  # every metric of every epoch, to the last digit
    for record in ledger.records():
        log = (tmp_path / f"sweeps/toy/trials/{record.number:04d}/log.txt").read_text().splitlines()
        said = [line for line in log if line.startswith(f"trial {record.number}: ")]
        step = int(record.evaluations[0]["step"])
        assert said == [f"trial {record.number}: starts", f"trial {record.number}: resumes from checkpoint-{step:06d}"]
    check(ledger, stores_in(tmp_path))


SOAKED = ("search={sampler: random, trials: 30}", "parameters.pace=0.4", "budget={retries: 100}", "keep.checkpoints=5")
EVERY = 10.0  # seconds from one fault to the next


def kill_driver(driver: Driver, folder: Path, chance: random.Random) -> None:
    driver.process.send_signal(signal.SIGKILL)


def stop_driver(driver: Driver, folder: Path, chance: random.Random) -> None:
    driver.process.send_signal(chance.choice([signal.SIGINT, signal.SIGTERM]))


def kill_trial(driver: Driver, folder: Path, chance: random.Random) -> None:
    for path in sorted(folder.glob("sweeps/toy/trials/*/process"))[:1]:
        with suppress(OSError, ValueError):
            os.kill(int(path.read_text().split()[0]), signal.SIGKILL)


def damage_checkpoint(driver: Driver, folder: Path, chance: random.Random) -> None:
    """The newest one of a trial that runs, as a disk might; then its process dies."""
    for process in sorted(folder.glob("sweeps/toy/trials/*/process"))[:1]:
        for newest in sorted(process.parent.glob("checkpoint-*"))[-1:]:
            with suppress(OSError):
                (newest / chance.choice(["state.json", MANIFEST])).write_text("")
    kill_trial(driver, folder, chance)


def lock_mlflow(driver: Driver, folder: Path, chance: random.Random) -> None:
    """For three seconds nobody else can write to MLflow's database."""
    database = folder / "sweeps/mlflow.db"
    if not database.exists():
        return
    with closing(sqlite3.connect(database, timeout=5)) as connection, suppress(sqlite3.OperationalError):
        connection.execute("BEGIN EXCLUSIVE")
        driver.process.poll()
        time.sleep(3)


FAULTS = (kill_driver, stop_driver, kill_trial, damage_checkpoint, lock_mlflow)


def ended(driver: Driver, seconds: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        driver.wait(seconds)
        return True
    return False


@pytest.mark.long
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_sweep_survives_a_fault_every_ten_seconds(drive: Callable[..., Driver], tmp_path: Path, seed: int) -> None:
    chance, done = random.Random(seed), list[str]()
    driver = drive("run", "toy.yaml", *SOAKED)
    while not (ended(driver, EVERY * chance.uniform(0.5, 1.5)) and driver.process.returncode == 0):
        assert len(done) < 40, done
        if driver.process.poll() is None:
            fault = chance.choice(FAULTS)
            done.append(fault.__name__)
            fault(driver, tmp_path, chance)
            if fault in (kill_driver, stop_driver):
                driver.wait()
        if driver.process.poll() not in (None, 0):
            known = "toy" in (names_in(tmp_path) if writes(tmp_path / "sweeps/ledger.db") else [])
            driver = drive("resume", "toy") if known else drive("run", "toy.yaml", *SOAKED)
    print(f"seed {seed}: {len(done)} faults: {', '.join(done)}")
    ledger = ledger_in(tmp_path)
    records = ledger.records()
    assert done
    assert [(record.state, record.epochs) for record in records] == [("COMPLETE", 4.0)] * 30
    assert all(record.value == pytest.approx(height(ToyParams(**record.params), 4)) for record in records)
    check(ledger, stores_in(tmp_path))
    assert driver.orphans() == []

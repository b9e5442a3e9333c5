"""Real drivers in processes of their own, interrupted and killed. Toy trials, real Ray, real stores.

SWEEPER_INSTANTS=20 kills at twenty instants instead of two.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from sweeper.ledger import Ledger, load_ledger, open_storage
from sweeper.stores import Stores, read_stores
from tests.conftest import TOY
from tests.invariants import check, outcomes, starts, whole

ROOT = Path(__file__).parents[2]
INSTANTS = int(os.environ.get("SWEEPER_INSTANTS", "2"))
PATIENCE = 180.0
LIMIT = 30.0  # seconds an interrupted sweep has
TABLES = ("studies", "study_user_attributes", "trials", "trial_params", "trial_user_attributes", "trial_values")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]


class Driver:
    """A `sweeper` command in a session of its own, so that its descendants can be told from all others."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        stores = ("SWEEPER_ROOT", "SWEEPER_LEDGER", "MLFLOW_TRACKING_URI")
        environment = {name: value for name, value in os.environ.items() if name not in stores}
        self.said = folder / "said.txt"
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from sweeper.cli import main; main()", *arguments],
                cwd=folder,
                env={**environment, "PYTHONPATH": str(ROOT)},
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def wait(self, seconds: float = PATIENCE) -> int:
        return self.process.wait(seconds)

    def until(self, happened: Callable[[], bool]) -> None:
        """Watch for something the driver brings about."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def orphans(self) -> list[psutil.Process]:
        """What is left of its session."""
        found = []
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.pid != self.process.pid and os.getsid(process.pid) == self.process.pid:
                    found.append(process)
        return found

    def end(self) -> None:
        for process in self.orphans():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Starts drivers in tmp_path and ends what they leave."""
    started: list[Driver] = []

    def drive(*arguments: str) -> Driver:
        started.append(Driver(tmp_path, *arguments))
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


def stores_in(folder: Path) -> Stores:
    return read_stores(folder, {})


def ledger_in(folder: Path) -> Ledger:
    return load_ledger(open_storage(stores_in(folder).ledger), "toy")


def writes(database: Path) -> int:
    """How far the ledger has grown, in rows; 0 while it is not there."""
    if not database.is_file():
        return 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            return sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES)
        except sqlite3.OperationalError:  # its tables are not there yet, or it is being written to
            return 0


def settings(folder: Path) -> tuple[str, ...]:
    """Three trials, two at a time, each of which waits after its second epoch."""
    return ("search.trials=3", "parameters.trouble=wait", f"parameters.folder={folder}")


def waiting(folder: Path) -> Callable[[], bool]:
    """Whether two trials have trained two epochs, and the ledger has them."""

    def happened() -> bool:
        if len(list(folder.glob("here-*"))) < 2:
            return False
        return sum(len(record.evaluations) == 2 for record in ledger_in(folder).records()) == 2

    return happened


def assert_free(folder: Path) -> None:
    with FileLock(folder / "sweeps/toy/lock", timeout=0):
        pass


def starts_of(folder: Path, ledger: Ledger) -> dict[int, int]:
    return {
        record.number: starts(folder / f"sweeps/toy/trials/{record.number:04d}")
        for record in ledger.records()
        if record.state == "COMPLETE"
    }


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
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
    assert "nothing that was finished is lost" in driver.said.read_text()
    ledger, stores = ledger_in(tmp_path), stores_in(tmp_path)
    assert {record.state for record in ledger.records()} == {"RUNNING"}
    check(ledger, stores)

    (tmp_path / "go").touch()
    again = drive("resume", "toy")
    assert again.wait() == 0, again.said.read_text()
    assert "0 of 3 trials are finished, 2 go on from epochs 2 and 2" in again.said.read_text()
    ledger = ledger_in(tmp_path)
    assert [(record.state, record.epochs) for record in ledger.records()] == [("COMPLETE", 4.0)] * 3
    begun = [(tmp_path / f"sweeps/toy/trials/{number:04d}/starts").read_text().split() for number in range(3)]
    assert sorted(begun) == [["0"], ["0", "2"], ["0", "2"]]  # the epochs they began after
    check(ledger, stores)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
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


@pytest.mark.parametrize("seed", range(INSTANTS))
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

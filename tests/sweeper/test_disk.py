"""Real sweeps on a disk that fills up, and with a ledger that is locked: they stop with one line, keep what is there,
and go on once the cause is gone. Toy trials, real Ray, real stores.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from jobs import fault_injection
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, load_ledger
from sweeper.storage.settings import read_stores
from tests.support.drivers import Driver, settings
from tests.support.invariants import check, outcomes, starts, whole
from tests.support.limits import fill, mounted
from tests.support.spaces import TOY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]
INI = "[storage]\nledger = sqlite:///sweeps/ledger.db?timeout=1\n"  # a lock is waited for a second


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk with a search space on it."""
    with mounted(tmp_path / "disk", "16m") as disk:
        (disk / "toy.yaml").write_text(TOY, encoding="utf-8")
        (disk / "mlflow.ini").write_text(INI, encoding="utf-8")
        yield disk


@pytest.fixture
def drive(disk: Path) -> Iterator[Callable[..., Driver]]:
    started: list[Driver] = []

    def drive(*arguments: str) -> Driver:
        started.append(Driver(disk, *arguments))
        return started[-1]

    yield drive
    for driver in started:
        driver.end()


def ledger_in(folder: Path) -> Ledger:
    return load_ledger(open_storage(read_stores(folder, {}).ledger), "toy")


def assert_stopped(driver: Driver, *words: str) -> None:
    """With exit code 4, no traceback, and one line that has all these words."""
    assert driver.wait() == 4, driver.said.read_text()
    said = driver.said.read_text()
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if all(word in line for word in words)]) == 1, said


def assert_goes_on(drive: Callable[..., Driver], folder: Path, finished: dict[int, int]) -> None:
    """The sweep ends well; what was finished is not trained again."""
    again = drive("resume", "toy")
    assert again.wait() == 0, again.said.read_text()
    ledger = ledger_in(folder)
    assert {(record.state, record.epochs) for record in ledger.records()} == {("COMPLETE", 4.0)}
    assert {number: starts(folder / f"sweeps/toy/trials/{number:04d}") for number in finished} == finished
    check(ledger, read_stores(folder, {}))


def finished_in(folder: Path) -> dict[int, int]:
    """How often each trial that has ended was started; none may have failed."""
    records = ledger_in(folder).records()
    assert {record.state for record in records} <= {"RUNNING", "COMPLETE"}
    ended = [record.number for record in records if record.state == "COMPLETE"]
    return {number: starts(folder / f"sweeps/toy/trials/{number:04d}") for number in ended}


def test_a_sweep_whose_disk_is_full_goes_on_when_there_is_room(
    drive: Callable[..., Driver], disk: Path, tmp_path: Path
) -> None:
    driver = drive("run", "toy.yaml", *settings(tmp_path))
    driver.until(lambda: len(list(tmp_path.glob("here-*"))) == 2 and waited(disk))
    filler = fill(disk)
    (tmp_path / "go").touch()
    assert driver.wait() == 4
    filler.unlink()
    assert_stopped(driver, str(disk), "bytes")
    assert whole(disk / "sweeps/ledger.db")
    assert_goes_on(drive, disk, finished_in(disk))


def waited(folder: Path) -> bool:
    """Whether two trials have two epochs on record."""
    return sum(len(record.evaluations) == 2 for record in ledger_in(folder).records()) == 2


@pytest.mark.long
def test_a_sweep_whose_ledger_is_locked_goes_on_when_it_is_free(
    drive: Callable[..., Driver], disk: Path, tmp_path: Path
) -> None:
    driver = drive("run", "toy.yaml", *settings(tmp_path))
    driver.until(lambda: len(list(tmp_path.glob("here-*"))) == 2 and waited(disk))
    with closing(sqlite3.connect(disk / "sweeps/ledger.db", isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        (tmp_path / "go").touch()
        assert_stopped(driver, "ledger.db", "database is locked")
    assert_goes_on(drive, disk, finished_in(disk))


@pytest.mark.long
def test_a_trial_that_finds_no_room_is_not_a_failed_one(
    drive: Callable[..., Driver], disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = "checkpoint.rename:2:full"
    (disk / "asked").write_text(fault)
    with monkeypatch.context() as patch:
        patch.setenv(fault_injection.VARIABLE, str(disk))
        driver = drive("run", "toy.yaml", "search.trials=3")
        assert_stopped(driver, "No space left on device", "bytes")
    assert fault_injection.happened(disk) == [fault]
    assert fault_injection.VARIABLE not in os.environ
    assert_goes_on(drive, disk, finished_in(disk))
    assert len(outcomes(ledger_in(disk))) == 3

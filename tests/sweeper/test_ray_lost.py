"""Real sweeps whose Ray is killed, stopped or loses its files. Toy trials, real Ray, real stores.

In the tier `long`, SWEEPER_KILLS=15 sets the number of kills in each sweep of the last test.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.drivers import Driver, assert_free, ledger_in, settings, stores_in, waiting
from tests.support.invariants import check, starts
from tests.support.spaces import TOY

KILLS = int(os.environ.get("SWEEPER_KILLS", "15"))
LIMIT = 60.0  # seconds in which a driver ends once its Ray is lost
PARTS = {
    "raylet": "raylet/raylet ",
    "gcs_server": "gcs/gcs_server ",
    "agent": "ray::DashboardAgent",
    "runtime_env_agent": "ray::RuntimeEnvAgent",
    "log_monitor": "log_monitor.py",
    "trial": "ray::ImplicitFunc",
    "worker": "ray::OtherWorker",
}
WORKERS = "resources={workers: 2, gpus: 0}"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]


def long(*values: object) -> Any:
    """Return parameters whose test is in the tier `long`."""
    return pytest.param(*values, marks=pytest.mark.long)


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


def processes_of(driver: Driver, part: str) -> list[psutil.Process]:
    """Return the processes of a driver that are this part of Ray."""
    found = []
    for process in driver.orphans():
        with suppress(psutil.NoSuchProcess):
            if PARTS[part] in " ".join(process.cmdline()) + " ":
                found.append(process)
    return found


def lost(driver: Driver, part: str, signum: signal.Signals) -> None:
    """Send a signal to a part of Ray, which must be there."""
    processes = processes_of(driver, part)
    assert processes
    for process in processes:
        process.send_signal(signum)


def assert_ended(driver: Driver, *words: str) -> None:
    """Assert that the driver ends in time with one line that has these words, exit code 4, and nothing left."""
    began = time.monotonic()
    assert driver.wait(LIMIT) == 4, driver.said.read_text()
    print(f"ended after {time.monotonic() - began:.0f} s")
    said = driver.said.read_text()
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if "sweeper resume toy" in line]) == 1, said
    assert all(word in said for word in ("Ray has failed", *words)), said
    psutil.wait_procs(driver.orphans(), timeout=5)
    assert driver.orphans() == []


def session_of(driver: Driver) -> Path:
    """Return the folder of a driver's Ray."""
    command = processes_of(driver, "raylet")[0].cmdline()
    return Path(next(word for word in command if word.startswith("--raylet_socket_name=")).split("=")[1]).parents[1]


def assert_resumes(drive: Callable[..., Driver], folder: Path) -> None:
    """Assert that the two trials that waited go on from their second epoch."""
    (folder / "go").touch()
    again = drive("resume", "toy")
    assert again.wait() == 0, again.said.read_text()
    assert "0 of 3 trials are finished, 2 resume from epochs 2 and 2" in again.said.read_text()
    ledger = ledger_in(folder)
    assert [(record.state, record.epochs) for record in ledger.records()] == [("COMPLETE", 4.0)] * 3
    assert [record.incidents for record in ledger.records()] == [()] * 3  # not their fault
    check(ledger, stores_in(folder))


@pytest.mark.parametrize(
    ("part", "signum", "cause"),
    [
        ("gcs_server", signal.SIGKILL, "its process gcs_server has ended"),
        long("raylet", signal.SIGKILL, "its process raylet has ended"),
        long("agent", signal.SIGKILL, "has ended"),
        long("runtime_env_agent", signal.SIGKILL, "has ended"),
        long("raylet", signal.SIGSTOP, "its process raylet is stopped"),
        long("gcs_server", signal.SIGSTOP, "its process gcs_server is stopped"),
        long("agent", signal.SIGSTOP, "is stopped"),
    ],
)
def test_a_sweep_whose_ray_is_lost_ends_with_a_line_and_goes_on(
    drive: Callable[..., Driver], tmp_path: Path, part: str, signum: signal.Signals, cause: str
) -> None:
    driver = drive("run", "toy.yaml", *settings(tmp_path))
    driver.until(waiting(tmp_path))
    lost(driver, part, signum)
    assert_ended(driver, cause)
    assert_free(tmp_path)
    ledger = ledger_in(tmp_path)
    assert {record.state for record in ledger.records()} == {"RUNNING"}
    check(ledger, stores_in(tmp_path))  # also MLflow's runs are closed
    assert_resumes(drive, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("removed", ["", "sockets", "logs"])
def test_a_sweep_whose_temporary_files_are_removed_ends_with_a_line_and_goes_on(
    drive: Callable[..., Driver], tmp_path: Path, removed: str
) -> None:
    driver = drive("run", "toy.yaml", *settings(tmp_path))
    driver.until(waiting(tmp_path))
    shutil.rmtree(session_of(driver) / removed)
    assert_ended(driver, "was removed")
    assert_resumes(drive, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("part", ["log_monitor"])
def test_a_sweep_goes_on_without_what_it_does_not_need(drive: Callable[..., Driver], tmp_path: Path, part: str) -> None:
    driver = drive("run", "toy.yaml", *settings(tmp_path))
    driver.until(waiting(tmp_path))
    lost(driver, part, signal.SIGKILL)
    (tmp_path / "go").touch()
    assert driver.wait() == 0, driver.said.read_text()
    check(ledger_in(tmp_path), stores_in(tmp_path))


@pytest.mark.long
@pytest.mark.parametrize("part", ["gcs_server", "raylet", "agent"])
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=lambda s: s.name)
def test_a_sweep_whose_ray_is_lost_while_it_starts_ends_with_a_line(
    drive: Callable[..., Driver], tmp_path: Path, part: str, signum: signal.Signals
) -> None:
    driver = drive("run", "toy.yaml")
    driver.until(lambda: bool(processes_of(driver, part)))
    lost(driver, part, signum)
    began = time.monotonic()
    assert driver.wait(LIMIT + 10) == 4, driver.said.read_text()
    print(f"ended after {time.monotonic() - began:.0f} s: {driver.said.read_text().splitlines()[-1]}")
    assert "Traceback" not in driver.said.read_text()
    assert driver.said.read_text().count("Ray") >= 1
    psutil.wait_procs(driver.orphans(), timeout=5)
    assert driver.orphans() == []
    assert drive("resume", "toy").wait() == 0
    check(ledger_in(tmp_path), stores_in(tmp_path))


def finished(folder: Path) -> dict[int, int]:
    """Return how often each trial that is COMPLETE was started; {} before there is a ledger."""
    with suppress(Exception):
        numbers = [record.number for record in ledger_in(folder).records() if record.state == "COMPLETE"]
        return {number: starts(folder / f"sweeps/toy/trials/{number:04d}") for number in numbers}
    return {}


def recorded(folder: Path) -> bool:
    """Return True if the sweep's creation is complete, so that it can be resumed."""
    with suppress(Exception):
        return bool(ledger_in(folder).records())
    return False


def ended_by_ray(driver: Driver) -> bool:
    """Return True if Ray 2.60 has ended the process itself, as it does while a driver joins a lost raylet."""
    log = driver.said.parent / "sweeps/toy/log.txt"
    return "Failed to register worker to Raylet" in log.read_text().splitlines()[-1]


def assert_survives(driver: Driver, victim: str) -> None:
    """Assert that a driver ends or goes on as it must after a kill."""
    if victim in ("trial", "worker"):
        return
    code = driver.wait(LIMIT)
    if code != 1 or not ended_by_ray(driver):
        assert code == (-signal.SIGKILL if victim == "driver" else 4), driver.said.read_text()
    assert "Traceback" not in driver.said.read_text()
    psutil.wait_procs(driver.orphans(), timeout=90)  # Ray's agents end by themselves, on a busy machine late
    assert driver.orphans() == []


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("seed", "workers"), [(1, ()), (2, (WORKERS,))], ids=["trials of one worker", "trials of two workers"]
)
def test_no_trial_is_lost_or_run_twice_whatever_is_killed(
    drive: Callable[..., Driver], tmp_path: Path, seed: int, workers: tuple[str, ...]
) -> None:
    """Each kill strikes one part of the sweep's process tree, seconds after the last one; every part has its turns."""
    chance, done, deck = random.Random(seed), list[str](), list[str]()
    trials = 2 * KILLS
    made = (f"search={{sampler: random, trials: {trials}}}", "parameters.pace=2", "budget={retries: 100}", *workers)
    victims = ["driver", "trial", "raylet", "gcs_server", "agent", *(["worker"] if workers else [])]
    driver = drive("run", "toy.yaml", *made)
    while len(done) < KILLS:
        with suppress(subprocess.TimeoutExpired):
            assert driver.wait(chance.uniform(5, 20)) == 0, driver.said.read_text()
            break
        deck = deck or chance.sample(victims, len(victims))
        living = {name: processes_of(driver, name) for name in deck if name != "driver"}
        living["driver"] = [psutil.Process(driver.process.pid)]
        victim = next((name for name in deck if living[name]), None)
        if victim is None:
            continue
        deck.remove(victim)
        chance.choice(living[victim]).send_signal(signal.SIGKILL)
        before, began = finished(tmp_path), time.monotonic()
        done.append(victim)
        print(f"{len(done)}: {victim}, {len(before)} finished", flush=True)
        assert_survives(driver, victim)
        print(f"  {time.monotonic() - began:.0f} s", flush=True)
        if driver.process.poll() is not None:
            driver = drive("resume", "toy") if recorded(tmp_path) else drive("run", "toy.yaml", *made)
        assert before.items() <= finished(tmp_path).items()
    assert driver.wait(3600) == 0, driver.said.read_text()
    ledger = ledger_in(tmp_path)
    print(f"seed {seed}: {len(done)} kills: {', '.join(done)}")
    assert [(record.state, record.epochs) for record in ledger.records()] == [("COMPLETE", 4.0)] * trials
    check(ledger, stores_in(tmp_path))

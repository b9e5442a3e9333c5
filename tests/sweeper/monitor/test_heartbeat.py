"""A driver's sign of life, and what it hears through the ledger. Real ledgers; other drivers are notes of theirs."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import count
from typing import Any

import pytest
from optuna.storages import RDBStorage

from sweeper.ledger.ledger import Ledger, create_ledger
from sweeper.monitor import heartbeat
from sweeper.monitor.heartbeat import (
    HEARTBEAT_SECONDS,
    SILENT_SECONDS,
    Driver,
    driver_heartbeat,
    driver_of,
    process_namespace,
    request_stop,
    stop_request,
)
from sweeper.process.signals import Interrupt
from sweeper.space.search_space import SearchSpace

Make = Callable[..., SearchSpace]
PATIENCE = 20.0
ELSEWHERE = Driver("a", "there", 7, "another kernel", started=1000.0, seen=1060.0)


@pytest.fixture
def ledger(storage: RDBStorage, toy_space: Make) -> Ledger:
    return create_ledger(storage, toy_space(), "toy")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks and signs all the time."""
    monkeypatch.setattr(heartbeat, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.0)


@pytest.fixture
def told() -> Iterator[threading.Event]:
    """Set by a SIGINT."""
    told = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: told.set())
    yield told
    signal.signal(signal.SIGINT, before)


def test_a_driver_elsewhere_is_judged_by_its_last_sign_of_life() -> None:
    assert ELSEWHERE.state(ELSEWHERE.seen + HEARTBEAT_SECONDS) == "running"
    assert ELSEWHERE.state(ELSEWHERE.seen + SILENT_SECONDS + 1) == "silent"
    assert replace(ELSEWHERE, ended=1060.0).state(1061.0) == "ended"


def test_a_driver_that_is_gone_from_this_machine_has_died() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    here_once = replace(ELSEWHERE, pid=process.pid, place=process_namespace())
    assert process_namespace()
    assert here_once.state(1061.0) == "died"
    assert replace(here_once, pid=os.getpid()).state(1061.0) == "running"
    assert replace(here_once, place="").state(1061.0) == "running"  # nobody knows where to look


def test_a_killed_driver_that_nobody_has_buried_has_died() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert replace(ELSEWHERE, pid=process.pid, place=process_namespace()).state(1061.0) == "died"
    process.communicate()


def test_a_request_is_for_one_start_of_a_driver(ledger: Ledger) -> None:
    request_stop(ledger, ELSEWHERE, "stop")
    assert stop_request(ELSEWHERE, ledger.latest_attributes()) == "stop"
    assert stop_request(replace(ELSEWHERE, id="b"), ledger.latest_attributes()) is None
    request_stop(ledger, ELSEWHERE, "now")
    assert stop_request(ELSEWHERE, ledger.latest_attributes()) == "now"


def test_a_driver_says_where_it_is_and_when_it_has_ended(ledger: Ledger) -> None:
    with driver_heartbeat(ledger, Interrupt()):
        driver = driver_of(ledger.latest_attributes())
        assert driver is not None
        assert (driver.pid, driver.place) == (os.getpid(), process_namespace())
        assert driver.state(ledger.now()) == "running"
    ended = driver_of(ledger.latest_attributes())
    assert ended is not None
    assert ended.id == driver.id
    assert ended.state(ledger.now()) == "ended"


@pytest.mark.usefixtures("hurried")
def test_a_driver_goes_on_signing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, late = count(100), threading.Event()

    def now(_: Ledger) -> float:
        tick = next(clock)
        if tick > 103:
            late.set()
        return float(tick)

    monkeypatch.setattr(Ledger, "now", now)
    with driver_heartbeat(ledger, Interrupt()):
        assert late.wait(PATIENCE)
        driver = driver_of(ledger.latest_attributes())
    assert driver is not None
    assert (driver.started, driver.ended) == (100.0, None)
    assert driver.seen >= 103.0


@pytest.mark.usefixtures("hurried")
def test_a_driver_that_is_asked_gets_the_signal(ledger: Ledger, told: threading.Event) -> None:
    with driver_heartbeat(ledger, Interrupt()):
        request_stop(ledger, ELSEWHERE, "stop")  # for another
        assert not told.wait(0.05)
        driver = driver_of(ledger.latest_attributes())
        assert driver is not None
        request_stop(ledger, driver, "stop")
        assert told.wait(PATIENCE)


@pytest.mark.usefixtures("hurried")
def test_a_request_never_counts_as_a_second_signal(ledger: Ledger, told: threading.Event) -> None:
    interrupt = Interrupt()
    interrupt.asked = signal.SIGTERM
    interrupt.ask()
    assert not told.wait(0.05)


@pytest.mark.usefixtures("hurried")
def test_a_driver_that_is_to_end_at_once_signs_off_before(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    left, states = threading.Event(), []

    def leave(signum: int) -> None:
        driver = driver_of(ledger.latest_attributes())
        states.append((signum, driver and driver.ended is not None))
        left.set()

    monkeypatch.setattr(heartbeat, "exit_now", leave)
    with driver_heartbeat(ledger, Interrupt()):
        driver = driver_of(ledger.latest_attributes())
        assert driver is not None
        request_stop(ledger, driver, "now")
        assert left.wait(PATIENCE)
    assert states[0] == (signal.SIGINT, True)


@pytest.mark.usefixtures("hurried")
def test_a_ledger_that_is_away_for_a_while_does_not_end_the_heartbeat(
    ledger: Ledger, told: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, tries = Ledger.latest_attributes, count()

    def failing(self: Ledger) -> Any:
        if threading.current_thread().name == "heartbeat" and next(tries) < 3:
            raise sqlite3.OperationalError("database is locked")
        return read(self)

    monkeypatch.setattr(Ledger, "latest_attributes", failing)
    with driver_heartbeat(ledger, Interrupt()):
        driver = driver_of(ledger.latest_attributes())
        assert driver is not None
        request_stop(ledger, driver, "stop")
        assert told.wait(PATIENCE)
    assert next(tries) > 3


def test_who_waits_hears_of_the_end(ledger: Ledger) -> None:
    now = ledger.now()
    driver = replace(ELSEWHERE, started=now, seen=now)
    ledger.set_attribute(heartbeat.DRIVER, asdict(driver))
    assert heartbeat.wait_for_driver(ledger, driver, timeout=0.0, pause=pytest.fail) == "running"

    def meanwhile(_: float) -> None:
        ledger.set_attribute(heartbeat.DRIVER, asdict(replace(driver, id="the next one")))

    assert heartbeat.wait_for_driver(ledger, driver, PATIENCE, meanwhile) == "ended"

"""Record a driver's heartbeat in the ledger and carry out requests to stop it. Any machine that reaches the ledger can
read the heartbeat and ask the driver to stop. All times are the database's, so the machines' clocks need not agree."""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import psutil
from sqlalchemy.exc import SQLAlchemyError

from sweeper.ledger.database import DATABASE_ERRORS
from sweeper.ledger.ledger import Ledger
from sweeper.process.signals import SIGNALS, Interrupt, exit_now

DRIVER = "driver"
STOP = "stop"
POLL_SECONDS = 5.0  # between two reads of the stop request; a read takes 18 ms in a ledger of 2,000 trials
HEARTBEAT_SECONDS = 30.0  # between two heartbeats; a write takes 4 ms
SILENT_SECONDS = 100.0  # after three missed heartbeats it is unknown if the driver still runs
BOOT = Path("/proc/sys/kernel/random/boot_id")
PIDS = Path("/proc/self/ns/pid")

State = Literal["running", "silent", "died", "ended"]
StopRequest = Literal["stop", "now"]


@dataclass(frozen=True)
class Driver:
    """Describe the process that runs a sweep. Times are the ledger's clock, in seconds since 1970.

    id     unique for each start; a stop request names it, so that it cannot stop a later driver
    place  the result of `process_namespace` where `pid` is valid
    seen   time of the last heartbeat
    ended  time of an orderly end; None for a driver that runs or was killed
    """

    id: str
    host: str
    pid: int
    place: str
    started: float
    seen: float
    ended: float | None = None

    def state(self, now: float) -> State:
        """Return the driver's state. A dead driver is `died` on its own machine and `silent` on all others."""
        if self.ended is not None:
            return "ended"
        if self.place and self.place == process_namespace() and process_ended(self.pid):
            return "died"
        return "silent" if now - self.seen > SILENT_SECONDS else "running"


def process_namespace() -> str:
    """Return an id of the machine's boot and the container, within which process ids are valid; empty if unknown."""
    try:
        return f"{BOOT.read_text().strip()} {PIDS.readlink()}"
    except OSError:
        return ""


def process_ended(pid: int) -> bool:
    """Return True if no process has this id, or only a zombie."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def driver_of(attributes: Mapping[str, Any]) -> Driver | None:
    """Return the newest driver from `Ledger.latest_attributes`; None if the sweep has never had a driver."""
    return Driver(**attributes[DRIVER]) if DRIVER in attributes else None


def stop_request(driver: Driver, attributes: Mapping[str, Any]) -> StopRequest | None:
    """Return the stop request to this driver, None if there is none."""
    asked = attributes.get(STOP, {})
    return asked["wish"] if asked.get("driver") == driver.id else None


def request_stop(ledger: Ledger, driver: Driver, request: StopRequest) -> None:
    """Ask a driver to save its trials and stop (`stop`), or to stop at once (`now`)."""
    ledger.set_attribute(STOP, {"driver": driver.id, "wish": request})


def wait_for_driver(
    ledger: Ledger, driver: Driver, timeout: float, pause: Callable[[float], object] = time.sleep
) -> State:
    """Wait until the driver no longer runs, at most `timeout` seconds, and return its state: `ended` if a later driver
    has replaced it."""
    until = time.monotonic() + timeout
    while True:
        present = driver_of(ledger.latest_attributes())
        state = present.state(ledger.now()) if present and present.id == driver.id else "ended"
        if state != "running" or time.monotonic() > until:
            return state
        pause(1.0)


@contextmanager
def driver_heartbeat(ledger: Ledger, interrupt: Interrupt) -> Iterator[None]:
    """Register this process as the sweep's driver, write its heartbeat and carry out stop requests within the block.

    Database errors are ignored here, since the code that records trials reports them.
    """
    now = ledger.now()
    driver = Driver(uuid4().hex, platform.node(), os.getpid(), process_namespace(), started=now, seen=now)
    write_heartbeat(ledger, driver)
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(ledger, driver, interrupt, over), name="heartbeat", daemon=True)
    thread.start()
    try:
        with interrupt.before_end(lambda: write_end(ledger, driver)):
            yield
    finally:
        over.set()
        thread.join()
        with suppress(*DATABASE_ERRORS):
            write_end(ledger, driver)


def write_heartbeat(ledger: Ledger, driver: Driver) -> None:
    ledger.set_attribute(DRIVER, asdict(driver))


def write_end(ledger: Ledger, driver: Driver) -> None:
    now = ledger.now()
    write_heartbeat(ledger, replace(driver, seen=now, ended=now))


def _beat(ledger: Ledger, driver: Driver, interrupt: Interrupt, over: threading.Event) -> None:
    # the main thread must receive the signals, since it can delay their handling
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    written = time.monotonic()
    while not over.wait(POLL_SECONDS):
        with suppress(*DATABASE_ERRORS, SQLAlchemyError):
            carry_out(stop_request(driver, ledger.latest_attributes()), ledger, driver, interrupt)
            if time.monotonic() - written >= HEARTBEAT_SECONDS:
                write_heartbeat(ledger, replace(driver, seen=ledger.now()))
                written = time.monotonic()


def carry_out(request: StopRequest | None, ledger: Ledger, driver: Driver, interrupt: Interrupt) -> None:
    """Act on a stop request: `stop` like a first SIGINT, `now` like a second one."""
    if request == "stop":
        interrupt.ask()
    if request == "now":
        with suppress(*DATABASE_ERRORS):
            write_end(ledger, driver)
        exit_now(signal.SIGINT)

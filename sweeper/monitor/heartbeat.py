"""A driver's sign of life in the ledger, and its ear for `sweeper stop`. Both go through the ledger alone, so that they
work from every machine that reaches it. Which of two clocks is right never matters: every time is the ledger's own."""

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
LOOK = 5.0  # seconds between two looks for a request: 18 ms each of a ledger of 2,000 trials
BEAT = 30.0  # seconds between two signs of life, a write of 4 ms each
SILENT = 100.0  # seconds without one, three missed, after which nothing is known of a driver
BOOT = Path("/proc/sys/kernel/random/boot_id")
PIDS = Path("/proc/self/ns/pid")

State = Literal["running", "silent", "died", "ended"]
Wish = Literal["stop", "now"]


@dataclass(frozen=True)
class Driver:
    """The process that runs a sweep, as it says of itself. Times are the ledger's clock, in seconds since 1970.

    id     one start of it; a request to stop is for this alone, so that none reaches the driver that comes after
    place  where `pid` means something, see `here`
    seen   its last sign of life
    ended  when it came to its end by itself; None before, and for ever when it is killed
    """

    id: str
    host: str
    pid: int
    place: str
    started: float
    seen: float
    ended: float | None = None

    def state(self, now: float) -> State:
        """`died` is known where the process would be; from elsewhere a driver that is cut off is `silent` too."""
        if self.ended is not None:
            return "ended"
        if self.place and self.place == here() and gone(self.pid):
            return "died"
        return "silent" if now - self.seen > SILENT else "running"


def here() -> str:
    """What tells the processes that can be looked up by number: this start of this kernel, and its container. Empty
    where that cannot be told."""
    try:
        return f"{BOOT.read_text().strip()} {PIDS.readlink()}"
    except OSError:
        return ""


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def driver_of(notes: Mapping[str, Any]) -> Driver | None:
    """The newest driver of the sweep with these notes (`Ledger.notes`); None where none has signed."""
    return Driver(**notes[DRIVER]) if DRIVER in notes else None


def wish_for(driver: Driver, notes: Mapping[str, Any]) -> Wish | None:
    """What this driver has been asked to do."""
    asked = notes.get(STOP, {})
    return asked["wish"] if asked.get("driver") == driver.id else None


def ask(ledger: Ledger, driver: Driver, wish: Wish) -> None:
    """Ask a driver to come to its end: in good order, or at once."""
    ledger.note(STOP, {"driver": driver.id, "wish": wish})


def wait_for_driver(
    ledger: Ledger, driver: Driver, patience: float, pause: Callable[[float], object] = time.sleep
) -> State:
    """The driver's state once it no longer runs, or after so many seconds. One that another has followed has ended."""
    until = time.monotonic() + patience
    while True:
        present = driver_of(ledger.notes())
        state = present.state(ledger.now()) if present and present.id == driver.id else "ended"
        if state != "running" or time.monotonic() > until:
            return state
        pause(1.0)


@contextmanager
def as_driver(ledger: Ledger, interrupt: Interrupt) -> Iterator[None]:
    """This process is the sweep's driver meanwhile: it shows that it lives, and comes to its end when it is asked.

    A ledger that cannot be reached for a while is no reason to end: whoever needs it for a trial will say so.
    """
    now = ledger.now()
    driver = Driver(uuid4().hex, platform.node(), os.getpid(), here(), started=now, seen=now)
    sign(ledger, driver)
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(ledger, driver, interrupt, over), name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(*DATABASE_ERRORS):
            sign_off(ledger, driver)


def sign(ledger: Ledger, driver: Driver) -> None:
    ledger.note(DRIVER, asdict(driver))


def sign_off(ledger: Ledger, driver: Driver) -> None:
    now = ledger.now()
    sign(ledger, replace(driver, seen=now, ended=now))


def _watch(ledger: Ledger, driver: Driver, interrupt: Interrupt, over: threading.Event) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they are the main thread's, which may be holding them back
    signed = time.monotonic()
    while not over.wait(LOOK):
        with suppress(*DATABASE_ERRORS, SQLAlchemyError):
            obey(wish_for(driver, ledger.notes()), ledger, driver, interrupt)
            if time.monotonic() - signed >= BEAT:
                sign(ledger, replace(driver, seen=ledger.now()))
                signed = time.monotonic()


def obey(wish: Wish | None, ledger: Ledger, driver: Driver, interrupt: Interrupt) -> None:
    """Do as a first signal would, or as a second."""
    if wish == "stop":
        interrupt.ask()
    if wish == "now":
        with suppress(*DATABASE_ERRORS):
            sign_off(ledger, driver)
        exit_now(signal.SIGINT)

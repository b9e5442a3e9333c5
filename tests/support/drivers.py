"""Start `sweeper` commands in processes of their own and watch their sweeps."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
from filelock import FileLock

from jobs import fault_injection
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, load_ledger
from sweeper.storage.settings import Stores, read_stores

ROOT = Path(__file__).parents[2]
DRIVER_SECONDS = 180.0


class Driver:
    """A `sweeper` command in a session of its own, so that its descendants can be told from all others."""

    def __init__(self, folder: Path, *arguments: str, faulty: bool = False, alone: bool = False) -> None:
        """With `faulty` the faults happen that are asked for in `folder`; `alone` leaves it one CPU, on which trials
        run one after the other with a thread each."""
        stores = ("SWEEPER_ROOT", "SWEEPER_LEDGER", "MLFLOW_TRACKING_URI")
        environment = {name: value for name, value in os.environ.items() if name not in stores}
        self.said = folder / "said.txt"
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from sweeper.cli import main; main()", *arguments],
                cwd=folder,
                env={
                    **environment,
                    "PYTHONPATH": str(ROOT),
                    **({fault_injection.VARIABLE: str(folder)} if faulty else {}),
                },
                stdout=said,
                stderr=said,
                start_new_session=True,
                preexec_fn=partial(os.sched_setaffinity, 0, {min(os.sched_getaffinity(0))}) if alone else None,
            )

    def wait(self, seconds: float = DRIVER_SECONDS) -> int:
        return self.process.wait(seconds)

    def until(self, happened: Callable[[], bool]) -> None:
        """Watch for something the driver brings about."""
        deadline = time.monotonic() + DRIVER_SECONDS
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


def stores_in(folder: Path) -> Stores:
    """Read the stores of a folder, with no variables set."""
    return read_stores(folder, {})


def ledger_in(folder: Path) -> Ledger:
    """Load the ledger of sweep `toy` in a folder."""
    return load_ledger(open_storage(stores_in(folder).ledger), "toy")


def settings(folder: Path) -> tuple[str, ...]:
    """Return overrides for three trials, each of which waits after its second epoch."""
    return ("search.trials=3", "parameters.trouble=wait", f"parameters.folder={folder}")


def waiting(folder: Path) -> Callable[[], bool]:
    """Return a test for two trials whose second epochs are in the ledger."""

    def happened() -> bool:
        if len(list(folder.glob("here-*"))) < 2:
            return False
        return sum(len(record.evaluations) == 2 for record in ledger_in(folder).records()) == 2

    return happened


def assert_free(folder: Path) -> None:
    """Take the lock of sweep `toy`: no driver holds it."""
    with FileLock(folder / "sweeps/toy/lock", timeout=0):
        pass


def driven(folder: Path, *arguments: str) -> str:
    """Run a command in a process of its own and return its output."""
    driver = Driver(folder, *arguments)
    try:
        assert driver.wait() == 0, driver.said.read_text()
    finally:
        driver.end()
    return driver.said.read_text()

"""Real drivers, looked at, stopped, killed and left alone from other processes; one in a terminal that is closed."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from sweeper.monitor.heartbeat import driver_of
from sweeper.monitor.status import status
from sweeper.process.signals import SHUTDOWN_SECONDS as ORDERLY
from tests.support.drivers import DRIVER_SECONDS, ROOT, Driver, assert_free, ledger_in, settings, stores_in, waiting
from tests.support.invariants import check
from tests.support.spaces import TOY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]


def sweeper(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command to its end, in `folder`."""
    hidden = ("SWEEPER_ROOT", "SWEEPER_LEDGER", "MLFLOW_TRACKING_URI")
    return subprocess.run(
        [sys.executable, "-c", "from sweeper.cli import main; main()", *arguments],
        cwd=folder,
        env={**{k: v for k, v in os.environ.items() if k not in hidden}, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DRIVER_SECONDS,
    )


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Path]:
    """A folder with the toy's search space. A driver that is left running there is killed."""
    (tmp_path / "toy.yaml").write_text(TOY, encoding="utf-8")
    yield tmp_path
    with suppress(Exception):
        driver = driver_of(ledger_in(tmp_path).latest_attributes())
        assert driver is not None
        for process in (psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)):
            process.kill()


def test_stop_ends_a_sweep_as_ctrl_c_does(toy: Path) -> None:
    driver = Driver(toy, "run", "toy.yaml", *settings(toy))
    try:
        driver.until(waiting(toy))
        seen = json.loads(sweeper(toy, "status", "toy", "--json").stdout)
        assert (seen["state"], seen["process"]["pid"]) == ("running", driver.process.pid)
        assert sorted(one["epoch"] for one in seen["running"])[-2:] == [2.0, 2.0]
        stopped = sweeper(toy, "stop", "toy")
        assert stopped.returncode == 0, stopped.stderr
        assert "toy: stopped; nothing that was finished is lost" in stopped.stderr
        assert driver.wait(ORDERLY) == 128 + signal.SIGINT
        assert driver.orphans() == []
        assert_free(toy)
        assert {record.state for record in ledger_in(toy).records()} == {"RUNNING"}
        check(ledger_in(toy), stores_in(toy))
    finally:
        driver.end()
    (toy / "go").touch()
    again = sweeper(toy, "resume", "toy")  # which does not obey what the one before was asked
    assert again.returncode == 0, again.stderr
    assert [record.state for record in ledger_in(toy).records()] == ["COMPLETE"] * 3


def test_stop_now_ends_it_at_once(toy: Path) -> None:
    driver = Driver(toy, "run", "toy.yaml", *settings(toy))
    try:
        driver.until(waiting(toy))
        stopped = sweeper(toy, "stop", "toy", "--now")
        assert stopped.returncode == 0, stopped.stderr
        assert driver.wait(5) == 128 + signal.SIGINT
        psutil.wait_procs(driver.orphans(), timeout=5)
        assert driver.orphans() == []
        assert_free(toy)
        check(ledger_in(toy), stores_in(toy), mirrored=False, tidy=False)
    finally:
        driver.end()


def test_a_killed_driver_is_known_to_have_died(toy: Path) -> None:
    driver = Driver(toy, "run", "toy.yaml", *settings(toy))
    try:
        driver.until(waiting(toy))
        driver.process.send_signal(signal.SIGKILL)
        driver.wait()
    finally:
        driver.end()
    assert sweeper(toy, "status", "toy").stdout.startswith(f"toy: died: process {driver.process.pid} on ")
    stopped = sweeper(toy, "stop", "toy")
    assert (stopped.returncode, "nothing to stop, its driver has died" in stopped.stderr) == (0, True)


def test_a_detached_sweep_goes_on_when_its_terminal_is_closed(toy: Path) -> None:
    """With a real terminal and a shell that leads its session: the kernel ends all that belong to it by SIGHUP."""
    (toy / "go").touch()
    command = f'"{sys.executable}" -c "from sweeper.cli import main; main()" run toy.yaml --detach; read more'
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(toy)
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv("/bin/sh", ["sh", "-c", command])
    said = b""
    while b"sweeper stop toy" not in said:
        said += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGHUP
    driver = driver_of(ledger_in(toy).latest_attributes())
    assert driver is not None
    assert f"process {driver.pid};" in said.decode()
    with suppress(psutil.NoSuchProcess):
        psutil.Process(driver.pid).wait(DRIVER_SECONDS)
    ledger = ledger_in(toy)
    assert status(ledger).lines()[0] == "toy: not running"
    assert [record.state for record in ledger.records()] == ["COMPLETE"] * 8
    check(ledger, stores_in(toy))
    output = toy / "sweeps/toy/output.txt"
    assert output.stat().st_mode & 0o777 == 0o600
    text = output.read_text()
    assert text.count("complete") >= 8  # a line for each trial, and no live table
    assert "\x1b" not in text
    assert "next: sweeper compare toy" in text


def test_what_is_refused_is_refused_before_it_detaches(toy: Path) -> None:
    missing = sweeper(toy, "run", "toy.yaml", "--detach", "data=gone")
    assert (missing.returncode, len(missing.stderr.splitlines())) == (3, 1)
    assert sweeper(toy, "run", "nowhere.yaml", "--detach").returncode == 2
    driver = Driver(toy, "run", "toy.yaml", *settings(toy))
    try:
        driver.until(waiting(toy))
        second = sweeper(toy, "run", "toy.yaml", "--detach", *settings(toy))
        assert second.returncode == 4
        assert f"process {driver.process.pid} is running it" in second.stderr
        assert not (toy / "sweeps/toy/output.txt").exists()
    finally:
        driver.end()

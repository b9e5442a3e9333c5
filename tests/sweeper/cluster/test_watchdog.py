"""The watchdog with processes that stand for Ray's; what happens to a real sweep is in test_ray_lost.py."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sweeper.cluster import watchdog
from sweeper.cluster.watchdog import STOPPED_POLLS, RayParts, Watchdog
from sweeper.process.signals import Interrupt

ROOT = Path(__file__).parents[3]
STUCK = """\
import subprocess, sys, time
from sweeper.cluster import watchdog
from sweeper.process.signals import Interrupt
watchdog.POLL_SECONDS = watchdog.GRACE_SECONDS = 0.1
interrupt = Interrupt()
child = subprocess.Popen(["sleep", "600"])
print(child.pid, flush=True)
say = lambda line: print(line, flush=True)
"""
HANGS = """
with interrupt.before_end(lambda: say("bye")), watchdog.watchdog("toy", interrupt, say) as dog:
    with dog.limit(0.2, "start"):
        time.sleep(600)
"""
IN_ORDER = """
with watchdog.watchdog("toy", interrupt, say) as dog:
    dog.parts = watchdog.RayParts({"raylet": watchdog.psutil.Process(child.pid)}, (), watchdog.Path("."))
    child.kill()
    while not interrupt.stopping:
        time.sleep(0.01)
say(interrupt.cause)
"""


@pytest.fixture
def raylet() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.fixture
def dog(raylet: subprocess.Popen[bytes], tmp_path: Path) -> Watchdog:
    parts = RayParts({"raylet": psutil.Process(raylet.pid)}, (tmp_path / "socket",), tmp_path)
    (tmp_path / "socket").touch()
    return Watchdog("toy", Interrupt(), print, parts)


def test_while_ray_is_there_nothing_stops(dog: Watchdog) -> None:
    assert [dog.poll() for _ in range(2 * STOPPED_POLLS)] == [None] * 2 * STOPPED_POLLS


def test_a_killed_process_is_noticed_at_once(dog: Watchdog, raylet: subprocess.Popen[bytes]) -> None:
    dog.interrupt.probes.append(dog.problem)
    assert not dog.interrupt.stopping
    raylet.kill()
    while not watchdog.is_over(psutil.Process(raylet.pid)):
        pass
    assert dog.interrupt.stopping  # a zombie, since nobody has waited for it
    assert dog.interrupt.cause == (
        "sweep toy: Ray has failed; its process raylet has ended; all results are kept; run `sweeper resume toy`"
    )


def test_a_removed_file_is_noticed_at_once(dog: Watchdog, tmp_path: Path) -> None:
    (tmp_path / "socket").unlink()
    assert f"its file {tmp_path}/socket was removed" in str(dog.problem())


def test_a_stopped_process_is_given_time_to_go_on(dog: Watchdog, raylet: subprocess.Popen[bytes]) -> None:
    raylet.send_signal(signal.SIGSTOP)
    while not watchdog.is_stopped(psutil.Process(raylet.pid)):
        pass
    assert [dog.poll() for _ in range(STOPPED_POLLS - 1)] == [None] * (STOPPED_POLLS - 1)
    raylet.send_signal(signal.SIGCONT)
    while watchdog.is_stopped(psutil.Process(raylet.pid)):
        pass
    assert dog.poll() is None
    raylet.send_signal(signal.SIGSTOP)
    while not watchdog.is_stopped(psutil.Process(raylet.pid)):
        pass
    lines = [dog.poll() for _ in range(STOPPED_POLLS)]
    assert lines[:-1] == [None] * (STOPPED_POLLS - 1)
    assert "its process raylet is stopped" in str(lines[-1])


def run(code: str) -> tuple[int, list[str]]:
    """Return the exit code and the lines of a program."""
    done = subprocess.run([sys.executable, "-c", STUCK + code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.splitlines()


def test_a_main_thread_that_hangs_is_ended_with_a_line_and_its_children() -> None:
    code, (child, line, farewell) = run(HANGS)
    assert code == 4
    assert "Ray has failed; it did not start within" in line
    assert farewell == "bye"
    while psutil.pid_exists(int(child)) and not watchdog.is_over(psutil.Process(int(child))):
        pass


def test_a_main_thread_that_stops_in_order_is_left_alone() -> None:
    code, lines = run(IN_ORDER)
    assert code == 0
    assert len(lines) == 2
    assert "its process raylet has ended" in lines[1]

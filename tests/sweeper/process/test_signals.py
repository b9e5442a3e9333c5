"""Signals, each sent to a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HEAD = """\
import signal, subprocess, sys
from sweeper.process import signals
from sweeper.process.signals import Interrupt, Interrupted, handle_signals, signals_blocked

def ready():
    print("ready", flush=True)
    while True:
        signal.pause()
"""
PLAIN = """
try:
    with handle_signals(Interrupt()):
        ready()
except Interrupted as stop:
    print("stopped")
    sys.exit(stop.exit_code)
"""
HELD = """
with handle_signals(Interrupt()) as stop, stop.held():
    print("ready", flush=True)
    while stop.asked is None:
        signal.pause()
    print("in good order")
stop.raise_asked()
"""
STUCK = """
signals.SHUTDOWN_SECONDS = 0.2
with handle_signals(Interrupt()) as stop, stop.held():
    child = subprocess.Popen(["sleep", "600"])
    print(child.pid, flush=True)
    ready()
"""
REPLACED = """
try:
    with handle_signals(Interrupt()):
        with signals_blocked():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        ready()
except Interrupted as stop:
    sys.exit(stop.exit_code)
"""


def run(code: str, *signals: signal.Signals) -> tuple[int, str]:
    """Exit code and output of a program that gets these signals once it says it is ready."""
    with subprocess.Popen(
        [sys.executable, "-c", HEAD + code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        said = ""
        while not said.endswith("ready\n"):
            said += process.stdout.readline()
        for signum in signals:
            process.send_signal(signum)
        return process.wait(20), said + process.stdout.read()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_signal_ends_a_command_with_the_shells_code(signum: signal.Signals) -> None:
    assert run(PLAIN, signum) == (128 + signum, "ready\nstopped\n")


def test_where_signals_are_held_the_first_is_only_noted() -> None:
    code, said = run(HELD, signal.SIGTERM)
    assert said == "ready\nin good order\n"
    assert code != 0


def test_what_does_not_end_in_time_is_ended_with_its_children() -> None:
    code, said = run(STUCK, signal.SIGTERM)
    assert code == 143
    assert not running(int(said.split()[0]))


def test_handlers_that_a_library_sets_do_not_stay() -> None:
    assert run(REPLACED, signal.SIGTERM)[0] == 143


def running(pid: int) -> bool:
    try:
        return "(sleep) Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False

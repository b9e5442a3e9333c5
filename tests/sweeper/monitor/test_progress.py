"""Print what happens to trials while a sweep runs."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from sweeper.ledger.record import TrialRecord
from sweeper.monitor.progress import Progress
from tests.support.trials import record


def printed(earlier: list[TrialRecord], *changes: TrialRecord, width: int = 200) -> list[str]:
    """Return the lines that are printed for these changes on a screen of this width."""
    console = Console(file=io.StringIO(), width=width)
    progress = Progress(console, "height", "max", 8, ["backbone", "learning_rate"], earlier)
    for change in changes:
        progress.update(change)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_trial_that_had_ended_before_is_not_printed_again() -> None:
    earlier = [record(0, 0.5), record(1, 0.4, "RUNNING"), record(2, None, "FAIL", reason="broken")]
    assert printed(earlier, *earlier) == []
    ended = replace(earlier[1], state="PRUNED")
    (line,) = printed(earlier, *earlier, ended, ended)
    assert line.startswith("trial   1  stopped early")
    assert len(printed([], *earlier)) == 2


def test_an_incident_is_printed_once_and_not_again_by_the_next_run() -> None:
    incident = {"kind": "crash", "reason": "killed", "epoch": 1.0, "changed": {}}
    hurt = record(0, 0.5, "RUNNING", incidents=(incident,))
    assert printed([hurt], hurt) == []
    (line,) = printed([record(0, 0.5, "RUNNING")], hurt, hurt)
    assert line.startswith("trial   0  ")

"""Where the time of trials went: as the driver adds it up, and as `compare --timing` shows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.timing import PHASES
from sweeper.driver.searcher import TrialTimer
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, create_ledger
from sweeper.results.timing import phase_seconds, timing_table, timing_values
from sweeper.space.search_space import SearchSpace
from sweeper.storage.settings import read_stores
from tests.support.commands import invoke
from tests.support.trials import record

Make = Callable[..., SearchSpace]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock says, to be set."""
    now = [0.0]
    monkeypatch.setattr("sweeper.driver.searcher.time.monotonic", lambda: now[0])
    return now


def test_what_a_trial_cannot_see_is_waiting_and_start(clock: list[float]) -> None:
    attempts = TrialTimer()
    attempts.ask(7)
    clock[0] += 5
    attempts.begin(7)
    clock[0] += 12
    first = attempts.timing(7, {"start": 1, "training": 8})
    assert first == {"start": 4, "training": 8, "waiting": 5}
    clock[0] += 100
    assert attempts.timing(7, {"training": 8, "waiting": 1}) == {"training": 8, "waiting": 1}  # it sees all by now


def test_another_attempt_waits_and_starts_again(clock: list[float]) -> None:
    attempts = TrialTimer()
    for _ in range(2):
        attempts.ask(7)
        clock[0] += 1
        attempts.begin(7)
        clock[0] += 2
        assert attempts.timing(7, {"training": 1}) == {"training": 1, "waiting": 1, "start": 1}


@pytest.fixture
def ledger(here: Path, toy_space: Make) -> Ledger:
    """A trial of two attempts, and one that has told nothing."""
    space = toy_space()
    ledger = create_ledger(open_storage(read_stores().ledger), space, "toy")
    ledger.ask(space)
    for epoch, taken in enumerate(({"start": 3.0, "training": 6.0}, {"waiting": 1.0, "training": 2.0}), 1):
        metrics = {"height": 0.5, "eval_loss": 0.5, "epoch": float(epoch), "seconds": 1.0}
        ledger.report(0, metrics, None, taken)
    ledger.finish(0, "COMPLETE")
    ledger.ask(space)
    ledger.finish(1, "FAIL", "OSError: no")
    return ledger


def test_attempts_add_up(ledger: Ledger) -> None:
    first, second = ledger.records()
    assert phase_seconds(first) == {**dict.fromkeys(PHASES, 0), "start": 3, "training": 8, "waiting": 1}
    assert sum(phase_seconds(second).values()) == 0


def test_the_table_has_every_trial_and_their_sum(ledger: Ledger) -> None:
    found = timing_values(ledger.records())
    assert [row["trial"] for row in found["trials"]] == [0, 1]
    assert (found["total"]["training"], found["total"]["total"]) == (8, 12)
    shown = timing_table(ledger.records())
    assert [row[0] for row in shown.rows] == [0, 1, "all", "%"]
    assert shown.rows[-1][2:] == [25.0, 0.0, 66.7, 0.0, 0.0, 8.3, 100.0]


def test_the_wall_time_is_that_from_the_first_start_to_the_last_end() -> None:
    start = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
    spans = [(20, 50), (0, 30), (10, 90), (40, None)]
    records = [
        record(number, 0.5, started=start + timedelta(seconds=begun), ended=end and start + timedelta(seconds=end))
        for number, (begun, end) in enumerate(spans)
    ]
    assert timing_values(records)["wall_s"] == 90.0
    assert timing_table(records).caption == "seconds; 90 from the first trial's start to the last one's end"
    assert timing_values(records[3:])["wall_s"] is None


@pytest.mark.parametrize(("form", "word"), [("--table", "training"), ("--md", "| all |"), ("--csv", "all,,3.0")])
def test_compare_shows_it_in_every_form(ledger: Ledger, form: str, word: str) -> None:
    result = invoke("compare", "toy", "--timing", form)
    assert result.exit_code == 0, result.output
    assert word in result.stdout


def test_compare_prints_it_as_json(ledger: Ledger) -> None:
    result = invoke("compare", "toy", "--timing", "--json")
    assert json.loads(result.stdout) == timing_values(ledger.records())


def test_several_sweeps_have_no_such_table(ledger: Ledger) -> None:
    result = invoke("compare", "toy", "toy", "--timing")
    assert (result.exit_code, result.stderr[:10]) == (2, "--timing: ")

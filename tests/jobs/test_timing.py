from __future__ import annotations

import pytest

from jobs.timing import Stopwatch, phase, timed_by


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock says, to be set."""
    now = [100.0]
    monkeypatch.setattr("jobs.timing.time.monotonic", lambda: now[0])
    return now


def test_each_second_is_one_phases(clock: list[float]) -> None:
    watch = Stopwatch("start")
    clock[0] += 1
    with timed_by(watch), phase("training"):
        clock[0] += 10
        with phase("evaluation"):
            clock[0] += 2
            with phase("waiting"):
                clock[0] += 0.5
            clock[0] += 2
        clock[0] += 10
    assert watch.taken() == {"start": 1, "training": 20, "evaluation": 4, "waiting": 0.5}


def test_a_phase_that_fails_ends_as_well(clock: list[float]) -> None:
    watch = Stopwatch("training")

    def fail() -> None:
        with timed_by(watch), phase("checkpoints"):
            clock[0] += 3
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    clock[0] += 1
    assert watch.taken() == {"training": 1, "checkpoints": 3}


def test_what_is_asked_for_twice_is_told_once(clock: list[float]) -> None:
    watch = Stopwatch("training")
    clock[0] += 1
    assert watch.taken() == {"training": 1}
    clock[0] += 2
    assert watch.taken() == {"training": 2}


def test_without_a_watch_nothing_is_measured() -> None:
    watch = Stopwatch("start")
    with phase("training"):
        assert set(watch.taken()) == {"start"}

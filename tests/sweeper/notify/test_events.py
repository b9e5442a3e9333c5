"""What is told of a sweep, and when. Pure functions of its trials and of a clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sweeper.budget.limits import Ending
from sweeper.ledger.record import TrialRecord
from sweeper.notify.events import Message, Notices
from sweeper.space.search_space import SearchSpace
from tests.support.trials import record

Make = Callable[..., SearchSpace]


@pytest.fixture
def notices(toy_space: Make) -> Notices:
    return made(toy_space)


def made(toy_space: Make, *earlier: TrialRecord, notify: str = "{}", objective: str = "height") -> Notices:
    """Notices whose clock is their attribute `now`."""
    space = toy_space(f"notify={notify}", f"objective={objective}")
    found = Notices(space, "toy", earlier, lambda: 0.0)
    found.clock = lambda: getattr(found, "now", 0.0)
    return found


def told(notices: Notices, *records: TrialRecord, at: float = 0.0) -> list[Message]:
    notices.now = at  # type: ignore[attr-defined]
    return [message for one in records for message in notices.changed(one)]


def events(messages: list[Message]) -> list[str]:
    return [message.event for message in messages]


def test_only_the_first_failed_trial_is_told(notices: Notices) -> None:
    failed = [record(number, None, "FAIL", reason=f"reason {number}") for number in range(3)]
    (message,) = told(notices, *failed)
    assert message == Message("first_failure", "toy: trial 0 has failed", "after epoch 0: reason 0")


def test_a_trial_that_the_budget_ended_is_no_failure(notices: Notices) -> None:
    assert told(notices, record(0, None, "FAIL", ended_by="time")) == []


def test_what_had_happened_before_this_run_is_not_told(toy_space: Make) -> None:
    earlier = (record(0, 0.5), record(1, None, "FAIL", reason="died"), record(2, 0.4, "RUNNING"))
    notices = made(toy_space, *earlier)
    assert told(notices, *earlier) == []
    assert list(notices.ended(None)) == []  # this run has changed nothing
    assert told(notices, record(3, None, "FAIL", reason="died"), record(4, 0.45)) == []
    assert events(told(notices, record(5, 0.6))) == ["new_best"]


def test_a_new_best_is_told_at_most_once_in_a_time_and_then_the_latest(toy_space: Make) -> None:
    notices = made(toy_space, notify="{new_best_every: 10m}")
    (first,) = told(notices, record(0, 0.1, "RUNNING"))
    assert first.title == "toy: new best height 0.1000 (trial 0)"
    assert first.body == "after epoch 1: backbone=hill, learning_rate=1"
    assert told(notices, record(1, 0.2), record(2, 0.3), at=599) == []
    assert [one.title for one in told(notices, record(3, 0.1), at=600)] == ["toy: new best height 0.3000 (trial 2)"]
    assert told(notices, record(4, 0.3), at=5000) == []  # as good is not better


@pytest.mark.parametrize("worse", [{"state": "FAIL", "reason": "died"}, {"repeat_of": 0}])
def test_failures_and_repeats_are_no_new_best(toy_space: Make, worse: dict[str, Any]) -> None:
    notices = made(toy_space, notify="{events: [new_best]}")
    assert events(told(notices, record(0, 0.5))) == ["new_best"]
    assert told(notices, record(1, 0.9, **worse), at=10_000) == []


def test_the_lowest_is_the_best_of_an_objective_to_minimise(toy_space: Make) -> None:
    notices = made(toy_space, objective="eval_loss", notify="{new_best_every: 1s}")
    assert events(told(notices, record(0, 0.5))) == ["new_best"]
    assert told(notices, record(1, 0.6), at=10) == []
    assert events(told(notices, record(2, 0.4), at=20)) == ["new_best"]


@pytest.mark.parametrize(
    ("trials", "ending", "cause", "event", "title"),
    [
        ([record(0, 0.5), record(1, 0.4, "PRUNED")], None, None, "finished", "toy: finished"),
        ([record(0, None, "FAIL", reason="died")], None, None, "failed", "toy: no trial ended well"),
        ([record(0, 0.5)], Ending("cost", "it was spent", 3), None, "budget", "toy: ended by budget.cost"),
        ([record(0, 0.5)], None, "sweep toy: the disk is full", "failed", "toy: has stopped"),
        ([], None, "Ray has died", "failed", "toy: has stopped"),
    ],
)
def test_the_end_of_a_run_is_told(
    notices: Notices, trials: list[TrialRecord], ending: Ending | None, cause: str | None, event: str, title: str
) -> None:
    told(notices, *trials)
    notices.now = 90.0  # type: ignore[attr-defined]
    (message,) = notices.ended(ending, cause)
    assert (message.event, message.title) == (event, title)
    if event == "finished":
        counts = "2 trials: 1 finished, 1 stopped early"
        assert message.body == f"{counts}; best height 0.5000 (trial 0); this run took 1m30s"


@pytest.mark.parametrize("wanted", ["finished", "failed", "budget", "first_failure", "new_best"])
def test_only_the_events_that_are_named_are_told(toy_space: Make, wanted: str) -> None:
    notices = made(toy_space, notify=f"{{events: [{wanted}]}}")
    found = told(notices, record(0, 0.5), record(1, None, "FAIL", reason="died"))
    found += [*notices.ended(None), *notices.ended(Ending("time", "spent", 1)), *notices.ended(None, "broken")]
    assert events(found) == [wanted]


def test_a_secret_in_a_reason_is_not_told(notices: Notices) -> None:
    (message,) = told(notices, record(0, None, "FAIL", reason="GET https://me:hunter2@host failed"))
    assert "hunter2" not in message.body

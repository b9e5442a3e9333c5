"""Which limits of a budget are reached, and what is said of them. Pure functions."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.budget.limits import (
    Counts,
    Ending,
    counts_of,
    ending_of,
    first_limit,
    reached,
    spending_phrases,
    trials_without_gain,
)
from sweeper.budget.spending import Spending, spending_of
from sweeper.ledger.record import TrialRecord
from sweeper.space.sections import Budget
from tests.support.trials import record

START = datetime(2026, 1, 1)
NOTHING = Spending()
NO_TRIALS = Counts(0, 0, None)


def ended(
    number: int, value: float | None, state: Any = "COMPLETE", after: float | None = None, **more: Any
) -> TrialRecord:
    """A trial that ended so many minutes after the start, by default in the order of the numbers."""
    return record(number, value, state, ended=START + timedelta(minutes=number if after is None else after), **more)


def keys(budget: Budget, spent: Spending = NOTHING, counts: Counts = NO_TRIALS, direction: Any = "max") -> list[str]:
    return [one.key for one in reached(budget, spent, counts, "height", direction)]


LIMITS = [
    ("time", {"time": "1m"}, Spending(seconds=59.9), Spending(seconds=60)),
    ("gpu_hours", {"gpu_hours": 2}, Spending(gpu_hours=1.99), Spending(gpu_hours=2)),
    ("cost", {"cost": 3, "price": 1.5}, Spending(priced_hours=1.99), Spending(priced_hours=2)),
]


@pytest.mark.parametrize(("key", "section", "before", "after"), LIMITS)
def test_what_is_spent_reaches_its_limit_and_ends_running_trials(
    key: str, section: dict[str, Any], before: Spending, after: Spending
) -> None:
    budget = Budget.model_validate(section)
    assert keys(budget, before) == []
    (limit,) = reached(budget, after, NO_TRIALS, "height", "max")
    assert (limit.key, limit.cuts) == (key, True)


@pytest.mark.parametrize(("direction", "short", "there"), [("max", 0.79, 0.8), ("min", 0.81, 0.8)])
def test_a_target_is_reached_from_the_side_of_the_objective(direction: Any, short: float, there: float) -> None:
    budget = Budget(target=0.8)
    assert keys(budget, counts=Counts(0, 0, short), direction=direction) == []
    assert keys(budget, counts=Counts(0, 0, there), direction=direction) == ["target"]
    assert keys(budget, counts=NO_TRIALS, direction=direction) == []


def test_limits_on_trials_let_running_ones_go_on() -> None:
    budget = Budget(trials_without_gain=3, failed_trials=2)
    assert keys(budget, counts=Counts(1, 2, None)) == []
    assert [one.cuts for one in reached(budget, Spending(), Counts(2, 3, None), "height", "max")] == [False, False]


def test_trials_without_gain_are_counted_in_the_order_of_their_ends() -> None:
    trials = [ended(0, 0.5, after=9), ended(1, 0.4, after=1), ended(2, 0.3, after=2), ended(3, None, "FAIL", after=3)]
    assert trials_without_gain(trials[1:], "max") == 2
    assert trials_without_gain(trials, "max") == 0  # the first to begin was the last to end, and the best
    assert trials_without_gain(trials, "min") == 2  # the second one to end was the lowest


def test_running_trials_repeats_and_trials_that_a_budget_ended_do_not_count_as_without_gain() -> None:
    best = ended(0, 0.9)
    others = [record(1, 0.1, "RUNNING"), ended(2, 0.1, repeat_of=0), ended(3, 0.1, "PRUNED", ended_by="time")]
    assert trials_without_gain([best, *others], "max") == 0
    assert trials_without_gain([best, *others, ended(4, 0.9)], "max") == 1  # as good is no gain
    assert trials_without_gain([best, *others, ended(4, 0.95, "FAIL")], "max") == 1


def test_copied_trials_are_to_beat_but_do_not_count() -> None:
    copied = [ended(n, value, origin=f"old/{n}", after=99) for n, value in enumerate((0.9, 0.1, 0.1, 0.1))]
    assert trials_without_gain(copied, "max") == 0
    assert trials_without_gain([*copied, ended(4, 0.8)], "max") == 1
    assert trials_without_gain([*copied, ended(4, 0.95)], "max") == 0


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, None]), max_size=12))
def test_the_count_is_that_of_the_trials_since_the_last_new_best(values: list[float | None]) -> None:
    known = [0.0 if value is None else value for value in values]
    gains = [n for n, value in enumerate(known) if value > max(known[:n], default=0.0)]
    expected = len(values) - 1 - gains[-1] if gains else len(values)
    trials = [ended(n, value, "FAIL" if value is None else "COMPLETE") for n, value in enumerate(values)]
    assert trials_without_gain(trials, "max") == expected


def test_failed_trials_are_those_that_no_budget_ended_and_the_best_is_no_repeat_and_no_failure() -> None:
    trials = [
        ended(0, None, "FAIL"),
        ended(1, None, "FAIL", ended_by="time"),
        ended(2, 0.9, "FAIL"),
        ended(3, 0.8, repeat_of=4),
        ended(4, 0.5),
        record(5, 0.6, "RUNNING"),
    ]
    assert counts_of(trials, "max") == Counts(failed=2, without_gain=0, best=0.6)


def test_the_limit_that_was_reached_first_is_named_as_long_as_it_holds() -> None:
    both = list(
        reached(
            Budget.model_validate({"time": "1m", "failed_trials": 1}), Spending(61), Counts(1, 0, None), "height", "max"
        )
    )
    assert [first_limit(both, noted).key for noted in (None, "failed_trials", "cost")] == [  # type: ignore[union-attr]
        "time",
        "failed_trials",
        "time",
    ]
    assert first_limit([], "time") is None


ATTRIBUTES = {"objective": "height", "spent_seconds": 61.0}


@pytest.mark.parametrize(
    ("trials", "remaining", "ends"),
    [
        ([ended(0, 0.5)], 3, True),
        ([ended(0, 0.5)], 0, False),  # all had ended before
        ([ended(0, 0.5, "PRUNED", ended_by="time")], 0, True),
        ([ended(0, 0.5), record(1, 0.1, "RUNNING")], 3, False),  # these are ended or go on first
    ],
)
def test_a_limit_ends_a_sweep_if_trials_were_left_out_or_cut(
    trials: list[TrialRecord], remaining: int, ends: bool
) -> None:
    found = ending_of(ATTRIBUTES, trials, Budget.model_validate({"time": "1m"}), "max", remaining)
    assert found == (Ending("time", "the time budget of 60 s was spent", remaining) if ends else None)
    assert ending_of(ATTRIBUTES, trials, Budget.model_validate({"time": "62s"}), "max", remaining) is None


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (
            Ending("time", "spent", 2),
            "toy: ended by budget.time: spent; 2 trials remain; to go on: sweeper resume toy --time 2h",
        ),
        (Ending("cost", "spent", 1), "1 trial remains; to go on: sweeper resume toy --budget cost=…"),
        (
            Ending("target", "there", 0),
            "all its trials have begun; to go on: sweeper resume toy --trials N --budget target=…",
        ),
    ],
)
def test_the_line_about_an_ending_says_how_to_go_on(ending: Ending, text: str) -> None:
    assert ending.line("toy").endswith(text)


def test_each_attempt_counts_with_the_gpus_it_had() -> None:
    """Two attempts on two GPUs and on half a one, one without a GPU; a copied trial has none."""
    attempts = ({"seconds": 3600.0, "gpus": 2.0}, {"seconds": 1800.0, "gpus": 0.5}, {"seconds": 7200.0, "gpus": 0.0})
    spent = spending_of({"spent_seconds": 9.0}, [record(0, 0.5, attempts=attempts), record(1, 0.5, origin="old/1")])
    assert spent == Spending(9.0, gpu_hours=2.25, priced_hours=4.25)
    assert (spent.cost(2.0), spent.cost(None)) == (8.5, None)


def test_what_is_spent_is_said_with_its_limits() -> None:
    budget = Budget.model_validate(
        {
            "time": "2h",
            "gpu_hours": 10,
            "cost": 20,
            "price": 2,
            "target": 0.9,
            "trials_without_gain": 5,
            "failed_trials": 3,
        }
    )
    assert spending_phrases(budget, Spending(3720, 3.1, 3.1), Counts(1, 2, 0.5)) == [
        "1h2m of 2h",
        "3.10 of 10 GPU-hours",
        "cost 6.20 of 20",
        "2 of 5 trials without a new best",
        "1 of 3 failed trials",
        "target 0.9",
    ]
    assert spending_phrases(Budget(), Spending(), NO_TRIALS) == ["0s"]

"""When a running sweep is expected to end. Pure functions of its trials."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.budget.spending import Spending
from sweeper.ledger.record import TrialRecord
from sweeper.monitor.remaining import end_text, seconds_left
from sweeper.space.sections import Budget
from tests.support.trials import record

NOTHING = Spending()


def trial(
    number: int, seconds: float, state: Any = "COMPLETE", epoch: float | None = None, gpus: float = 0
) -> TrialRecord:
    """A trial of four epochs that has run for so many seconds and tells perhaps how far it is."""
    attempt = {"seconds": seconds, "gpus": gpus, **({} if epoch is None else {"epoch": epoch})}
    params = {"backbone": "hill", "learning_rate": 1.0, "seed": 1, "num_train_epochs": 4}
    return record(number, None, state, attempts=(attempt,), params=params)


def left(
    total: int, *records: TrialRecord, budget: dict[str, Any] | None = None, spent: Spending = NOTHING
) -> float | None:
    return seconds_left(records, total, Budget.model_validate(budget or {}), spent)


def test_trials_that_are_left_need_as_long_as_those_that_have_ended() -> None:
    ended = [trial(0, 100), trial(1, 20, "PRUNED")]
    assert left(6, *ended, trial(2, 30, "RUNNING", 2.0)) == 30 + 3 * 60
    assert left(6, *ended, trial(2, 30, "RUNNING", 2.0), trial(3, 30, "RUNNING", 1.0)) == (30 + 90 + 2 * 60) / 2
    assert left(3, *ended, trial(2, 30, "RUNNING", 2.0)) == 30
    assert left(3, *ended, trial(2, 45, "RUNNING")) == 15  # its job does not tell how far it is


def test_before_a_trial_has_ended_a_running_one_tells_how_long_trials_take() -> None:
    assert left(2, trial(0, 10, "RUNNING")) is None
    assert left(2, trial(0, 10, "RUNNING", 1.0)) == 30 + 40
    assert left(2, trial(0, 10, "RUNNING", 0.2)) is None  # most of these seconds were its start
    assert left(2, trial(0, 10, "FAIL")) is None


def test_the_last_trial_to_end_ends_the_sweep() -> None:
    assert left(2, trial(0, 10, "RUNNING", 1.0), trial(1, 30, "RUNNING", 3.0)) == 30


@pytest.mark.parametrize(
    ("budget", "spent", "seconds"),
    [
        ({"time": "1h"}, Spending(seconds=3500), 100),
        ({"time": "1h"}, Spending(seconds=3700), 0),
        ({"gpu_hours": 2}, Spending(gpu_hours=1.9), 180),  # two GPUs
        ({"cost": 10, "price": 5}, Spending(priced_hours=1.95), 90),
        ({"failed_trials": 3}, NOTHING, 390),
    ],
)
def test_a_budget_may_end_it_before(budget: dict[str, Any], spent: Spending, seconds: float) -> None:
    running = trial(0, 10, "RUNNING", 1.0, gpus=2)
    assert left(10, running, budget=budget, spent=spent) == pytest.approx(seconds)


TRIALS = st.builds(
    trial,
    st.integers(0, 9),
    st.floats(0.1, 1e5),
    st.sampled_from(["COMPLETE", "PRUNED", "FAIL", "RUNNING"]),
    st.none() | st.floats(0, 4),
)


@given(st.integers(0, 50), st.lists(TRIALS, max_size=8))
def test_the_rest_is_never_negative_and_grows_with_the_trials_that_are_left(
    total: int, trials: list[TrialRecord]
) -> None:
    found, more = left(total, *trials), left(total + 5, *trials)
    if found is None or more is None:
        assert found == more
    else:
        assert 0 <= found <= more


def test_the_end_is_told_in_words() -> None:
    assert end_text(754.2).startswith("ends in about 13m (at ")
    assert end_text(0.2).startswith("ends in about 0s (at ")

"""Change a budget on the command line of `resume`."""

from __future__ import annotations

import pytest

from sweeper.budget.changes import with_limits, with_time
from sweeper.errors import ConfigError
from sweeper.space.sections import Budget


def test_keys_are_set_and_removed_and_the_others_stay() -> None:
    budget = Budget(cost=5, price=2, retries=7)
    changed = with_limits(budget, ["cost=20", "time=90m", "target = 0.5"])
    assert (changed.cost, changed.time, changed.target, changed.price, changed.retries) == (20, 5400, 0.5, 2, 7)
    assert with_limits(budget, ["cost=null"]).cost is None


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        ("cost", "--budget cost: is not KEY=VALUE; write for instance --budget gpu_hours=20"),
        ("hours=3", "resume: --budget: hours: unknown key 'hours'; did you mean 'gpu_hours'?"),
        ("cost=20", "resume: --budget: cost needs price; write what one GPU costs for an hour"),
        ("gpu_hours=0", "resume: --budget: gpu_hours: found 0; must be greater than 0"),
        ("time=2", "resume: --budget: time: found 2; write a time above zero as 12h"),
        ("failed_trials=1" + 30 * "0", "is too large"),
    ],
)
def test_a_mistake_is_told_with_its_cure(limit: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_limits(Budget(), [limit])
    assert text in caught.value.lines[0]


@pytest.mark.parametrize(
    ("budget", "all_in_all", "line"),
    [
        ({"time": "2h"}, 10_800, "--time: adds 1h; the sweep may run for 3h in all, of which 1h30m is spent"),
        ({}, 9_000, "--time: adds 1h; the sweep may run for 2h30m in all, of which 1h30m is spent"),
    ],
)
def test_time_is_added_to_the_limit_or_to_what_is_spent(budget: dict[str, str], all_in_all: int, line: str) -> None:
    said: list[str] = []
    changed = with_time(Budget.model_validate(budget), "1h", 5400.4, said.append)
    assert (changed.time, said) == (all_in_all, [line])


def test_what_is_no_time_is_refused() -> None:
    with pytest.raises(ConfigError, match='--time: found "2"; write a time above zero as 12h, 90m, 45s or 1h30m'):
        with_time(Budget(), "2", 0.0, print)

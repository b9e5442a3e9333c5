"""Simulated sweeps: time that adds up, and early stopping that decides as the real schedulers do."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler

from sweeper.driver.stopping.schedulers import early_stopping_scheduler
from sweeper.forecast.simulation import Plan, decisive_epochs, simulate, stopping
from sweeper.forecast.speed import TrialSeconds
from sweeper.space.search_space import SearchSpace
from sweeper.space.sections import EarlyStopping
from tests.support.trials import record

SECONDS = TrialSeconds(first=7.0, start=1.0, epoch=10.0, evaluation=2.0, spread=1.0)
RULES = ["{reduction_factor: 2}", "{scheduler: hyperband, reduction_factor: 2}", "{scheduler: median}"]
EPOCHS = 8


def plans(count: int, epochs: int = 3, share: float = 0.5) -> list[Plan]:
    return [Plan(epochs, 1.0, SECONDS, share) for _ in range(count)]


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def test_trials_follow_each_other_in_processes_that_are_reused() -> None:
    found = simulate(plans(3, share=1.0), None, (), rng())
    assert found.trial_s == (7 + 36, 1 + 36, 1 + 36)
    assert found.wall_s == sum(found.trial_s)
    assert found.at_rung == {3: 3}


def test_trials_run_at_once_as_far_as_they_fit() -> None:
    found = simulate(plans(4, share=0.5), None, (), rng())
    assert found.wall_s == (7 + 36) + (1 + 36)
    assert simulate(plans(4, share=1 / 3), None, (), rng()).wall_s == found.wall_s
    assert simulate(plans(4, share=0.25), None, (), rng()).wall_s == 7 + 36


def test_repeats_follow_the_search_and_run_to_their_end() -> None:
    once = simulate(plans(2), None, (), rng())
    again = simulate(plans(2), EarlyStopping(), [2, 2], rng())
    assert len(again.trial_s) == 2 + 4
    assert again.wall_s == pytest.approx(max(once.trial_s) + 2 * (1 + 36), abs=36)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.sampled_from([1.0, 0.5, 0.2]), st.integers(0, 99))
def test_a_sweep_takes_at_least_its_work_and_at_most_all_trials_one_by_one(
    count: int, epochs: int, share: float, seed: int
) -> None:
    rule = EarlyStopping(reduction_factor=2)
    found = simulate(plans(count, epochs, share), rule, (), np.random.default_rng(seed))
    assert sum(found.trial_s) * share <= found.wall_s + 1e-6
    assert found.wall_s <= sum(found.trial_s) + 1e-6
    counts = list(found.at_rung.values())
    assert counts == sorted(counts, reverse=True)
    assert found.at_rung[min(found.at_rung)] == count


@pytest.mark.parametrize("rule", RULES)
def test_early_stopping_decides_as_the_real_scheduler_does(rule: str, toy_space: Callable[..., SearchSpace]) -> None:
    space = toy_space(f"early_stopping={rule}", f"parameters.num_train_epochs={EPOCHS}")
    values = np.random.default_rng(3)
    trials = [record(number, None, "RUNNING") for number in range(30)]
    ledger: Any = SimpleNamespace(records=lambda: trials, record=lambda number: trials[number])
    real = early_stopping_scheduler(ledger, space)
    simulated = stopping(space.early_stopping, EPOCHS, space.search.seed)
    decisions = []
    for number in range(30):
        trial = SimpleNamespace(trial_id="x", config={"number": number})
        real.on_trial_add(None, trial)
        for epoch in range(1, EPOCHS):
            value = float(values.random())
            told = real.on_trial_result(None, trial, {"epoch": float(epoch), "height": value})
            decisions.append((told == TrialScheduler.STOP, simulated(number, epoch, value)))
            if decisions[-1][0]:
                break
    assert all(told == own for told, own in decisions)
    assert 5 < sum(own for _, own in decisions) < 30


def test_trials_are_counted_where_early_stopping_decides() -> None:
    assert decisive_epochs(EarlyStopping(grace_period=2, reduction_factor=3), 20) == (2, 6, 18, 20)
    assert decisive_epochs(EarlyStopping(reduction_factor=2), 4) == (1, 2, 4)
    assert decisive_epochs(None, 5) == (5,)

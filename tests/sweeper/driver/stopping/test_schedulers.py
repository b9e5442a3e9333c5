"""Early stopping: decisions depend on the reports and their order alone, also across a resume; no trial is paused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler

from sweeper.driver.stopping.schedulers import LedgerAsha, early_stopping_scheduler
from sweeper.errors import ConfigError
from sweeper.ledger.record import TrialRecord
from sweeper.monitor.plan import early_stopping_line
from sweeper.space.reading import restored
from sweeper.space.search_space import SearchSpace, resolved
from sweeper.space.sections import EarlyStopping, bracket_count
from sweeper.space.stopping import bracket_of, is_below_median
from tests.support.trials import record

Make = Callable[..., SearchSpace]
RULES = ["{reduction_factor: 2}", "{scheduler: hyperband, reduction_factor: 2}", "{scheduler: median}"]
EPOCHS = 5


class Reports:
    """Hold the trials as a ledger does, in memory."""

    def __init__(self) -> None:
        self.trials = [record(number, None, "RUNNING") for number in range(12)]

    def records(self) -> list[TrialRecord]:
        return self.trials

    def record(self, number: int) -> TrialRecord:
        return self.trials[number]

    def report(self, number: int, result: dict[str, float], stops: bool) -> None:
        before = self.trials[number]
        state = before.state if not stops else "COMPLETE" if result["epoch"] == EPOCHS else "PRUNED"
        self.trials[number] = replace(before, evaluations=(*before.evaluations, result), state=state)

    def running(self) -> list[int]:
        return [one.number for one in self.trials if one.state == "RUNNING"]


def play(scheduler: TrialScheduler, ledger: Reports, epochs: range) -> list[tuple[int, int, str]]:
    """Report epochs of all trials that go on, in an order that differs from epoch to epoch. Return the decisions."""
    decisions = []
    for number in ledger.running():
        scheduler.on_trial_add(None, SimpleNamespace(trial_id=f"new-{number}", config={"number": number}))
    for epoch in epochs:
        for number in sorted(ledger.running(), key=lambda number: (number * 5 + epoch * 7) % 12):
            value = (number * 37 % 12 + epoch) / 20
            trial = SimpleNamespace(trial_id=f"{id(scheduler)}-{number}", config={"number": number})
            result = {"epoch": float(epoch), "height": value, "eval_loss": 1 - value}
            decision = scheduler.on_trial_result(None, trial, result)
            ledger.report(number, result, decision == TrialScheduler.STOP)
            decisions.append((number, epoch, decision))
    return decisions


@pytest.mark.parametrize(("rule", "objective"), [*((rule, "height") for rule in RULES), (RULES[2], "eval_loss")])
def test_a_resumed_sweep_decides_as_an_uninterrupted_one(rule: str, objective: str, toy_space: Make) -> None:
    space = toy_space(f"early_stopping={rule}", f"objective={objective}", f"parameters.num_train_epochs={EPOCHS}")
    ledger: Any = Reports()
    whole = play(early_stopping_scheduler(ledger, space), ledger, range(1, EPOCHS + 1))
    ledger, decisions = Reports(), []
    for epoch in range(1, EPOCHS + 1):  # each epoch with a scheduler of its own, as after a kill
        decisions += play(early_stopping_scheduler(ledger, space), ledger, range(epoch, epoch + 1))
    assert decisions == whole
    assert {decision for _, _, decision in whole} == {TrialScheduler.CONTINUE, TrialScheduler.STOP}
    assert Counter(one.state for one in ledger.records())["PRUNED"] >= 3


def test_a_bracket_depends_on_the_seed_and_the_number_and_most_trials_are_compared_early() -> None:
    drawn = [bracket_of(number, 1, 3, 3) for number in range(2000)]
    assert drawn == [bracket_of(number, 1, 3, 3) for number in range(2000)]
    assert drawn[:50] != [bracket_of(number, 2, 3, 3) for number in range(50)]
    shares = [Counter(drawn)[nth] / 2000 for nth in range(3)]
    assert shares == pytest.approx([9 / 16.5, 4.5 / 16.5, 3 / 16.5], abs=0.04)
    assert {bracket_of(number, 1, 1, 3) for number in range(20)} == {0}


def test_a_trial_of_a_later_bracket_is_not_stopped_before_its_first_rung(toy_space: Make) -> None:
    space = toy_space("early_stopping={scheduler: hyperband, reduction_factor: 2}", "search.trials=9")
    ledger: Any = Reports()
    scheduler = begin_all(early_stopping_scheduler(ledger, space), 9)
    assert isinstance(scheduler, LedgerAsha)
    brackets = [bracket_of(number, space.search.seed, 3, 2) for number in range(9)]
    stopped = []
    for number in range(9):
        trial = SimpleNamespace(trial_id="x", config={"number": number})
        result = {"epoch": 1.0, "height": 1 - number / 10}
        if scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
            stopped.append(number)
    first = [number for number in range(9) if brackets[number] == 0]
    assert 0 < len(first) < 9
    assert stopped == first[1:]


def begin_all(scheduler: TrialScheduler, count: int) -> TrialScheduler:
    for number in range(count):
        scheduler.on_trial_add(None, SimpleNamespace(trial_id="new", config={"number": number}))
    return scheduler


VALUES = st.dictionaries(st.integers(1, 5).map(float), st.floats(-1, 1), min_size=1)


@given(VALUES, st.lists(VALUES, max_size=6), st.integers(1, 3))
def test_the_median_stops_no_trial_that_is_as_good_as_all_others(own: Any, others: Any, grace: int) -> None:
    best = dict.fromkeys(own, 1.0)
    assert not is_below_median(best, others, grace)
    reached = [one for one in others if max(one) >= max(own) and any(grace <= past <= max(own) for past in one)]
    worst = dict.fromkeys(own, -2.0)
    assert is_below_median(worst, others, grace) is (len(reached) >= 3)


def test_the_median_is_that_of_means_and_counts_trials_that_trained_as_long() -> None:
    others = [{1.0: 0.2, 2.0: 0.4}, {1.0: 0.6, 2.0: 0.8}, {1.0: 0.4, 2.0: 0.6, 3.0: 0.0}, {1.0: 1.0}]
    assert not is_below_median({1.0: 0.5, 2.0: 0.1}, others, 1)  # means 0.3, 0.7, 0.5; its best is 0.5
    assert is_below_median({1.0: 0.49, 2.0: 0.1}, others, 1)
    assert not is_below_median({1.0: 0.1, 2.0: 0.1, 3.0: 0.1}, others, 1)  # only one other came so far
    assert is_below_median({1.0: 0.1, 2.0: 0.55}, others, 2)  # means from epoch 2 on: 0.4, 0.8, 0.6


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("{reduction_factor: 2}", "asha, after 1 epochs the best 1/2 go on"),
        (
            "{scheduler: hyperband, reduction_factor: 2}",
            "hyperband, after 1, 2 or 4 epochs, by its bracket, the best 1/2 go on",
        ),
        ("{scheduler: hyperband, grace_period: 3}", "hyperband, after 3 epochs the best 1/3 go on"),
        (
            "{scheduler: median, grace_period: 2}",
            "median, from epoch 2 on trials below the median of at least 3 others end",
        ),
    ],
)
def test_a_rule_is_told_and_survives_being_stored(rule: str, line: str, toy_space: Make) -> None:
    space = toy_space(f"early_stopping={rule}")
    assert early_stopping_line(space) == f"early stopping: {line}"
    assert restored(resolved(space), space.data_fingerprint, "sweep toy") == space


def test_a_key_that_the_median_does_not_have_is_refused(toy_space: Make) -> None:
    with pytest.raises(ConfigError, match=r"early_stopping\.reduction_factor: median has no reduction_factor; drop it"):
        toy_space("early_stopping={scheduler: median, reduction_factor: 3}")


def test_there_is_a_bracket_for_each_rung() -> None:
    rule = EarlyStopping(scheduler="hyperband", reduction_factor=3)
    assert [bracket_count(rule, epochs) for epochs in (1, 2, 3, 8, 9, 243)] == [1, 1, 2, 2, 3, 6]
    assert bracket_count(EarlyStopping(), 243) == 1


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_a_rule_that_can_stop_no_trial_is_told(scheduler: str, toy_space: Make) -> None:
    rule = f"early_stopping={{scheduler: {scheduler}, grace_period: 4}}"
    told = "early stopping: has no effect: grace_period is 4, and no trial has more than 4 epochs"
    assert early_stopping_line(toy_space(rule, "parameters.num_train_epochs=4")) == told
    assert "no effect" not in early_stopping_line(toy_space(rule, "parameters.num_train_epochs=5"))

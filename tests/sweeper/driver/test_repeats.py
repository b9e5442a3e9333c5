from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.storages import RDBStorage

from sweeper.driver.repeats import RepeatSeed, expected_trials, missing_repeats
from sweeper.ledger.ledger import create_ledger
from sweeper.ledger.ranking import Spread, best_first, rank_trials, seed_spread, without_repeats
from sweeper.space.search_space import SearchSpace
from tests.support.trials import record

REPEATED = [
    record(0, 0.7),
    record(1, 0.9),
    record(2, 0.8),
    record(3, None, "FAIL"),
    record(4, 0.6, repeat_of=1),
    record(5, 0.7, repeat_of=2),
    record(6, 0.78, repeat_of=2),
    record(7, None, "FAIL", repeat_of=2),
]


def test_a_spread_by_hand() -> None:
    assert seed_spread(REPEATED[2], REPEATED) == Spread(3, pytest.approx(0.76), pytest.approx(0.0529150262))
    assert seed_spread(REPEATED[0], REPEATED) == Spread(1, 0.7, None)
    assert seed_spread(REPEATED[3], REPEATED) is None


def test_finalists_rank_by_their_means_before_all_others() -> None:
    assert [one.number for one in rank_trials(REPEATED, "max")] == [2, 1, 0, 3]
    assert [one.number for one in rank_trials(REPEATED, "min")] == [1, 2, 0, 3]
    assert [one.number for one in without_repeats(REPEATED)] == [0, 1, 2, 3]


def test_what_is_missing_shrinks_as_repeats_are_made(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace]
) -> None:
    space = toy_space("search.trials=3", "repeats={top: 2, seeds: [7, 42]}")
    ledger = create_ledger(storage, space, "toy")
    for value in (0.2, 0.6, 0.4):
        asked = ledger.ask(space)
        assert asked is not None
        ledger.report(asked.number, {"height": value, "eval_loss": 0.0, "epoch": 1.0, "seconds": 1.0}, None)
        ledger.finish(asked.number, "COMPLETE")
    assert list(missing_repeats(ledger.records(), space)) == [RepeatSeed(1, 7), RepeatSeed(2, 7)]
    made = ledger.repeat(1, 7)
    assert (made.number, made.repeat_of, made.state) == (3, 1, "RUNNING")
    assert list(missing_repeats(ledger.records(), space)) == [RepeatSeed(2, 7)]
    assert expected_trials(space) == 7
    assert list(missing_repeats(ledger.records(), toy_space())) == []


def test_only_trials_that_ended_well_lead_whatever_the_others_values() -> None:
    records = [record(0, 0.7), record(1, 0.99, "FAIL"), record(2, 0.8), record(3, 0.9, "RUNNING")]
    assert [one.number for one in rank_trials(records, "max")] == [2, 0, 3, 1]
    assert [one.number for one in best_first(records, "max")] == [2, 0]

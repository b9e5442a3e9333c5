from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.ledger.database import open_storage
from sweeper.results import plots
from sweeper.results.importance import best_value_until, importances
from sweeper.results.overview import NothingToShow, Results, sweep_results
from tests.support.written import Told, written


def results_of(folder: Path, trials: list[Told]) -> Results:
    return sweep_results(written(open_storage("sqlite:///:memory:"), folder, trials))


def test_the_parameter_that_decides_is_the_important_one(tmp_path: Path) -> None:
    trials = [
        Told([1 - abs(step - 9) / 10], {"learning_rate": 1e-5 * 1.3**step, "warmup_ratio": step * 7 % 20 / 100})
        for step in range(20)
    ]
    shares, epoch, count = importances(results_of(tmp_path, trials))
    assert (epoch, count) == (1.0, 20)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["learning_rate"] > 0.9


def test_trials_are_compared_at_the_last_epoch_that_all_reached(tmp_path: Path) -> None:
    """At epoch 1 the warm-up decides; the higher scores of later epochs would say otherwise."""
    trials = [
        Told(
            [0.9 if early else 0.1, 0.1 if early else 0.95][: 1 if early else 2],
            {"warmup_ratio": 0.2 if early else 0.0, "learning_rate": rate},
            "PRUNED" if early else "COMPLETE",
        )
        for early in (True, False)
        for rate in (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
    ]
    found = results_of(tmp_path, trials)
    assert [best_value_until(record, 1.0, found) for record in found.records] == [0.9] * 5 + [0.1] * 5
    shares, epoch, count = importances(found)
    assert (epoch, count) == (1.0, 10)
    assert shares["warmup_ratio"] > 0.9
    assert "after epoch 1, which all 10 trials reached. With few trials" in plots.draw_plots(found)["importance"].note


@pytest.mark.parametrize(
    ("trials", "why"),
    [
        ([Told([0.1]), Told([0.2])], "2 trials have a value, and 4 are needed"),
        ([Told([0.1 * n]) for n in range(5)], "no parameter differs"),
        ([Told([0.5], {"seed": n}) for n in range(5)], "after epoch 1 all trials had the same exact_match"),
    ],
)
def test_where_importance_says_nothing_it_is_not_shown(tmp_path: Path, trials: list[Told], why: str) -> None:
    with pytest.raises(NothingToShow, match=why):
        importances(results_of(tmp_path, trials))

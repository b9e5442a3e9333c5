"""Tests against statsmodels' and scipy's figures, and against what they promise in the long run."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ttest_rel

from sweeper.results.statistics import (
    against_best,
    bootstrap_p,
    holm,
    indistinguishable,
    mcnemar_p,
    paired_p,
)

Array = NDArray[np.float64]


def answers(only_first: int, only_second: int, both: int = 10) -> tuple[Array, Array]:
    """Scores of two trials, so many questions right in one alone and in both."""
    first = [1.0] * only_first + [0.0] * only_second + [1.0] * both
    second = [0.0] * only_first + [1.0] * only_second + [1.0] * both
    return np.array(first), np.array(second)


def f1_scores(rng: np.random.Generator, questions: int, changed: float = 0.2, gain: float = 0.0) -> Array:
    """F1 as it comes: mostly 1, some shares; `changed` is how many questions a trial answers in its own way."""
    common = np.random.default_rng(7).choice([0, 0.4, 0.5, 0.8, 1, 1, 1, 1], questions)
    own = rng.choice([0, 0.25, 0.5, 2 / 3, 1], questions)
    scores = np.where(rng.random(questions) < changed, own, common)
    return np.where(rng.random(questions) < gain, 1.0, scores)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    # statsmodels 0.15.0, stats.contingency_tables.mcnemar(exact=True)
    [(6, 0, 0.03125), (59, 6, 4.964650327128616e-12), (12, 5, 0.143463134765625), (120, 90, 0.045114087864840696)],
)
def test_mcnemar_gives_the_figures_of_statsmodels(only_first: int, only_second: int, p: float) -> None:
    first, second = answers(only_first, only_second)
    assert mcnemar_p(first, second) == pytest.approx(p, rel=1e-9)
    assert mcnemar_p(second, first) == pytest.approx(p, rel=1e-9)


def test_holm_gives_the_figures_of_statsmodels() -> None:
    # statsmodels 0.15.0, stats.multitest.multipletests(method="holm")
    assert holm([0.0001, 0.04, 0.03, 0.005, 0.6, 0.011]) == pytest.approx([0.0006, 0.09, 0.09, 0.025, 0.6, 0.044])
    assert holm([]) == []


def test_the_bootstrap_agrees_with_a_paired_t_test_where_that_holds() -> None:
    rng = np.random.default_rng(3)
    for gain in (0.0, 0.02, 0.04):
        first, second = f1_scores(rng, 2000, gain=gain), f1_scores(rng, 2000)
        assert bootstrap_p(first, second) == pytest.approx(ttest_rel(first, second).pvalue, abs=0.015)


@pytest.mark.slow
def test_what_is_equal_is_seldom_called_different() -> None:
    rng = np.random.default_rng(0)
    f1 = [bootstrap_p(f1_scores(rng, 200), f1_scores(rng, 200), resamples=500) for _ in range(800)]
    exact = [
        mcnemar_p(rng.permuted([0.0] * 12 + [1.0] * 28), rng.permuted([0.0] * 12 + [1.0] * 28)) for _ in range(800)
    ]
    few = [bootstrap_p(f1_scores(rng, 50), f1_scores(rng, 50), resamples=500) for _ in range(1500)]
    for p_values in (f1, few, exact):
        assert np.mean(np.array(p_values) < 0.05) <= 0.06


@pytest.mark.long
def test_one_false_alarm_in_a_whole_table_is_seldom() -> None:
    rng = np.random.default_rng(1)
    tables = [{name: (rng.random(300) < 0.7).astype(float) for name in "abcdef"} for _ in range(150)]
    assert np.mean([len(indistinguishable(table)) < 6 for table in tables]) <= 0.06


def test_what_is_better_is_found() -> None:
    rng = np.random.default_rng(2)
    first, second = f1_scores(rng, 1000, gain=0.1), f1_scores(rng, 1000)
    assert bootstrap_p(first, second) < 0.01
    assert mcnemar_p(*answers(80, 40)) < 0.01


def test_right_or_wrong_is_tested_by_mcnemar_and_shares_by_the_bootstrap() -> None:
    first, second = answers(9, 2)
    assert paired_p(first, second) == mcnemar_p(first, second)
    assert paired_p(first * 0.5, second) == bootstrap_p(first * 0.5, second)


def test_no_difference_at_all_has_p_one() -> None:
    same = f1_scores(np.random.default_rng(0), 50)
    assert bootstrap_p(same, same) == 1.0
    assert mcnemar_p(np.ones(3), np.ones(3)) == 1.0


def test_the_same_scores_give_the_same_figures_again() -> None:
    rng = np.random.default_rng(5)
    first, second = f1_scores(rng, 100), f1_scores(rng, 100)
    assert bootstrap_p(first, second) == bootstrap_p(first, second)


def test_every_trial_is_held_against_the_best_and_corrected_for_their_number() -> None:
    best, close = answers(10, 6)
    far = np.zeros(len(best))
    p_values = against_best({"close": close, "best": best, "far": far})
    assert p_values == {"best": 1.0, "close": mcnemar_p(best, close), "far": 2 * mcnemar_p(best, far)}
    assert indistinguishable({"close": close, "best": best, "far": far}) == ["close", "best"]
    assert indistinguishable({3: best}) == [3]
    assert indistinguishable({}) == []


@pytest.mark.parametrize(
    ("only_first", "only_second", "same"),
    # McNemar's exact p: 0.0498 for 42 to 25, 0.0501 for 22 to 10
    [(42, 25, ["best"]), (22, 10, ["best", "other"])],
)
def test_trials_are_indistinguishable_from_5_percent_on(only_first: int, only_second: int, same: list[str]) -> None:
    best, other = answers(only_first, only_second)
    assert indistinguishable({"best": best, "other": other}) == same


def test_scores_of_different_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 4 scores"):
        paired_p(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="0 and 0 scores"):
        paired_p(np.array([]), np.array([]))

"""Test if one trial is better than another, from the scores that both got on the same questions.

Scores of 0 and 1 use McNemar's exact test; fractional scores such as F1 use the paired bootstrap. Holm's method
corrects for several comparisons with the best trial. All functions are pure: they take and return arrays.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
RESAMPLES = 10_000
SEED = 42

Scores = NDArray[np.floating[Any]]
Key = TypeVar("Key", bound=Hashable)


def paired_p(first: Scores, second: Scores) -> float:
    """Return the two-sided p-value of the difference between two trials' scores on the same questions.

    >>> paired_p(np.array([1.0, 1, 1, 1, 1, 1, 0]), np.array([0.0, 0, 0, 0, 0, 0, 0]))
    0.03125

    `first` and `second` have shape [questions], in the same order. Raises ValueError when their lengths differ or
    they are empty.
    """
    _check_paired(first, second)
    binary = bool(np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all())
    return mcnemar_p(first, second) if binary else bootstrap_p(first, second)


def mcnemar_p(first: Scores, second: Scores) -> float:
    """Return the two-sided p-value of McNemar's exact test for scores of 0 and 1.

    If both trials are equally good, each is equally likely to be the only correct one on a question
    (Fagerland et al. 2013, doi:10.1186/1471-2288-13-91).
    """
    from scipy.stats import binomtest

    _check_paired(first, second)
    only_first, only_second = int((first > second).sum()), int((first < second).sum())
    if not only_first + only_second:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def bootstrap_p(first: Scores, second: Scores, resamples: int = RESAMPLES, seed: int = SEED) -> float:
    """Return the two-sided p-value of the paired bootstrap.

    The differences are shifted to mean zero and resampled. The p-value is the share of resampled means that are at
    least as far from zero as the observed mean; the observed mean counts as one of them (Efron & Tibshirani 1993,
    section 16.4). The variance of the resamples is too small by the factor (n - 1) / n, which is corrected (section
    5.3).
    """
    _check_paired(first, second)
    difference = np.asarray(first, dtype=float) - second
    observed, count = abs(difference.mean()), len(difference)
    if not difference.any() or count == 1:
        return 1.0
    means = resampled_means(difference - difference.mean(), resamples, seed) * (count / (count - 1)) ** 0.5
    return float((1 + (np.abs(means) >= observed - 1e-12).sum()) / (1 + resamples))


def resampled_means(values: Scores, resamples: int, seed: int) -> Scores:
    """Return the means of samples drawn from `values` with replacement, shape [resamples].

    Each sample has the length of `values`. The counts of the distinct values in a sample follow a multinomial
    distribution; drawing these counts is faster than drawing values, as scores have few distinct values.
    """
    distinct, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=resamples)
    means: Scores = drawn @ distinct / len(values)
    return means


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for multiple tests by Holm's method, in the same order.

    Comparing them with 0.05 keeps the probability of any false positive below 0.05 (Holm 1979,
    jstor.org/stable/4615733).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def against_best(scores: Mapping[Key, Scores]) -> dict[Key, float]:
    """Return each trial's Holm-corrected p-value for the difference from the best trial; the best has 1.0.

    `scores` maps trials to arrays of shape [questions], all for the same questions. The best trial has the highest
    mean; the first one wins a tie. Raises ValueError when the arrays differ in length.
    """
    best = max(scores, key=lambda key: float(np.mean(scores[key])), default=None)
    others = [key for key in scores if key != best]
    p_values = holm([paired_p(scores[best], scores[key]) for key in others]) if best is not None else []
    return {key: 1.0 for key in scores if key == best} | dict(zip(others, p_values, strict=True))


def indistinguishable(scores: Mapping[Key, Scores], alpha: float = ALPHA) -> list[Key]:
    """Return the trials not significantly different from the best one, including it, in the given order.

    >>> indistinguishable({"a": np.ones(50), "b": np.ones(50), "c": np.zeros(50)})
    ['a', 'b']
    """
    p_values = against_best(scores)
    return [key for key in scores if p_values[key] >= alpha]


def _check_paired(first: Scores, second: Scores) -> None:
    if len(first) != len(second) or not len(first):
        raise ValueError(f"{len(first)} and {len(second)} scores; one of each per question is needed")

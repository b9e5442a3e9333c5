"""Whether one trial is better than another, from the scores both got on the same questions. Pure: arrays in.

McNemar's exact test where a question is right or wrong, the paired bootstrap where it has a share such as F1,
Holm's correction where several trials are held against the best.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
RESAMPLES = 10_000
SEED = 42

Scores = NDArray[np.floating[Any]]
Key = TypeVar("Key", bound=Hashable)


class Interval(NamedTuple):
    low: float
    high: float


def paired_p(first: Scores, second: Scores) -> float:
    """How likely a difference at least this large is, in either direction, if the two are equally good.

    >>> paired_p(np.array([1.0, 1, 1, 1, 1, 1, 0]), np.array([0.0, 0, 0, 0, 0, 0, 0]))
    0.03125

    `first` and `second` are [questions], in the same order. Raises ValueError when they differ in length or
    are empty.
    """
    _check_paired(first, second)
    binary = bool(np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all())
    return mcnemar_p(first, second) if binary else bootstrap_p(first, second)


def mcnemar_p(first: Scores, second: Scores) -> float:
    """McNemar's exact test, two-sided, for scores of 0 and 1: of the questions that only one of the two has
    right, a fair coin would give each about half (Fagerland et al. 2013, doi:10.1186/1471-2288-13-91).
    """
    from scipy.stats import binomtest

    _check_paired(first, second)
    only_first, only_second = int((first > second).sum()), int((first < second).sum())
    if not only_first + only_second:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def bootstrap_p(first: Scores, second: Scores, resamples: int = RESAMPLES, seed: int = SEED) -> float:
    """The paired bootstrap, two-sided: how often resampled differences, shifted to have mean zero, have a mean
    as far from zero as the one seen, that one counted in (Efron & Tibshirani 1993, section 16.4). As resamples
    vary less than samples, by (n - 1) / n, they are widened by that (the same, section 5.3).
    """
    _check_paired(first, second)
    difference = np.asarray(first, dtype=float) - second
    seen, count = abs(difference.mean()), len(difference)
    if not difference.any() or count == 1:
        return 1.0
    means = resampled_means(difference - difference.mean(), resamples, seed) * (count / (count - 1)) ** 0.5
    return float((1 + (np.abs(means) >= seen - 1e-12).sum()) / (1 + resamples))


def mean_interval(scores: Scores, level: float = 1 - ALPHA, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """Where the mean would lie with other questions of the same kind: the bootstrap's percentile interval
    (Efron & Tibshirani 1993, section 13.3). `scores` is [questions]. Raises ValueError when it is empty.
    """
    if not len(scores):
        raise ValueError("no scores; an interval needs at least one")
    means = resampled_means(np.asarray(scores, dtype=float), resamples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def resampled_means(values: Scores, resamples: int, seed: int) -> Scores:
    """Means of samples drawn from `values` with replacement, each as long as `values`: [resamples].

    Only how often each different value is drawn matters, and that is multinomial; scores of thousands of
    questions have few different values.
    """
    different, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=resamples)
    means: Scores = drawn @ different / len(values)
    return means


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several, in the same order: compared with 0.05, a false alarm among all of
    them has at most that chance (Holm 1979, jstor.org/stable/4615733).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def against_best(scores: Mapping[Key, Scores]) -> dict[Key, float]:
    """Holm-corrected p of each trial's difference from the best one, which itself has 1.0.

    `scores` holds [questions] by trial, all for the same questions. The best has the highest mean, the first
    of equals. Raises ValueError when the arrays differ in length.
    """
    best = max(scores, key=lambda key: float(np.mean(scores[key])), default=None)
    others = [key for key in scores if key != best]
    p_values = holm([paired_p(scores[best], scores[key]) for key in others]) if best is not None else []
    return {key: 1.0 for key in scores if key == best} | dict(zip(others, p_values, strict=True))


def indistinguishable(scores: Mapping[Key, Scores], alpha: float = ALPHA) -> list[Key]:
    """The trials that cannot be told from the best one, which is among them, in the order given.

    >>> indistinguishable({"a": np.ones(50), "b": np.ones(50), "c": np.zeros(50)})
    ['a', 'b']
    """
    p_values = against_best(scores)
    return [key for key in scores if p_values[key] >= alpha]


def _check_paired(first: Scores, second: Scores) -> None:
    if len(first) != len(second) or not len(first):
        raise ValueError(f"{len(first)} and {len(second)} scores; one of each per question is needed")

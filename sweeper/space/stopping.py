"""Define the rules by which schedulers stop trials early, for those who run a sweep and those who forecast one."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from sweeper.space.sections import MEDIAN_TRIALS

Values = Mapping[float, float]  # the objective by epoch


def milestones(grace_period: int, reduction_factor: int, epochs: int) -> tuple[int, ...]:
    """Return the epochs after which the first bracket compares its trials; each further bracket begins one later.

    >>> milestones(1, 3, 10)
    (1, 3, 9)
    """
    found, epoch = [], grace_period
    while epoch <= epochs:
        found.append(epoch)
        epoch *= reduction_factor
    return tuple(found)


def bracket_of(number: int, seed: int, brackets: int, reduction_factor: float) -> int:
    """Return the bracket of a trial. The first compares its trials earliest, each further one a rung later.

    It depends on the seed and the trial's number alone, so that a trial that resumes has the same bracket. The shares
    are those of Hyperband, which gives each bracket about the same number of epochs: Li et al., 2018,
    https://arxiv.org/abs/1603.06560.
    """
    left = np.arange(brackets)[::-1]  # how often each bracket compares its trials
    shares = brackets / (left + 1) * reduction_factor**left
    return int(np.random.default_rng([seed, number]).choice(brackets, p=shares / shares.sum()))


def is_below_median(own: Values, others: Sequence[Values], grace_period: float) -> bool:
    """Return True if a trial's best value is below the median of the means of others that trained as long.

    A mean begins at `grace_period`, an epoch. The result is False with fewer than MEDIAN_TRIALS others.
    """
    epoch = max(own)
    means = [
        statistics.fmean(value for past, value in values.items() if grace_period <= past <= epoch)
        for values in others
        if values and max(values) >= epoch and any(grace_period <= past <= epoch for past in values)
    ]
    return len(means) >= MEDIAN_TRIALS and max(own.values()) < statistics.median(means)

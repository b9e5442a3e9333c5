"""Rank a sweep's trials. Every command uses this ranking. Repeats are not ranked: they count in the mean of the trial
that they repeat."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from jobs.job import Direction
from sweeper.ledger.record import TrialRecord


class Spread(NamedTuple):
    """Hold the number, the mean and the sample standard deviation (None for one seed) of a trial's values over
    its own seed and its repeats' seeds."""

    n: int
    mean: float | None
    std: float | None


Rank = tuple[bool, bool, bool, bool, float]
NOTHING = Spread(0, None, None)
ENDED_WELL = ("COMPLETE", "PRUNED")


def without_repeats(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that are not repeats of others."""
    return [record for record in records if record.repeat_of is None]


def seed_spread(record: TrialRecord, records: Sequence[TrialRecord]) -> Spread | None:
    """Return count, mean and standard deviation of the objective over a trial and its COMPLETE repeats.

    Returns None if the trial has no value."""
    if record.value is None:
        return None
    repeats = [one for one in records if one.repeat_of == record.number and one.state == "COMPLETE"]
    values = [record.value, *(one.value for one in repeats if one.value is not None)]
    return Spread(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def rank_trials(records: Sequence[TrialRecord], direction: Direction) -> list[TrialRecord]:
    """Return all trials except repeats, best first. Of two equal trials the earlier one comes first.

    See `rank_key` for the order.
    """
    # selected once, since `rank` searches them for every trial
    repeats = [record for record in records if record.repeat_of is not None]

    def rank(record: TrialRecord) -> tuple[Rank, int]:
        n, mean, _ = seed_spread(record, repeats) or NOTHING
        return rank_key(record.state, n, mean, direction), record.number

    return sorted(without_repeats(records), key=rank)


def rank_key(state: str, n: int, mean: float | None, direction: Direction) -> Rank:
    """Return a key that sorts trials best first. `mean` is the mean of a trial's values over `n` seeds.

    The order is: trials with repeats by their mean, trials without repeats by their value, running trials, failed
    trials, trials without a value. A mean is not compared with a single value, since the best of many single values is
    too optimistic. A running trial has no place among the ended ones, since its value is not final.
    """
    sign = -1 if direction == "max" else 1
    return mean is None, state == "FAIL", state == "RUNNING", n <= 1, 0.0 if mean is None else sign * mean


def best_first(records: Sequence[TrialRecord], direction: Direction) -> list[TrialRecord]:
    """Return the trials of `rank_trials` that are COMPLETE or PRUNED and have a value."""
    return [r for r in rank_trials(records, direction) if r.value is not None and r.state in ENDED_WELL]

"""Rank trials, best first; repeats of a trial count by their mean."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from jobs.job import Direction
from sweeper.ledger.record import TrialRecord


class Spread(NamedTuple):
    """A trial's value over its own and its repeats' seeds; `std` is the sample standard deviation, None for one."""

    n: int
    mean: float | None
    std: float | None


def without_repeats(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials of the search itself."""
    return [record for record in records if record.repeat_of is None]


def seed_spread(record: TrialRecord, records: Sequence[TrialRecord]) -> Spread | None:
    """Over the trial and its repeats that have ended with a value; None without a value of its own."""
    if record.value is None:
        return None
    repeats = [one for one in records if one.repeat_of == record.number and one.state == "COMPLETE"]
    values = [record.value, *(one.value for one in repeats if one.value is not None)]
    return Spread(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def rank_trials(records: Sequence[TrialRecord], direction: Direction) -> list[TrialRecord]:
    """The searched trials, best first: those with repeats by their mean, then the others by their value, then
    those that failed, then those without a value. A mean over seeds is no match for one lucky value, so the two
    are never compared."""
    sign = -1 if direction == "max" else 1
    repeats = [record for record in records if record.repeat_of is not None]  # few, and looked through for every trial

    def rank(record: TrialRecord) -> tuple[bool, bool, bool, float, int]:
        found = seed_spread(record, repeats)
        mean = found.mean if found and found.mean is not None else 0.0
        return (found is None, record.state == "FAIL", found is None or found.n == 1, sign * mean, record.number)

    return sorted(without_repeats(records), key=rank)


def leaders(records: Sequence[TrialRecord], direction: Direction) -> list[TrialRecord]:
    """The trials of `rank_trials` that ended well or were stopped early, with a value: those that can be the best."""
    return [r for r in rank_trials(records, direction) if r.value is not None and r.state in ("COMPLETE", "PRUNED")]


def best_first(records: Sequence[TrialRecord], direction: Direction) -> list[TrialRecord]:
    """The trials with a value that ended well or were stopped early, best first; the earlier of equals first."""
    sign = -1 if direction == "max" else 1
    ended = (record for record in records if record.state in ("COMPLETE", "PRUNED"))
    scored = ((sign * record.value, record.number, record) for record in ended if record.value is not None)
    return [record for *_, record in sorted(scored, key=lambda entry: entry[:2])]

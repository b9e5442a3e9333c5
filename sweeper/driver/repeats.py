"""Whether a finalist was good or lucky: the best trials once more with other seeds. Pure; tuning trains them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jobs.job import Direction
from sweeper.ledger.ledger import TrialRecord, trial_key
from sweeper.retention import best
from sweeper.space.search_space import SearchSpace


class Missing(NamedTuple):
    """A repeat that is still to be trained: of which trial, with which seed."""

    of: int
    seed: int


class Spread(NamedTuple):
    """A trial's value over its own and its repeats' seeds; `std` is the sample standard deviation, None for one."""

    n: int
    mean: float | None
    std: float | None


def searched(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials of the search itself."""
    return [record for record in records if record.repeat_of is None]


def missing(records: Sequence[TrialRecord], space: SearchSpace) -> Iterator[Missing]:
    """The repeats that the search space asks for and the ledger has not, finalist by finalist. A seed that a
    finalist had itself is not trained again."""
    if space.repeats is None:
        return
    known = {record.key for record in records}
    for record in best(searched(records), space.direction)[: space.repeats.top]:
        for seed in space.repeats.seeds:
            if trial_key(space.job, {**record.params, "seed": seed}, space.data_fingerprint) not in known:
                yield Missing(record.number, seed)


def expected(space: SearchSpace) -> int:
    """How many trials there will be at most, repeats included."""
    repeats = space.repeats.top * len(space.repeats.seeds) if space.repeats else 0
    return (space.search.trials or 0) + repeats


def spread(record: TrialRecord, records: Sequence[TrialRecord]) -> Spread | None:
    """Over the trial and its repeats that have ended with a value; None without a value of its own."""
    if record.value is None:
        return None
    repeats = [one for one in records if one.repeat_of == record.number and one.state == "COMPLETE"]
    values = [record.value, *(one.value for one in repeats if one.value is not None)]
    return Spread(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def ranking(records: Sequence[TrialRecord], direction: Direction) -> list[TrialRecord]:
    """The searched trials, best first: those with repeats by their mean, then the others by their value, then
    those that failed, then those without a value. A mean over seeds is no match for one lucky value, so the two
    are never compared."""
    sign = -1 if direction == "max" else 1
    repeats = [record for record in records if record.repeat_of is not None]  # few, and looked through for every trial

    def rank(record: TrialRecord) -> tuple[bool, bool, bool, float, int]:
        found = spread(record, repeats)
        mean = found.mean if found and found.mean is not None else 0.0
        return (found is None, record.state == "FAIL", found is None or found.n == 1, sign * mean, record.number)

    return sorted(searched(records), key=rank)


def leaders(records: Sequence[TrialRecord], direction: Direction) -> list[TrialRecord]:
    """The trials of `ranking` that ended well or were stopped early, with a value: those that can be the best."""
    return [r for r in ranking(records, direction) if r.value is not None and r.state in ("COMPLETE", "PRUNED")]

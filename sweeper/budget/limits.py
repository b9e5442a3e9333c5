"""Find the limits of a budget that a sweep has reached, and say how to go on. Pure functions of the ledger's values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.job import Direction
from sweeper.budget.spending import Spending, spending_of
from sweeper.ledger.ranking import ENDED_WELL, without_repeats
from sweeper.ledger.record import TrialRecord
from sweeper.space.sections import Budget, duration

FIRST_LIMIT = "first_limit"  # the sweep's attribute: the key of the limit that was reached first
ENDED_BY = "ended_by"  # the sweep's attribute: the Ending as plain values, None if no limit has ended it


@dataclass(frozen=True)
class Limit:
    """Describe a limit that a sweep has reached.

    key     its key in the section `budget`
    reason  what has happened, in a few words
    cuts    True if running trials are ended at once, False if they run to their end
    """

    key: str
    reason: str
    cuts: bool


@dataclass(frozen=True)
class Ending:
    """Describe the limit that has ended a sweep, and how many trials `remaining` were not begun."""

    key: str
    reason: str
    remaining: int

    def __str__(self) -> str:
        return f"budget.{self.key}: {self.reason}"

    def line(self, sweep: str) -> str:
        """Say in one line which limit ended the sweep and how to go on."""
        more = "--time 2h" if self.key == "time" else f"--budget {self.key}=…"
        left = {0: "all its trials have begun", 1: "1 trial remains"}.get(
            self.remaining, f"{self.remaining} trials remain"
        )
        trials = "" if self.remaining else " --trials N"
        return f"{sweep}: ended by {self}; {left}; to go on: sweeper resume {sweep}{trials} {more}"


@dataclass(frozen=True)
class Counts:
    """Hold what the limits on trials are compared with.

    failed        trials that have failed, without those that a budget ended
    without_gain  trials in a row, by their ends, that have ended without a new best
    best          the best objective of a trial so far, of a running one too; None if there is none
    """

    failed: int
    without_gain: int
    best: float | None


def counts_of(records: Sequence[TrialRecord], direction: Direction) -> Counts:
    """Count the trials of a sweep. Repeats do not count as trials without gain, and never are the best."""
    better = max if direction == "max" else min
    failed = sum(record.state == "FAIL" and record.ended_by is None for record in records)
    found = [one.value for one in without_repeats(records) if one.value is not None and one.state != "FAIL"]
    return Counts(failed, trials_without_gain(records, direction), better(found, default=None))


def trials_without_gain(records: Sequence[TrialRecord], direction: Direction) -> int:
    """Return how many trials have ended since the last one that was a new best when it ended.

    A trial that was copied from another sweep can only be the best to beat. One that a budget ended does not count.
    """
    sign = 1 if direction == "max" else -1
    ended = [one for one in without_repeats(records) if one.state != "RUNNING" and one.ended_by is None]
    best, count = float("-inf"), 0
    for record in sorted(ended, key=_by_end):
        value = sign * record.value if record.value is not None and record.state in ENDED_WELL else float("-inf")
        count = 0 if value > best or record.origin else count + 1
        best = max(best, value)
    return count


def _by_end(record: TrialRecord) -> tuple[bool, float, int]:
    """Return a key that sorts trials by their ends, copied ones first."""
    return record.origin is None, record.ended.timestamp() if record.ended else 0.0, record.number


def reached(budget: Budget, spent: Spending, counts: Counts, objective: str, direction: Direction) -> Iterator[Limit]:
    """Yield the limits that are reached, first those that end running trials at once."""
    cost = spent.cost(budget.price)
    if budget.time is not None and spent.seconds >= budget.time:
        yield Limit("time", f"the time budget of {budget.time:g} s was spent", True)
    if budget.gpu_hours is not None and spent.gpu_hours >= budget.gpu_hours:
        yield Limit("gpu_hours", f"the budget of {budget.gpu_hours:g} GPU-hours was spent", True)
    if budget.cost is not None and cost is not None and cost >= budget.cost:
        yield Limit("cost", f"the cost budget of {budget.cost:g} was spent, at {budget.price:g} per GPU-hour", True)
    if budget.target is not None and counts.best is not None and is_as_good(counts.best, budget.target, direction):
        yield Limit("target", f"{objective} {counts.best:.4f} has reached the target {budget.target:g}", True)
    if budget.trials_without_gain is not None and counts.without_gain >= budget.trials_without_gain:
        many = f"{counts.without_gain} {'trial' if counts.without_gain == 1 else 'trials in a row'}"
        yield Limit("trials_without_gain", f"{many} ended without a new best {objective}", False)
    if budget.failed_trials is not None and counts.failed >= budget.failed_trials:
        yield Limit(
            "failed_trials", f"{counts.failed} {'trial has' if counts.failed == 1 else 'trials have'} failed", False
        )


def is_as_good(value: float, target: float, direction: Direction) -> bool:
    return value >= target if direction == "max" else value <= target


def first_limit(limits: Iterable[Limit], noted: str | None) -> Limit | None:
    """Return the limit with the key `noted`, which was reached first, if it is still reached; else the first one."""
    found = list(limits)
    return next((one for one in found if one.key == noted), next(iter(found), None))


def ending_of(
    attributes: Mapping[str, Any],
    records: Sequence[TrialRecord],
    budget: Budget,
    direction: Direction,
    remaining: int,
) -> Ending | None:
    """Return what has ended a sweep, by the latest attributes and the trials of its ledger, or None.

    A limit has ended it if it is reached, no trial runs, and `remaining` trials were not begun or some were cut short.
    """
    cut = remaining > 0 or any(record.ended_by for record in records)
    if not cut or any(record.state == "RUNNING" for record in records):
        return None
    spent, counts = spending_of(attributes, records), counts_of(records, direction)
    found = reached(budget, spent, counts, str(attributes["objective"]), direction)
    limit = first_limit(found, attributes.get(FIRST_LIMIT))
    return Ending(limit.key, limit.reason, remaining) if limit else None


def noted_ending(attributes: Mapping[str, Any]) -> Ending | None:
    """Return the ending that the driver has noted in the ledger, or None."""
    noted = attributes.get(ENDED_BY)
    return Ending(**noted) if noted else None


def has_limits(budget: Budget) -> bool:
    """Return True if the budget has a limit that ends the sweep."""
    keys = ("time", "gpu_hours", "cost", "target", "trials_without_gain", "failed_trials")
    return any(getattr(budget, key) is not None for key in keys)


def spending_phrases(budget: Budget, spent: Spending, counts: Counts) -> list[str]:
    """Return what is spent, each of it with its limit if there is one.

    >>> spending_phrases(Budget(gpu_hours=10), Spending(3720, 3.1), counts)
    ['1h2m', '3.10 of 10 GPU-hours']
    """
    seconds = duration(round(spent.seconds)) or "0s"
    cost = spent.cost(budget.price)
    return [
        seconds + _of(budget.time and duration(budget.time)),
        *([f"{spent.gpu_hours:.2f}{_of(budget.gpu_hours)} GPU-hours"] if spent.gpu_hours or budget.gpu_hours else ()),
        *([f"cost {cost:.2f}{_of(budget.cost)}"] if cost is not None else ()),
        *_trial_phrases(budget, counts),
    ]


def _trial_phrases(budget: Budget, counts: Counts) -> Iterator[str]:
    if budget.trials_without_gain:
        yield f"{counts.without_gain} of {budget.trials_without_gain} trials without a new best"
    if budget.failed_trials:
        yield f"{counts.failed} of {budget.failed_trials} failed trials"
    if budget.target is not None:
        yield f"target {budget.target:g}"


def _of(limit: float | str | None) -> str:
    return f" of {limit:g}" if isinstance(limit, int | float) else f" of {limit}" if limit else ""

"""Estimate when a running sweep will end, from the trials that have ended and from how far the running ones are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from statistics import fmean

from sweeper.budget.spending import HOUR_SECONDS, Spending
from sweeper.ledger.record import TrialRecord
from sweeper.space.sections import Budget, duration

MIN_SHARE = 0.1  # of a trial that tells how long it takes; before, its start counts too much


def seconds_left(records: Sequence[TrialRecord], total: int, budget: Budget, spent: Spending) -> float | None:
    """Return the expected seconds until a sweep of `total` trials ends; None while no trial tells how long one takes.

    The trials that are left are taken to need as long as the ended ones on average, as many at a time as run now. A
    budget may end the sweep before.
    """
    running = [record for record in records if record.state == "RUNNING" and record.attempts]
    ended = [record.elapsed for record in records if record.state in ("COMPLETE", "PRUNED") and record.attempts]
    typical = ended or [record.elapsed / done for record in running if (done := _share_done(record))]
    if not running or not typical:
        return None
    rests = [_rest(record, fmean(typical)) for record in running]
    work = sum(rests) + max(0, total - len(records)) * fmean(typical)
    return min(max(*rests, work / len(running)), *_budget_seconds(running, budget, spent), float("inf"))


def end_text(left: float) -> str:
    """Return the expected end in words, by this machine's clock.

    >>> end_text(754.2)
    'ends in about 13m (at 17:42)'
    """
    seconds = round(left) if left < 60 else 60 * round(left / 60)
    at = datetime.now() + timedelta(seconds=left)
    return f"ends in about {duration(seconds) or '0s'} (at {at:%H:%M})"


def _share_done(record: TrialRecord) -> float:
    """Return the share of a trial's epochs that it has trained; 0 before it tells how long the trial takes."""
    share = record.progress / float(record.params["num_train_epochs"])
    return min(1.0, share) if share >= MIN_SHARE else 0.0


def _rest(record: TrialRecord, typical: float) -> float:
    """Return the seconds that a running trial still needs if it is not stopped early."""
    done = _share_done(record)
    return record.elapsed * (1 - done) / done if done else max(0.0, typical - record.elapsed)


def _budget_seconds(running: Sequence[TrialRecord], budget: Budget, spent: Spending) -> Iterator[float]:
    """Yield the seconds until each limit on time, GPU-hours and cost is reached at the present rate."""
    gpus = [record.attempts[-1]["gpus"] for record in running]
    rate, priced = sum(gpus), sum(one or 1.0 for one in gpus)
    if budget.time is not None:
        yield max(0.0, budget.time - spent.seconds)
    if budget.gpu_hours is not None and rate:
        yield max(0.0, budget.gpu_hours - spent.gpu_hours) * HOUR_SECONDS / rate
    if budget.cost is not None and budget.price is not None:
        yield max(0.0, budget.cost / budget.price - spent.priced_hours) * HOUR_SECONDS / priced

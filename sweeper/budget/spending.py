"""Sum what a sweep has spent, from its ledger: time, GPU-hours and cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.ledger.record import TrialRecord

SPENT_SECONDS = "spent_seconds"  # the sweep's attribute: how long drivers have run trials
HOUR_SECONDS = 3600.0


@dataclass(frozen=True)
class Spending:
    """Hold what a sweep has spent.

    seconds       time during which a driver ran the sweep, without the pauses between runs
    gpu_hours     hours of each attempt of a trial, times the GPUs that it reserved
    priced_hours  the same, but an attempt that reserved no GPU counts with its hours
    """

    seconds: float = 0.0
    gpu_hours: float = 0.0
    priced_hours: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        return Spending(*(getattr(self, name) + getattr(other, name) for name in vars(self)))

    def cost(self, price: float | None) -> float | None:
        """Return the price of the priced hours, None without a price."""
        return None if price is None else price * self.priced_hours


def attempt_spending(seconds: float, gpus: float) -> Spending:
    """Return what an attempt of a trial has spent that reserved this many GPUs for its workers together.

    >>> attempt_spending(1800, 2).gpu_hours
    1.0
    """
    hours = seconds / HOUR_SECONDS
    return Spending(gpu_hours=hours * gpus, priced_hours=hours * (gpus or 1.0))


def spending_of(attributes: Mapping[str, Any], records: Iterable[TrialRecord]) -> Spending:
    """Return what a sweep has spent, by its attributes and its trials. Trials copied from another sweep are free."""
    attempts = (attempt for record in records for attempt in record.attempts)
    spent = (attempt_spending(attempt["seconds"], attempt["gpus"]) for attempt in attempts)
    return sum(spent, Spending(seconds=float(attributes.get(SPENT_SECONDS, 0.0))))

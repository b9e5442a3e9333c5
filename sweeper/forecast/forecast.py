"""Predict what a sweep costs: wall-clock time, GPU-hours, money and disk space, each with a range."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sweeper.cluster.capacity import Machine, TrialReservation, reservation_of
from sweeper.forecast.simulation import Plan, SimulatedSweep, simulate
from sweeper.forecast.speed import TrialSeconds
from sweeper.space.cases import list_cases
from sweeper.space.domains import Constant, Domain, contains
from sweeper.space.search_space import SearchSpace
from sweeper.space.sections import EarlyStopping

ROUNDS = 200  # simulated sweeps
MOST_STEPS = 100_000  # epochs that all simulations together run; longer sweeps are simulated fewer times
SESSION_SECONDS = 12.0  # to start and end Ray and MLflow
UNLIKELY = 0.1  # share of simulations below the low end of a range, and above its high end
HOUR_SECONDS = 3600


@dataclass(frozen=True)
class Expected:
    """Hold an expected value and the ends of the range in which it lies in most cases."""

    low: float
    expected: float
    high: float

    def times(self, factor: float) -> Expected:
        return Expected(self.low * factor, self.expected * factor, self.high * factor)


@dataclass(frozen=True)
class Forecast:
    """Hold the forecast of a sweep.

    trial_s   seconds of a whole trial without early stopping, for each branch of the space
    at_rung   number of trials that reach each epoch at which early stopping decides, and the last one
    source    from what the seconds are known
    """

    wall_s: Expected
    gpu_hours: Expected
    cost: Expected | None
    trial_s: tuple[Expected, ...]
    at_rung: Mapping[int, Expected]
    source: str

    def values(self) -> dict[str, Any]:
        """Return the forecast as plain values for JSON."""
        return {
            **{name: asdict(getattr(self, name)) for name in ("wall_s", "gpu_hours")},
            "cost": self.cost and asdict(self.cost),
            "trial_s": [asdict(one) for one in self.trial_s],
            "trials_at_epoch": {str(epoch): asdict(count) for epoch, count in self.at_rung.items()},
            "source": self.source,
        }


def forecast(
    space: SearchSpace,
    machine: Machine,
    configurations: Sequence[Mapping[str, Any]],
    seconds: Sequence[TrialSeconds],
    source: str,
    price: float | None,
) -> Forecast:
    """Return the forecast of a sweep.

    configurations  params of the first trials; they stand for all
    seconds         of a trial with each of these params
    price           of an hour of a GPU, or of a trial without one
    """
    reserved = [reservation_of(space, params, machine) for params in configurations]
    plans = [_plan(*one) for one in zip(configurations, seconds, reserved, strict=True)]
    count = space.search.trials or len(plans)
    order = [number % len(plans) for number in range(count)]
    repeats = [len(space.repeats.seeds)] * space.repeats.top if space.repeats else []
    found = _simulations([plans[number] for number in order], space.early_stopping, repeats)
    spread = statistics.median(plan.seconds.spread for plan in plans)
    gpus = statistics.fmean(one.gpus * one.workers for one in reserved)
    hours = _expected([sum(one.trial_s) / HOUR_SECONDS for one in found], spread)
    return Forecast(
        _wall(found, spread, space.budget.time),
        hours.times(gpus),
        hours.times((gpus or 1) * price) if price is not None else None,
        tuple(_branch_seconds(space, configurations, plans)),
        {rung: _expected([one.at_rung[rung] for one in found], 1) for rung in found[0].at_rung},
        source,
    )


def _plan(params: Mapping[str, Any], seconds: TrialSeconds, reserved: TrialReservation) -> Plan:
    return Plan(int(params["num_train_epochs"]), 1.0, seconds, 1 / reserved.slots)


def _simulations(plans: Sequence[Plan], rule: EarlyStopping | None, repeats: Sequence[int]) -> list[SimulatedSweep]:
    steps = sum(plan.epochs for plan in plans)
    rounds = max(5, min(ROUNDS, MOST_STEPS // max(1, steps)))
    return [simulate(plans, rule, repeats, np.random.default_rng(number)) for number in range(rounds)]


def _wall(found: Sequence[SimulatedSweep], spread: float, limit: float | None) -> Expected:
    most = limit or float("inf")
    whole = _expected([one.wall_s for one in found], spread)
    return Expected(*(min(most, seconds) + SESSION_SECONDS for seconds in (whole.low, whole.expected, whole.high)))


def _expected(values: Sequence[float], spread: float) -> Expected:
    low, middle, high = np.quantile(values, [UNLIKELY, 0.5, 1 - UNLIKELY])
    return Expected(float(low) / spread, float(middle), float(high) * spread)


def _branch_seconds(
    space: SearchSpace, configurations: Sequence[Mapping[str, Any]], plans: Sequence[Plan]
) -> Iterator[Expected]:
    """Yield the seconds of a whole trial of each branch of the space that a configuration belongs to."""
    for case in list_cases(space):
        inside = [plan for params, plan in zip(configurations, plans, strict=True) if _belongs(params, case.domains)]
        if inside:
            each = [_whole_seconds(plan) for plan in inside]
            spread = statistics.median(plan.seconds.spread for plan in inside)
            yield Expected(min(each) / spread, statistics.fmean(each), max(each) * spread)


def _belongs(params: Mapping[str, Any], domains: Mapping[str, Domain]) -> bool:
    return all(
        params[name] == domain.value if isinstance(domain, Constant) else contains(domain, params[name])
        for name, domain in domains.items()
    )


def _whole_seconds(plan: Plan) -> float:
    return plan.seconds.start + plan.epochs * (plan.seconds.epoch + plan.evaluations * plan.seconds.evaluation)

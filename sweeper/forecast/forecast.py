"""Predict what a sweep costs: wall-clock time, GPU-hours and money, each with a range."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np

from sweeper.budget.spending import HOUR_SECONDS
from sweeper.cluster.capacity import Machine, TrialReservation, reservation_of
from sweeper.forecast.simulation import Plan, SimulatedSweep, simulate
from sweeper.forecast.speed import TrialSeconds
from sweeper.space.cases import list_cases
from sweeper.space.domains import Constant, Domain, contains
from sweeper.space.search_space import SearchSpace
from sweeper.space.sections import Budget, EarlyStopping

ROUNDS = 200  # simulated sweeps
MOST_TRIALS = 200  # of a simulated sweep; longer ones take as much more as they have more trials
MOST_STEPS = 100_000  # epochs that all simulations together run; longer sweeps are simulated fewer times
SESSION_SECONDS = 12.0  # to start and end Ray and MLflow
UNLIKELY = 0.1  # share of simulations below the low end of a range, and above its high end


@dataclass(frozen=True)
class Expected:
    """Hold an expected value and the ends of the range in which it lies in most cases."""

    low: float
    expected: float
    high: float

    def times(self, factor: float) -> Expected:
        return self.scaled(Expected(factor, factor, factor))

    def scaled(self, by: Expected) -> Expected:
        return Expected(self.low * by.low, self.expected * by.expected, self.high * by.high)


@dataclass(frozen=True)
class Forecast:
    """Hold the forecast of a sweep.

    trial_s   seconds of a whole trial without early stopping, for each branch of the space
    at_rung   number of trials that reach each epoch at which early stopping decides, and the last one
    source    from what the seconds are known
    ended_by  the key of the budget whose limit is expected to end the sweep before its last trial, or None
    """

    wall_s: Expected
    gpu_hours: Expected
    cost: Expected | None
    trial_s: tuple[Expected, ...]
    at_rung: Mapping[int, Expected]
    source: str
    ended_by: str | None = None

    def values(self) -> dict[str, Any]:
        """Return the forecast as plain values for JSON."""
        return {
            **{name: asdict(getattr(self, name)) for name in ("wall_s", "gpu_hours")},
            "cost": self.cost and asdict(self.cost),
            "trial_s": [asdict(one) for one in self.trial_s],
            "trials_at_epoch": {str(epoch): asdict(count) for epoch, count in self.at_rung.items()},
            "source": self.source,
            "ended_by": self.ended_by,
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
    order = [number % len(plans) for number in range(min(count, MOST_TRIALS))]
    more = max(1.0, count / MOST_TRIALS)
    repeats = [len(space.repeats.seeds)] * space.repeats.top if space.repeats else []
    found = _simulations([plans[number] for number in order], space.early_stopping, repeats)
    spread = statistics.median(plan.seconds.spread for plan in plans)
    gpus = statistics.fmean(one.gpus * one.workers for one in reserved)
    wall = _expected([one.wall_s for one in found], spread).times(more)
    hours = _expected([sum(one.trial_s) / HOUR_SECONDS for one in found], spread).times(more)
    ended_by, share = _share(space.budget, wall, hours, gpus)
    hours = hours.scaled(share)
    return Forecast(
        _with_session(wall.scaled(share)),
        hours.times(gpus),
        hours.times((gpus or 1) * price) if price is not None else None,
        tuple(_branch_seconds(space, configurations, plans)),
        {
            rung: _expected([one.at_rung[rung] for one in found], 1).times(more).scaled(share)
            for rung in found[0].at_rung
        },
        source,
        ended_by,
    )


def _share(budget: Budget, wall_s: Expected, hours: Expected, gpus: float) -> tuple[str | None, Expected]:
    """Return the limit that is expected to end the sweep, and the share of it that the limits leave, for each end.

    wall_s, hours  seconds of the whole sweep, and hours of all its trials together
    gpus           that a trial reserves
    """
    price = budget.price or 0.0
    whole = {"time": wall_s, "gpu_hours": hours.times(gpus), "cost": hours.times((gpus or 1) * price)}
    shares = {key: _left(limit, used) for key, used in whole.items() if (limit := getattr(budget, key)) is not None}
    first = min(shares, key=lambda key: shares[key].expected, default=None)
    ends = zip((1.0, 1.0, 1.0), *map(astuple, shares.values()), strict=True)
    return first if first and shares[first].expected < 1 else None, Expected(*map(min, ends))


def _left(limit: float, used: Expected) -> Expected:
    return Expected(*(limit / max(limit, amount) for amount in astuple(used)))


def _plan(params: Mapping[str, Any], seconds: TrialSeconds, reserved: TrialReservation) -> Plan:
    return Plan(int(params["num_train_epochs"]), 1.0, seconds, 1 / reserved.slots)


def _simulations(plans: Sequence[Plan], rule: EarlyStopping | None, repeats: Sequence[int]) -> list[SimulatedSweep]:
    steps = sum(plan.epochs for plan in plans)
    compared = 0.1 * len(plans) if rule and rule.scheduler == "median" else 1  # each value with those of all trials
    rounds = max(5, min(ROUNDS, int(MOST_STEPS / max(1, steps * compared))))
    return [simulate(plans, rule, repeats, np.random.default_rng(number)) for number in range(rounds)]


def _with_session(wall_s: Expected) -> Expected:
    return Expected(*(seconds + SESSION_SECONDS for seconds in astuple(wall_s)))


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

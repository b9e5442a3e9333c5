"""Simulate a sweep with random results, to find out how long it takes and how far its trials get."""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sweeper.forecast.speed import TrialSeconds
from sweeper.space.sections import EarlyStopping, bracket_count
from sweeper.space.stopping import bracket_of, is_below_median, milestones

NOISE = 0.3  # of a result, as a share of the spread between trials: ranks change from epoch to epoch


@dataclass(frozen=True)
class Plan:
    """Hold what one trial of a simulated sweep takes.

    epochs       of the whole training
    evaluations  in each epoch
    seconds      of its parts
    share        of the machine: 1 / the number of such trials that run at once
    """

    epochs: int
    evaluations: float
    seconds: TrialSeconds
    share: float


class SimulatedSweep(NamedTuple):
    """Hold one simulation: its wall-clock time, the seconds of each trial, and the number of trials at each rung."""

    wall_s: float
    trial_s: tuple[float, ...]
    at_rung: dict[int, int]


Stops = Callable[[int, int, float], bool]  # takes a trial's number, an epoch and a value; True if the trial ends there


def stopping(rule: EarlyStopping | None, epochs: int, seed: int) -> Stops:
    """Return a function that decides as the rule's scheduler does, with no knowledge of values yet."""
    if rule is None:
        return lambda number, epoch, value: False
    grace_period = min(rule.grace_period, epochs)
    if rule.scheduler == "median":
        return _below_median(grace_period)
    return _outside_rungs(bracket_count(rule, epochs), grace_period, rule.reduction_factor, epochs, seed)


def _outside_rungs(brackets: int, grace_period: int, factor: int, epochs: int, seed: int) -> Stops:
    seen: dict[tuple[int, int], list[float]] = defaultdict(list)  # by bracket and epoch

    def stops(number: int, epoch: int, value: float) -> bool:
        bracket = bracket_of(number, seed, brackets, factor) if brackets > 1 else 0
        if epoch not in milestones(grace_period, factor, epochs)[bracket:]:
            return False
        values = seen[bracket, epoch]
        stopped = bool(values and value < np.quantile(values, 1 - 1 / factor))
        values.append(value)
        return stopped

    return stops


def _below_median(grace_period: int) -> Stops:
    seen: dict[int, dict[float, float]] = defaultdict(dict)

    def stops(number: int, epoch: int, value: float) -> bool:
        seen[number][epoch] = value
        others = [values for other, values in seen.items() if other != number]
        return epoch >= grace_period and is_below_median(seen[number], others, grace_period)

    return stops


def decisive_epochs(rule: EarlyStopping | None, epochs: int) -> tuple[int, ...]:
    """Return the epochs after which a forecast counts trials: those of ASHA's rungs, and the last one.

    >>> decisive_epochs(EarlyStopping(grace_period=1, reduction_factor=3), 10)
    (1, 3, 9, 10)
    """
    if rule is None:
        return (epochs,)
    found = milestones(min(rule.grace_period, epochs), rule.reduction_factor, epochs)
    return tuple(dict.fromkeys([*found, epochs]))


def simulate(
    plans: Sequence[Plan], rule: EarlyStopping | None, repeats: Sequence[int], rng: np.random.Generator
) -> SimulatedSweep:
    """Simulate one sweep: trials in order, then `repeats`, the seeds for each of as many of the best trials."""
    quality = rng.random(len(plans))
    noise = NOISE * quality.std() if len(plans) > 1 else 0.0
    epochs = max(plan.epochs for plan in plans)
    decide = stopping(rule, epochs, int(rng.integers(2**31)))
    machine = _SimulatedMachine()
    reached = [0] * len(plans)

    def stops(number: int, epoch: int) -> bool:
        reached[number] = epoch
        return decide(number, epoch, quality[number] + noise * rng.standard_normal())

    seconds = machine.run(list(enumerate(plans)), stops)
    best = np.argsort(-quality)[: len(repeats)]
    again = [(int(number), plans[number]) for number, seeds in zip(best, repeats, strict=False) for _ in range(seeds)]
    seconds += machine.run(again, lambda number, epoch: False)
    at_rung = {rung: sum(epoch >= rung for epoch in reached) for rung in decisive_epochs(rule, epochs)}
    return SimulatedSweep(machine.clock, tuple(seconds), at_rung)


class _SimulatedMachine:
    """Runs trials at once as long as their shares fit, and keeps the time."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.warm = 0  # processes that have trained a trial

    def run(self, trials: Sequence[tuple[int, Plan]], stops: Callable[[int, int], bool]) -> list[float]:
        """Run trials in their order. Returns the seconds that each took, from its start to its end."""
        waiting, free = deque(trials), 1.0
        running: list[tuple[float, float, int, int, Plan]] = []  # next event, beginning, epoch, number
        seconds = []
        while waiting or running:
            while waiting and (waiting[0][1].share <= free + 1e-9 or not running):
                number, plan = waiting.popleft()
                free -= plan.share
                begun = plan.seconds.start if self.warm else plan.seconds.first
                self.warm -= bool(self.warm)
                heapq.heappush(running, (self.clock + begun + _epoch_seconds(plan), self.clock, 1, number, plan))
            self.clock, began, epoch, number, plan = heapq.heappop(running)
            if stops(number, epoch) or epoch >= plan.epochs:
                seconds.append(self.clock - began)
                free += plan.share
                self.warm += 1
            else:
                heapq.heappush(running, (self.clock + _epoch_seconds(plan), began, epoch + 1, number, plan))
        return seconds


def _epoch_seconds(plan: Plan) -> float:
    return plan.seconds.epoch + plan.evaluations * plan.seconds.evaluation

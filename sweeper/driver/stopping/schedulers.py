"""Stop weak trials early. All schedulers know a trial by its number in the ledger, and none pauses a trial.

Tune gives a trial that resumes another id. Under that id a scheduler would count it a second time, and keep the values
of evaluations that the ledger has removed.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from jobs.job import Direction
from sweeper.driver.searcher import NotPickled
from sweeper.ledger.ledger import Ledger
from sweeper.ledger.ranking import without_repeats
from sweeper.ledger.record import TrialRecord
from sweeper.space.cases import max_epochs
from sweeper.space.search_space import SearchSpace
from sweeper.space.sections import bracket_count
from sweeper.space.stopping import bracket_of, is_below_median


def early_stopping_scheduler(ledger: Ledger, space: SearchSpace) -> TrialScheduler:
    """Return the scheduler of the search space, or one that never stops a trial.

    It receives the evaluations in the ledger, so that a resumed sweep compares its trials with finished ones.
    """
    rule = space.early_stopping
    if rule is None:
        return FIFOScheduler()
    epochs = max_epochs(space)
    grace_period = min(rule.grace_period, epochs)
    scheduler: LedgerMedian | LedgerAsha
    if rule.scheduler == "median":
        scheduler = LedgerMedian(ledger, space.objective, space.direction, grace_period)
    else:
        scheduler = LedgerAsha(
            ledger,
            seed=space.search.seed,
            time_attr="epoch",
            metric=space.objective,
            mode=space.direction,
            grace_period=grace_period,
            reduction_factor=rule.reduction_factor,
            max_t=epochs,
            brackets=bracket_count(rule, epochs),
        )
    for record in without_repeats(ledger.records()):
        scheduler.remember(record)
    return scheduler


class LedgerAsha(NotPickled, ASHAScheduler):  # type: ignore[misc]
    """ASHA, or asynchronous Hyperband if there are several brackets."""

    # Private in ray 2.60: ASHA reads only `trial_id` of a trial and ignores the controller. `_trial_info` has the
    # bracket of each trial that runs, and a bracket's `_rungs` are pairs of an epoch and the values by trial id.

    def __init__(self, ledger: Ledger, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self.ledger = ledger
        self.seed = seed

    def remember(self, record: TrialRecord) -> None:
        """Take a trial's evaluations from the ledger, in place of what was known of the trial."""
        self.forget(record.number, 0.0)
        nth = bracket_of(record.number, self.seed, len(self._brackets), self._reduction_factor)
        self._trial_info[record.number] = self._brackets[nth]
        for evaluation in record.evaluations:
            super().on_trial_result(None, _known_as(record.number), dict(evaluation))

    def forget(self, number: int, epoch: float) -> None:
        """Remove a trial's values from `epoch` on."""
        for bracket in self._brackets:
            for milestone, values in bracket._rungs:
                if milestone >= epoch:
                    values.pop(number, None)

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        self.remember(self.ledger.record(trial.config["number"]))

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = trial.config["number"]
        if "epoch" in result:  # a trial that finds its newest checkpoint damaged in a bucket goes back without a notice
            self.forget(number, result["epoch"])
        return str(super().on_trial_result(controller, _known_as(number), result))

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(controller, _known_as(trial.config["number"]), result)

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        super().on_trial_remove(controller, _known_as(trial.config["number"]))


def _known_as(number: int) -> SimpleNamespace:
    return SimpleNamespace(trial_id=number)


class LedgerMedian(NotPickled, FIFOScheduler):  # type: ignore[misc]
    """Stop a trial whose best value is worse than the median of the other trials' means up to the same epoch.

    Golovin et al., Google Vizier, 2017, https://research.google/pubs/pub46180. Ray's MedianStoppingRule is not used:
    it pauses trials while there are few, and counts the last value of a trial twice.
    """

    def __init__(self, ledger: Ledger, objective: str, direction: Direction, grace_period: int) -> None:
        super().__init__()
        self.ledger = ledger
        self.objective = objective
        self.sign = 1 if direction == "max" else -1
        self.grace_period = grace_period
        self.values: dict[int, dict[float, float]] = {}

    def remember(self, record: TrialRecord) -> None:
        """Take a trial's evaluations from the ledger, in place of what was known of the trial."""
        found = {float(one["epoch"]): self.sign * float(one[self.objective]) for one in record.evaluations}
        self.values[record.number] = found

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        self.remember(self.ledger.record(trial.config["number"]))

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "epoch" not in result or self.objective not in result:
            return str(TrialScheduler.CONTINUE)
        number, epoch = trial.config["number"], float(result["epoch"])
        earlier = {past: value for past, value in self.values.get(number, {}).items() if past < epoch}
        self.values[number] = {**earlier, epoch: self.sign * float(result[self.objective])}
        others = [values for other, values in self.values.items() if other != number]
        below = epoch >= self.grace_period and is_below_median(self.values[number], others, self.grace_period)
        return str(TrialScheduler.STOP if below else TrialScheduler.CONTINUE)

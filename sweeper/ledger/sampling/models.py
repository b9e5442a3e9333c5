"""Propose values for parameters that are drawn together, by Gaussian processes, CMA-ES or a quasi-random sequence.

Each function is given all that it learns from and keeps nothing, so that a resumed sweep proposes the same values.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from jobs.job import Direction
from sweeper.ledger.record import evaluations_of

Distributions = Mapping[str, BaseDistribution]
TRIALS_BEFORE_TPE = 10  # Optuna's default: so many values are drawn at random before TPE has enough to learn from
SIGMA = 1 / 6  # Optuna's default: the first standard deviation of CMA-ES as a share of each range
BEST_SHARE = 0.1  # the share of learned trials from which CMA-ES takes its first distribution; its own default


@dataclass(frozen=True)
class Past:
    """Hold an earlier trial to learn from.

    params   all parameters of the job
    value    the best objective so far; larger is better. None while the trial runs
    learned  True for a trial of another sweep
    """

    params: Mapping[str, Any]
    value: float | None
    learned: bool = False


def is_searched(trial: FrozenTrial) -> bool:
    """Return True for a trial that the sampler has drawn: no repeat, and no draw that was discarded."""
    return "params" in trial.user_attrs and "repeat_of" not in trial.user_attrs


def best_value(trial: FrozenTrial, objective: str, direction: Direction) -> float | None:
    """Return the best objective of a trial that has ended well; larger is better. None if it has none.

    A trial that was stopped early counts with what it had reached.
    """
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return None
    sign = 1 if direction == "max" else -1
    return max((sign * one[objective] for one in evaluations_of(trial.user_attrs)), default=None)


def own_past(trials: Iterable[FrozenTrial], objective: str, direction: Direction) -> list[Past]:
    """Return a sweep's own trials to learn from: those that run, and those that ended with a value."""
    found = ((trial, best_value(trial, objective, direction)) for trial in trials if is_searched(trial))
    return [
        Past(trial.user_attrs["params"], value)
        for trial, value in found
        if value is not None or trial.state == TrialState.RUNNING
    ]


@contextmanager
def without_experimental_warnings() -> Iterator[None]:
    """Hide the warnings that options of Optuna's samplers are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def by_model(sampler: BaseSampler, distributions: Distributions, past: Sequence[Past]) -> dict[str, Any]:
    """Return the proposal of an Optuna sampler that knows exactly these trials. All lie in the distributions."""
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(
        optuna.trial.create_trial(
            state=TrialState.RUNNING if one.value is None else TrialState.COMPLETE,
            value=one.value,
            params={name: one.params[name] for name in distributions},
            distributions=dict(distributions),
        )
        for one in past
    )
    return study.ask(fixed_distributions=dict(distributions)).params


def by_tpe(distributions: Distributions, past: Sequence[Past], seed: int) -> dict[str, Any]:
    """Return the proposal of TPE."""
    with without_experimental_warnings():
        sampler = TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=TRIALS_BEFORE_TPE)
    return by_model(sampler, distributions, past)


def by_gp(distributions: Distributions, past: Sequence[Past], seed: int) -> dict[str, Any] | None:
    """Return the proposal of a Gaussian process; None before one trial more than there are parameters has a value."""
    if sum(one.value is not None for one in past) <= len(distributions):
        return None
    return by_model(GPSampler(seed=seed, n_startup_trials=1), distributions, past)


def by_cmaes(distributions: Distributions, past: Sequence[Past], seed: int) -> dict[str, Any]:
    """Return the proposal of CMA-ES for numbers, and TPE's for choices, which CMA-ES cannot draw.

    Optuna's own sampler stores CMA-ES pickled in the study, and a pickle from a database can run programs. Here its
    state follows from the trials instead: each generation is told in the order of the trials' numbers, once all its
    trials have ended.
    """
    import cmaes
    from optuna._transform import _SearchSpaceTransform  # private in optuna 5.0: how its samplers scale numbers

    choices = {n: one for n, one in distributions.items() if isinstance(one, CategoricalDistribution)}
    numbers = {name: one for name, one in distributions.items() if name not in choices}
    drawn = by_tpe(choices, past, seed) if choices else {}
    if not numbers:
        return drawn
    scale = _SearchSpaceTransform(numbers, transform_0_1=True)
    points = [(scale.transform({name: one.params[name] for name in numbers}), one) for one in past]
    learned = [(point, -one.value) for point, one in points if one.learned and one.value is not None]
    mean, sigma, covariance = np.full(len(numbers), 0.5), SIGMA, None
    if learned:
        share = max(BEST_SHARE, 1 / len(learned))
        mean, sigma, covariance = cmaes.get_warm_start_mgd(learned, gamma=share)
    strategy = cmaes.CMA(
        mean=mean, sigma=sigma, cov=covariance, bounds=scale.bounds, seed=seed, n_max_resampling=10 * len(numbers)
    )
    own = [(point, one.value) for point, one in points if not one.learned]
    size = strategy.population_size
    for start in range(0, len(own), size):
        ended = [(point, -value) for point, value in own[start : start + size] if value is not None]
        if len(ended) < size:
            break
        strategy.tell(ended)
    return {**drawn, **scale.untransform(strategy.ask())}


class _PointOfSequence(QMCSampler):
    """Give the point of a sequence by its index. Optuna's sampler counts in the study what it has given."""

    def __init__(self, seed: int, index: int) -> None:
        with without_experimental_warnings():
            super().__init__(scramble=True, seed=seed)
        self.index = index

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self.index  # private in optuna 5.0: the index of the next point


def by_qmc(distributions: Distributions, dimensions: Sequence[str], seed: int, index: int) -> dict[str, Any]:
    """Return the values at a point of a scrambled Sobol sequence with one coordinate for each of the `dimensions`.

    Draws of one trial that pass the same dimensions, seed and index are parts of the same point.
    """
    unused = FloatDistribution(0.0, 1.0)
    space = {name: distributions.get(name, unused) for name in dimensions}
    trial = optuna.trial.create_trial(value=0.0)  # not used by the sampler
    values = _PointOfSequence(seed, index).sample_relative(optuna.create_study(), trial, space)
    return {name: values[name] for name in distributions}

"""Draw a trial's parameters from a search space with an Optuna sampler."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import optuna

from jobs.job import ParamError
from sweeper.ledger.record import trial_key
from sweeper.space.domains import Choice, Constant, Domain, Range, contains
from sweeper.space.search_space import SearchSpace, assign, draw_labels, params_of


def draw(trial: optuna.Trial, space: SearchSpace) -> dict[str, Any] | None:
    """Draw all parameters of the job. The settings of an enqueued trial replace draws.

    Returns None if the job refuses the combination, since only pairs of values are checked before a sweep.
    """
    fixed = trial.user_attrs.get("fixed", {})
    assignment = assign(space, lambda label, domain: suggest(trial, label, domain), fixed)
    try:
        return asdict(params_of(space, assignment))
    except ParamError:
        return None


def record_draw(trial: optuna.Trial, space: SearchSpace, assignment: Mapping[str, Any]) -> dict[str, Any] | None:
    """Store values that were drawn elsewhere as those of the trial. Return what `draw` returns."""
    names = {label: name for name, label, _ in draw_labels(space)}

    def store(label: str, domain: Domain) -> None:
        drawn = distribution(domain)
        value = drawn.to_internal_repr(assignment[names[label]])
        # Private in optuna 5.0: a trial has no public attribute for its id, and suggests only by its study's sampler.
        trial.study._storage.set_trial_param(trial._trial_id, label, value, drawn)

    assign(space, store, assignment)
    try:
        return asdict(params_of(space, assignment))
    except ParamError:
        return None


def suggest(trial: optuna.Trial, label: str, domain: Domain) -> Any:
    """Let Optuna draw a value of `domain` for the trial, under the name `label`. Return a constant without a draw."""
    match domain:
        case Choice(values):
            return trial.suggest_categorical(label, values)
        case Range(low, high, log, step, True):
            return trial.suggest_int(label, int(low), int(high), log=log, step=int(step or 1))
        case Range(low, high, log, step, False):
            return trial.suggest_float(label, low, high, log=log, step=step)
        case Constant(value):
            return value


def distribution(domain: Domain) -> optuna.distributions.BaseDistribution:
    """Return a domain as an Optuna distribution, for trials that are added without a draw."""
    match domain:
        case Choice(values):
            return optuna.distributions.CategoricalDistribution(values)
        case Range(low, high, log, step, True):
            return optuna.distributions.IntDistribution(int(low), int(high), log=log, step=int(step or 1))
        case Range(low, high, log, step, False):
            return optuna.distributions.FloatDistribution(low, high, log=log, step=step)
        case _:
            raise TypeError(f"nothing is drawn from {domain}")


def drawn_by_branches(space: SearchSpace) -> bool:
    """Return True if the trials are drawn by `draw_by_branches`, False if Optuna draws them in the sweep's study."""
    return space.search.sampler in ("gp", "cmaes", "qmc") or bool(space.search.learn_from)


def draw_seed(space: SearchSpace, number: int) -> int:
    """Return the seed of draw `number`."""
    return (space.search.seed * 1_000_003 + number) % 2**32


def sampler(space: SearchSpace, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler for draw `number`. With `group`, TPE models each branch of a conditional space separately."""
    seed = draw_seed(space, number)
    if space.search.sampler != "tpe" or drawn_by_branches(space):
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def enqueueable(space: SearchSpace, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a setting that lie in the space, by draw label. The sampler can learn only from these."""
    labelled = ((label, domain, settings[name]) for name, label, domain in draw_labels(space) if name in settings)
    return {label: value for label, domain, value in labelled if contains(domain, value)}


def fixed_key(space: SearchSpace, settings: Mapping[str, Any]) -> str | None:
    """Return the key of the trial with these settings; None if they leave parameters for the sampler to draw."""
    undecided = object()
    assignment = assign(space, lambda label, domain: undecided, settings)
    try:
        decided = undecided not in assignment.values()
        return trial_key(space.job, asdict(params_of(space, assignment)), space.data_fingerprint) if decided else None
    except ParamError:
        return None

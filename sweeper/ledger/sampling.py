"""Optuna draws a trial's parameters from a search space."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import optuna

from jobs.job import ParamError
from sweeper.space.domains import Choice, Constant, Domain, Range, contains
from sweeper.space.search_space import SearchSpace, assign, draw_labels, params_of


def draw(trial: optuna.Trial, space: SearchSpace) -> dict[str, Any] | None:
    """All parameters of the job for this trial, with what an enqueued setting fixes in its place; None where
    the values do not fit together, which is known of pairs beforehand but not of three."""
    fixed = trial.user_attrs.get("fixed", {})
    assignment = assign(space, lambda label, domain: suggest(trial, label, domain), fixed)
    try:
        return asdict(params_of(space, assignment))
    except ParamError:
        return None


def suggest(trial: optuna.Trial, label: str, domain: Domain) -> Any:
    """Optuna's draw from one of our domains."""
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
    """The same for a trial that is imported rather than asked for."""
    match domain:
        case Choice(values):
            return optuna.distributions.CategoricalDistribution(values)
        case Range(low, high, log, step, True):
            return optuna.distributions.IntDistribution(int(low), int(high), log=log, step=int(step or 1))
        case Range(low, high, log, step, False):
            return optuna.distributions.FloatDistribution(low, high, log=log, step=step)
        case _:
            raise TypeError(f"nothing is drawn from {domain}")


def sampler(space: SearchSpace, number: int) -> optuna.samplers.BaseSampler:
    """The sampler for trial `number`. TPE learns conditional spaces branch by branch (`group`)."""
    seed = (space.search.seed * 1_000_003 + number) % 2**32
    if space.search.sampler != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def enqueueable(space: SearchSpace, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a setting that lies in the space, under the labels its draws will have: what the
    sampler can learn from. The rest is fixed beside it.
    """
    labelled = ((label, domain, settings[name]) for name, label, domain in draw_labels(space) if name in settings)
    return {label: value for label, domain, value in labelled if contains(domain, value)}

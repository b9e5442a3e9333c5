"""Estimate the importance of parameters with Optuna's PED-ANOVA, comparing trials after the same number of epochs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from sweeper.ledger.record import TrialRecord, best_evaluation
from sweeper.results.overview import NothingToShow, Results, all_numbers, is_log_scaled, varying_parameters

MIN_TRIALS = 4  # with fewer trials the importance is not computed


def importances(found: Results) -> tuple[dict[str, float], float, int]:
    """Return the importance of each varying parameter (summing to 1), the epoch of comparison, and the trial count.

    Trials stopped early have fewer epochs. Therefore all trials are compared at the last epoch that each one reached.
    Evaluator: Watanabe, Bansal, Hutter, PED-ANOVA, IJCAI 2023, https://arxiv.org/abs/2304.10255; it needs at least
    five trials in the better part. Raises NothingToShow when there are too few trials or no differences.
    """
    trials = [record for record in found.ranked if record.evaluations]
    missing = "There is no importance to show:"
    if len(trials) < MIN_TRIALS:
        have = "trial has" if len(trials) == 1 else "trials have"
        raise NothingToShow(f"{missing} {len(trials)} {have} a value, and {MIN_TRIALS} are needed.")
    names = varying_parameters(found, trials)
    if not names:
        raise NothingToShow(f"{missing} no parameter differs between the trials.")
    epoch = min(record.epochs for record in trials)
    values = [best_value_until(record, epoch, found) for record in trials]
    if len(set(values)) < 2:
        raise NothingToShow(f"{missing} after epoch {epoch:g} all trials had the same {found.objective}.")
    return importance_shares(found, trials, names, values), epoch, len(trials)


def best_value_until(record: TrialRecord, epoch: float, found: Results) -> float:
    """Return the trial's best objective up to that epoch."""
    until = [evaluation for evaluation in record.evaluations if evaluation["epoch"] <= epoch]
    chosen = best_evaluation(until, found.objective, found.direction) or record.evaluations[0]
    return float(chosen[found.objective])


def importance_shares(
    found: Results, trials: Sequence[TrialRecord], names: Sequence[str], values: Sequence[float]
) -> dict[str, float]:
    import optuna

    study = optuna.create_study(direction="maximize" if found.direction == "max" else "minimize")
    distributions = {
        name: importance_distribution(found, name, [record.params[name] for record in trials]) for name in names
    }
    for record, value in zip(trials, values, strict=True):
        params = {name: category(record.params[name], distributions[name]) for name in names}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=value))
    quantile = min(0.5, max(0.1, 5 / len(trials)))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns when better and worse trials have the same values
        scores = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
    total = sum(scores.values())
    if not total > 0:
        raise NothingToShow("There is no importance to show: better and worse trials have the same values.")
    return {name: score / total for name, score in scores.items()}


def importance_distribution(found: Results, name: str, values: Sequence[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if not all_numbers(values):
        return CategoricalDistribution(sorted({str(value) for value in values}))
    return FloatDistribution(min(values), max(values), log=is_log_scaled(found, name, values))


def category(value: Any, distribution: Any) -> Any:
    return str(value) if hasattr(distribution, "choices") else float(value)

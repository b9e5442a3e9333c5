"""Which parameters mattered: Optuna's PED-ANOVA over trials that are made comparable first."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from sweeper.ledger.record import TrialRecord, best_evaluation
from sweeper.results.overview import NothingToShow, Results, all_numbers, is_log_scaled, varying_parameters

FEWEST = 4  # trials below which nothing can be said


def importances(found: Results) -> tuple[dict[str, float], float, int]:
    """Each changing parameter's share in being among the better trials, summing to 1; the epoch at which
    the trials were compared, and how many they were.

    Trials stopped early have fewer epochs behind them. So all are compared at the last epoch which all have
    reached. Evaluator: Watanabe, Bansal, Hutter, PED-ANOVA, IJCAI 2023, https://arxiv.org/abs/2304.10255; it
    asks for five trials or more in the better part. Raises Absent.
    """
    trials = [record for record in found.ranked if record.evaluations]
    missing = "There is no importance to show:"
    if len(trials) < FEWEST:
        raise NothingToShow(
            f"{missing} {len(trials)} trials have a value, and {FEWEST} are the fewest that say anything."
        )
    names = varying_parameters(found, trials)
    if not names:
        raise NothingToShow(f"{missing} no parameter differs between the trials.")
    epoch = min(record.epochs for record in trials)
    values = [best_value_until(record, epoch, found) for record in trials]
    if len(set(values)) < 2:
        raise NothingToShow(f"{missing} after epoch {epoch:g} all trials had the same {found.objective}.")
    return importance_shares(found, trials, names, values), epoch, len(trials)


def best_value_until(record: TrialRecord, epoch: float, found: Results) -> float:
    """The best objective up to that epoch."""
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
        warnings.simplefilter("ignore")  # it warns where the better part cannot be told from the rest
        scores = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
    total = sum(scores.values())
    if not total > 0:
        raise NothingToShow("There is no importance to show: the better trials' parameters are like the others'.")
    return {name: score / total for name, score in scores.items()}


def importance_distribution(found: Results, name: str, values: Sequence[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if not all_numbers(values):
        return CategoricalDistribution(sorted({str(value) for value in values}))
    return FloatDistribution(min(values), max(values), log=is_log_scaled(found, name, values))


def category(value: Any, distribution: Any) -> Any:
    return str(value) if hasattr(distribution, "choices") else float(value)

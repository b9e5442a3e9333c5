"""Write a search space that repeats exactly one trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.ledger.lookup import Trial
from sweeper.space.document import yaml_text
from sweeper.space.domains import fits

NAME_CHARS = 64  # longest name of a search space


def recipe_name(trial: Trial) -> str:
    """Return the name of the search space that repeats a trial, such as quickstart-1."""
    return trial.name.replace("/", "-")[-NAME_CHARS:].lstrip(".")


def best_yaml(trial: Trial) -> str:
    """Return the YAML of a search space with one trial that has the same parameters, seed and trial key.

    Parameters left at their defaults are written too, so that the trial stays the same when a default changes. The
    trial's `resources` are kept; early stopping is off.
    """
    name = recipe_name(trial)
    scores = ", ".join(f"{metric} {value:.4f}" for metric, value in trial.record.metrics.items())
    space = trial.ledger.attributes["search_space"]
    resources = reserved_resources(space.get("resources") or (), trial.record.params)
    values: dict[str, Any] = {
        "name": name,
        "job": trial.job,
        "data": trial.data,
        "objective": trial.ledger.objective,
        "parameters": dict(trial.record.params),
        "search": {"sampler": "random", "trials": 1, "seed": space["search"]["seed"]},
        **({"resources": resources} if resources else {}),
        "keep": {"checkpoints": 1},
    }
    early = " It was stopped early; this trains to the end." if trial.record.state == "PRUNED" else ""
    return (
        f"# Trial {trial.name} again, which had {scores or 'no score'}.{early}\n"
        f"#   sweeper run {name}.yaml\n"
        f"# Its data had the fingerprint {trial.ledger.attributes['data_fingerprint'][:12]}.\n"
        f"{yaml_text(values, block=True)}"
    )


def reserved_resources(branches: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resources of a trial with these params, from the stored branches of a search space."""
    fitting = (
        branch
        for branch in branches
        if all(fits(params.get(name), one) for name, one in branch.get("when", {}).items())
    )
    return {key: value for key, value in next(fitting, {}).items() if key != "when"}

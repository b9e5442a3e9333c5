"""A trial as a search-space file that runs exactly it again."""

from __future__ import annotations

from typing import Any

from sweeper.ledger.lookup import Trial
from sweeper.space.document import yaml_text

LONGEST_NAME = 64  # that a search space may have


def best_yaml(trial: Trial) -> str:
    """The text of a search space with one trial, which has the same parameters, seed and trial key.

    Every parameter is written down, those left at their defaults too, so that it stays the same trial when a
    default changes. What the sweep reserved for its trials is kept; nothing stops it early.
    """
    name = trial.name.replace("/", "-")[-LONGEST_NAME:].lstrip(".")
    scores = ", ".join(f"{metric} {value:.4f}" for metric, value in trial.record.metrics.items())
    space = trial.ledger.attributes["search_space"]
    values: dict[str, Any] = {
        "name": name,
        "job": trial.job,
        "data": trial.data,
        "objective": trial.ledger.objective,
        "parameters": dict(trial.record.params),
        "search": {"sampler": "random", "trials": 1, "seed": space["search"]["seed"]},
        **({"resources": space["resources"]} if space.get("resources") else {}),
        "keep": {"checkpoints": 1},
    }
    early = " It was stopped early; this trains to the end." if trial.record.state == "PRUNED" else ""
    return (
        f"# Trial {trial.name} again, which had {scores or 'no score'}.{early}\n"
        f"#   sweeper run {name}.yaml\n"
        f"# Its data had the fingerprint {trial.ledger.attributes['data_fingerprint'][:12]}.\n"
        f"{yaml_text(values)}"
    )

"""A sweep's ledger written by hand: trials with the values they are said to have had, and no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage

from jobs.checkpoint import PREDICTIONS, write_json
from sweeper.ledger.ledger import Ledger, load_ledger

SPACE: dict[str, Any] = {
    "name": "written",
    "job": "qa",
    "data": "sample",
    "objective": "exact_match",
    "parameters": {
        "backbone": {"values": ["a", "b"]},
        "learning_rate": {"min": 1e-5, "max": 1e-3, "log": True},
        "num_train_epochs": 4,
    },
}


@dataclass(frozen=True)
class Told:
    """A trial: its objective after each epoch, ten seconds apart, and how it ended."""

    values: Sequence[float]
    params: Mapping[str, Any] = field(default_factory=dict)
    state: Any = "COMPLETE"
    reason: str | None = None
    questions: int = 0  # how many answers it leaves behind


def written(storage: RDBStorage, folder: Path, trials: Sequence[Told], **changes: Any) -> Ledger:
    """The ledger of these trials. `changes` replace keys of the resolved search space."""
    space = {**SPACE, **changes}
    study = optuna.create_study(storage=storage, study_name=space["name"], direction="maximize")
    attributes = {
        **{key: space[key] for key in ("job", "data", "objective")},
        "data_fingerprint": "0123456789abcdef",
        "metrics": [space["objective"], "f1", "eval_loss", "train_loss"],
        "search_space": space,
        "versions": {"python": "3.11", "sweeper": "0.1.0"},
    }
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    ledger = load_ledger(storage, space["name"])
    for told in trials:
        write(ledger, folder, told)
    return ledger


def write(ledger: Ledger, folder: Path, told: Told) -> None:
    trial = ledger.study.ask()
    trial.set_user_attr("key", f"key-{trial.number}")
    trial.set_user_attr("params", {"backbone": "a", "learning_rate": 1e-4, "num_train_epochs": 4, **told.params})
    home = folder / "trials" / f"{trial.number:04d}"
    for epoch, value in enumerate(told.values, 1):
        losses = {"f1": value, "eval_loss": 1.5 - value, "train_loss": 1.2 - value}
        report = {**losses, ledger.objective: value, "epoch": float(epoch), "seconds": 10.0 * epoch}
        ledger.report(trial.number, report, str(home / f"checkpoint-{epoch:06d}"))
    if told.questions:
        home.mkdir(parents=True)
        write_json(home / PREDICTIONS, [{"id": str(index), "answer": "山"} for index in range(told.questions)])
    if told.state != "RUNNING":
        ledger.finish(trial.number, told.state, told.reason)

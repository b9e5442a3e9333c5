"""Copy finished trials from an earlier sweep into a new one whose search space contains them (`--extend`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from jobs.checkpoint import damage
from jobs.job import ParamError
from sweeper.ledger.ledger import Ledger
from sweeper.ledger.record import EVALUATION, INCIDENT, ORIGIN, TrialRecord, best_evaluation
from sweeper.ledger.sampling import distribution
from sweeper.space.domains import Domain, contains
from sweeper.space.search_space import SearchSpace, assign, draw_labels, params_of
from sweeper.storage import checkpoint_store

Draws = Mapping[str, tuple[Domain, Any]]


def imported_trials(
    ledger: Ledger,
    space: SearchSpace,
    workdir: Callable[[int], Path],
    storage: Callable[[int], str | None] = lambda number: None,
) -> list[FrozenTrial]:
    """Return the ledger's finished trials that `space` could also draw, as Optuna trials for `create_ledger`, in order.

    `workdir` maps a new trial number to its folder, `storage` to its storage address or None. Each trial's best
    checkpoint is copied there (as hard links if possible), so that each sweep can delete its own.
    """
    found = ((record, draws_of(space, record.params)) for record in ledger.records() if is_importable(record, space))
    taken = [(record, draws) for record, draws in found if draws is not None]
    return [
        to_frozen_trial(
            record,
            draws,
            space,
            f"{ledger.name}/{record.number}",
            copy_best_checkpoint(record, space, workdir(number), storage(number)),
        )
        for number, (record, draws) in enumerate(taken)
    ]


def is_importable(record: TrialRecord, space: SearchSpace) -> bool:
    """Return True if a trial of an earlier sweep can be copied into a new sweep over `space`.

    The trial has finished, is not a repeat, and has the objective of `space` in all its evaluations."""
    judged = bool(record.evaluations) and all(space.objective in evaluation for evaluation in record.evaluations)
    return record.state in ("COMPLETE", "PRUNED") and record.repeat_of is None and judged


def draws_of(space: SearchSpace, params: Mapping[str, Any]) -> Draws | None:
    """Return the domain and the value of each draw that gives these params in `space`, by draw label.

    Returns None if `space` cannot draw them.

    >>> draws_of(space, record.params)
    {'learning_rate': (Range(low=1e-05, high=0.0001, log=True), 3e-05)}
    """
    found: dict[str, tuple[Domain, Any]] = {}
    names = {label: name for name, label, _ in draw_labels(space)}

    def choose(label: str, domain: Domain) -> Any:
        found[label] = (domain, params[names[label]])
        return params[names[label]]

    try:
        same = asdict(params_of(space, assign(space, choose))) == dict(params)
    except (ParamError, KeyError):
        return None
    return found if same and all(contains(domain, value) for domain, value in found.values()) else None


def copy_best_checkpoint(
    record: TrialRecord, space: SearchSpace, workdir: Path, storage: str | None = None
) -> str | None:
    """Copy the trial's best checkpoint to `storage`, or else to `workdir`. Return its address; None if it is deleted or
    damaged."""
    best = best_evaluation(record.evaluations, space.objective, space.direction)
    address = best["checkpoint"] if best else None
    if not address:
        return None
    if storage or checkpoint_store.is_remote(address):
        return checkpoint_store.copy(address, storage or str(workdir))
    source = Path(address)
    if damage(source):
        return None
    target = workdir / source.name
    shutil.rmtree(target, ignore_errors=True)
    workdir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(OSError):  # the earlier sweep may delete it at the same time
        shutil.copytree(source, target, copy_function=_link)
    return None if damage(target) else str(target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def to_frozen_trial(
    record: TrialRecord, draws: Draws, space: SearchSpace, origin: str, checkpoint: str | None
) -> FrozenTrial:
    """Return a record as an Optuna trial with its best checkpoint only. `origin` is SWEEP/NUMBER of the original."""
    best = best_evaluation(record.evaluations, space.objective, space.direction) or {}
    evaluations = [{**e, "checkpoint": checkpoint if e is best else None} for e in record.evaluations]
    trial = optuna.trial.create_trial(
        state=TrialState[record.state],
        value=best[space.objective] if record.state == "COMPLETE" else None,
        params={label: value for label, (_, value) in draws.items()},
        distributions={label: distribution(domain) for label, (domain, _) in draws.items()},
        user_attrs={ORIGIN: origin, **ledger_attributes(record, evaluations)},
        intermediate_values={step: e[space.objective] for step, e in enumerate(evaluations, start=1)},
    )
    trial.datetime_start, trial.datetime_complete = record.started, record.ended
    return trial


def ledger_attributes(record: TrialRecord, evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the user attributes in which the ledger stores a trial's params, evaluations and incidents."""
    return {
        "key": record.key,
        "params": dict(record.params),
        **({"reason": record.reason} if record.reason else {}),
        **{f"{EVALUATION}{evaluation['epoch']:014.6f}": evaluation for evaluation in evaluations},
        **{f"{INCIDENT}{nth:04d}": dict(incident) for nth, incident in enumerate(record.incidents)},
    }

"""Finished trials of one sweep in another, whose search space would draw them too: so a sweep is extended."""

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
from sweeper.storage import checkpoints

Draws = Mapping[str, tuple[Domain, Any]]


def imported_trials(
    ledger: Ledger,
    space: SearchSpace,
    workdir: Callable[[int], Path],
    storage: Callable[[int], str | None] = lambda number: None,
) -> list[FrozenTrial]:
    """The trials of a ledger that `space` would draw too, for `create_ledger`, in their order.

    `workdir` gives the folder of the new sweep's trial of a number, `storage` where its checkpoints go instead, if
    they do. A trial's best checkpoint is there too then, as hard links where the file system has them, so that each
    sweep may delete its own.
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
    """Whether a trial is a result of the search that the new objective can judge."""
    judged = bool(record.evaluations) and all(space.objective in evaluation for evaluation in record.evaluations)
    return record.state in ("COMPLETE", "PRUNED") and record.repeat_of is None and judged


def draws_of(space: SearchSpace, params: Mapping[str, Any]) -> Draws | None:
    """By label, the domain and the value with which this space would draw these params; None if it never would.

    >>> drawn(space, record.params)
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
    """Its best checkpoint under `storage` or else `workdir`; None if that was not kept, or is damaged."""
    best = best_evaluation(record.evaluations, space.objective, space.direction)
    address = best["checkpoint"] if best else None
    if not address:
        return None
    if storage or checkpoints.is_remote(address):
        return checkpoints.copy(address, storage or str(workdir))
    source = Path(address)
    if damage(source):
        return None
    target = workdir / source.name
    shutil.rmtree(target, ignore_errors=True)
    workdir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(OSError):  # taken away meanwhile by the sweep that owns it
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
    """The trial as Optuna keeps it: `origin` says where it was run, and only its best checkpoint came along."""
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
    """What the ledger keeps beside a trial, under its own names."""
    return {
        "key": record.key,
        "params": dict(record.params),
        **({"reason": record.reason} if record.reason else {}),
        **{f"{EVALUATION}{evaluation['epoch']:014.6f}": evaluation for evaluation in evaluations},
        **{f"{INCIDENT}{nth:04d}": dict(incident) for nth, incident in enumerate(record.incidents)},
    }

"""Copy finished trials from an earlier sweep into a new one whose search space contains them (`--extend`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from jobs.checkpoint import copy_part, without_state
from jobs.job import ParamError
from jobs.suggestions import short
from sweeper.ledger.ledger import Ledger
from sweeper.ledger.ranking import ENDED_WELL, without_repeats
from sweeper.ledger.record import (
    EVALUATION,
    INCIDENT,
    ORIGIN,
    TrialRecord,
    best_evaluation,
    defaults_since,
    key_params,
    trial_key,
)
from sweeper.ledger.sampling.draws import distribution
from sweeper.space.domains import Domain, contains, literal_text
from sweeper.space.search_space import SearchSpace, assign, draw_labels, memory_only, params_of
from sweeper.storage import checkpoint_store

Draws = Mapping[str, tuple[Domain, Any]]
MAX_REASONS = 5  # reasons, and trials of one reason, that the line about `--extend` names


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
    return [
        to_frozen_trial(
            record,
            draws,
            space,
            f"{ledger.name}/{record.number}",
            copy_best_checkpoint(record, space, workdir(number), storage(number)),
        )
        for number, (record, draws) in enumerate(importable_trials(ledger, space))
    ]


def importable_trials(ledger: Ledger, space: SearchSpace) -> list[tuple[TrialRecord, Draws]]:
    """Return the ledger's finished trials that `space` could also draw, with their draws, in order.

    Their batch sizes become those of the space, so that the same training is not run again with another one. Parameters
    that are new since they ended have their defaults, as the space may search them in other branches.
    """
    fitting = [record for record in without_repeats(ledger.records()) if misfit(record, space) is None]
    return [_as_drawn(record, space, _redrawn(space, record.params)) for record in fitting]


def _as_drawn(record: TrialRecord, space: SearchSpace, found: Redrawn) -> tuple[TrialRecord, Draws]:
    params = {**found.params, **record.params, **{name: found.params[name] for name in memory_only(space)}}
    return replace(record, params=params, key=trial_key(space.job, params, space.data_fingerprint)), found.draws


def extension_line(ledger: Ledger, space: SearchSpace) -> str:
    """Return one line that tells how many trials of a sweep a changed space reuses, and why it leaves out the others.

    >>> extension_line(load_ledger(storage, "toy"), space)
    '--extend: no trial of toy fits, so all trials are new: num_train_epochs was 4, is now 5 (trials 0, 1)'
    """
    records = without_repeats(ledger.records())
    by_reason: dict[str, list[int]] = {}
    for record in records:
        if reason := misfit(record, space):
            by_reason.setdefault(reason, []).append(record.number)
    fitting = len(records) - sum(map(len, by_reason.values()))
    kept = f"{fitting} of {len(records)} trials of {ledger.name} fit and are reused"
    if not fitting:
        kept = f"no trial of {ledger.name} fits, so all trials are new"
    reasons = [f"{reason} ({_trials(numbers)})" for reason, numbers in by_reason.items()]
    more = [f"… and {len(reasons) - MAX_REASONS} more reasons"] if len(reasons) > MAX_REASONS else []
    joined = "; ".join(reasons[:MAX_REASONS] + more)
    return f"--extend: {kept}" + (f"{'; left out' if fitting else ''}: {joined}" if joined else "")


def _trials(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:MAX_REASONS]))
    if len(numbers) > MAX_REASONS:
        return f"trials {shown} and {len(numbers) - MAX_REASONS} more"
    return f"trial{'' if len(numbers) == 1 else 's'} {shown}"


def misfit(record: TrialRecord, space: SearchSpace) -> str | None:
    """Return the first reason why a trial of an earlier sweep cannot be copied into a new sweep; None if it can.

    A trial can be copied if it has finished, has the objective of `space` in all its evaluations, and has parameters
    that `space` could draw.
    """
    if record.state not in ENDED_WELL:
        return "has failed" if record.state == "FAIL" else "has not ended"
    if not record.evaluations or any(space.objective not in evaluation for evaluation in record.evaluations):
        return f"has not reported {space.objective}"
    return _redrawn(space, record.params).difference


def draws_of(space: SearchSpace, params: Mapping[str, Any]) -> Draws | None:
    """Return the domain and the value of each draw that gives these params in `space`, by draw label.

    Returns None if `space` cannot draw them.

    >>> draws_of(space, record.params)
    {'learning_rate': (Range(low=1e-05, high=0.0001, log=True), 3e-05)}
    """
    found = _redrawn(space, params)
    return found.draws if found.difference is None else None


class Redrawn(NamedTuple):
    """Hold how a space draws given parameters.

    draws       the domain and the value of each draw, by its label
    params      all parameters after these draws
    difference  the first difference from the given parameters; None if there is none
    """

    draws: Draws
    params: Mapping[str, Any]
    difference: str | None


def _redrawn(space: SearchSpace, params: Mapping[str, Any]) -> Redrawn:
    """Draw given parameters again: with settings of `search.enqueue` or, if none gives them, from the space alone.

    So an enqueued trial has the batch size with which it is enqueued, and is not run again. Settings with the batch
    size of the given parameters come first.
    """
    free = memory_only(space)
    alike = [
        one for one in space.search.enqueue if {k: v for k, v in one.items() if k not in free}.items() <= params.items()
    ]
    exactly_first = sorted(alike, key=lambda one: not one.items() <= params.items())
    found = [_redrawn_with(space, params, entry) for entry in (*exactly_first, {})]
    return next((one for one in found if one.difference is None), found[-1])


def _redrawn_with(space: SearchSpace, params: Mapping[str, Any], entry: Mapping[str, Any]) -> Redrawn:
    found: dict[str, tuple[Domain, Any]] = {}
    names = {label: name for name, label, _ in draw_labels(space)}
    known = {**defaults_since(space.job), **params}

    def choose(label: str, domain: Domain) -> Any:
        found[label] = (domain, known[names[label]])
        return known[names[label]]

    try:
        drawn = asdict(params_of(space, assign(space, choose, entry)))
    except ParamError as error:
        return Redrawn(found, {}, f"{error.key}: {error}")
    except KeyError as error:
        return Redrawn(found, {}, f"has no parameter {error.args[0]}")
    outside = (
        f"{names[label]} was {literal_text(value)}, is now {short(str(domain))}"
        for label, (domain, value) in found.items()
        if not contains(domain, value)
    )
    return Redrawn(found, drawn, next(chain(outside, _trial_changes(space, params, drawn)), None))


def _trial_changes(space: SearchSpace, params: Mapping[str, Any], drawn: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parameters that differ and change results; those that are new since count at their defaults."""
    before, now = key_params(space.job, params), key_params(space.job, drawn)
    for name in dict.fromkeys([*now, *before]):
        if name not in memory_only(space) and (name not in now or name not in before or now[name] != before[name]):
            yield f"{name} was {_literal(before, name)}, is now {_literal(now, name)}"


def _literal(params: Mapping[str, Any], name: str) -> str:
    return short(literal_text(params[name])) if name in params else "nothing"


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
    with suppress(OSError, ValueError):  # damaged, or the earlier sweep deletes it at the same time
        return str(copy_part(Path(address), workdir / Path(address).name, without_state, _link))
    return None


def _link(source: Path, target: Path) -> None:
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

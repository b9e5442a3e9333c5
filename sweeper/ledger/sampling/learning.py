"""Let a sampler learn from trials of other sweeps (`search.learn_from`). A sweep stores their numbers only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from jobs.suggestions import nearest, unknown_name
from sweeper.errors import ConfigError
from sweeper.ledger.record import trial_key
from sweeper.ledger.sampling.models import Past, best_value, is_searched
from sweeper.space.domains import Domain, contains
from sweeper.space.reading import present_fingerprint
from sweeper.space.search_space import SearchSpace, assign, defaults_by_name, draw_labels

Sources = Mapping[str, Sequence[int]]  # numbers of trials by sweep


@dataclass(frozen=True)
class Learned:
    """Hold the trials of other sweeps that a sampler learns from.

    trials  the trials whose searched values lie in the search space, by key
    counts  how many trials of each sweep are used, and how many had ended when this sweep began
    """

    trials: Mapping[str, Past] = field(default_factory=dict)
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def line(self) -> str:
        """Return one line that tells how many trials are used."""
        parts = [f"{used} of {ended} trials of {name}" for name, (used, ended) in self.counts.items()]
        outside = any(used < ended for used, ended in self.counts.values())
        others = "; the others lie outside the search space" if outside else ""
        return f"the sampler learns from {' and '.join(parts)}{others}"


def find_sources(storage: BaseStorage, space: SearchSpace) -> dict[str, list[int]]:
    """Return the numbers of the trials in the sweeps of `search.learn_from` that have ended with a value.

    Raises ConfigError with a line for each sweep that is missing, or has another job, data or objective.
    """
    if not space.search.learn_from:
        return {}
    summaries = optuna.get_all_study_summaries(storage, include_best_trial=False)
    known = {summary.study_name: summary.user_attrs for summary in summaries}
    fitting = [name for name, attributes in known.items() if not _other_kind(attributes, space)]
    problems = [problem for name in space.search.learn_from if (problem := _problem(name, known, fitting, space))]
    if problems:
        raise ConfigError([f"search.learn_from: {problem}" for problem in problems])
    return {name: [number for number, _, _ in _ended_trials(storage, name, space)] for name in space.search.learn_from}


def _problem(
    name: str, known: Mapping[str, Mapping[str, Any]], fitting: Sequence[str], space: SearchSpace
) -> str | None:
    if name not in known:
        return unknown_name("sweep", name, fitting)
    recorded = str(known[name].get("data_fingerprint"))
    other = _other_kind({**known[name], "data_fingerprint": space.data_fingerprint}, space)
    if not other and recorded != space.data_fingerprint:  # it may be the same data by an earlier definition
        other = None if present_fingerprint(space, f"sweep {name}", recorded) == recorded else "has other data"
    if not other:
        return None
    near = nearest(name, fitting)
    hint = f"; did you mean {near!r}?" if near else ""
    return f"sweep {name} {other}; name sweeps of the same job, data and objective{hint}"


def _other_kind(attributes: Mapping[str, Any], space: SearchSpace) -> str | None:
    """Return in which way a sweep differs from the space, so that its values cannot be compared; else None."""
    if attributes.get("job") != space.job:
        return f"has job {attributes.get('job')}, not {space.job}"
    if attributes.get("objective") != space.objective:
        return f"has objective {attributes.get('objective')}, not {space.objective}"
    return None if attributes.get("data_fingerprint") == space.data_fingerprint else "has other data"


def learn(storage: BaseStorage, sources: Sources, space: SearchSpace) -> Learned:
    """Read the trials of other sweeps. Raises ConfigError if a sweep is no longer there."""
    trials: dict[str, Past] = {}
    counts: dict[str, tuple[int, int]] = {}
    for name, numbers in sources.items():
        found = [
            (trial_key(space.job, params, space.data_fingerprint), Past(inside, value, learned=True))
            for number, params, value in _ended_trials(storage, name, space)
            if number in set(numbers) and (inside := _inside(space, params)) is not None
        ]
        counts[name] = len(found), len(numbers)
        trials = {**dict(found), **trials}
    return Learned(trials, counts)


def _ended_trials(
    storage: BaseStorage, name: str, space: SearchSpace
) -> Iterator[tuple[int, Mapping[str, Any], float]]:
    """Yield number, params and value (larger is better) of a sweep's ended trials, without repeats."""
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        raise ConfigError(
            f"search.learn_from: sweep {name} is no longer in the ledger; restore it, or start a sweep without it"
        ) from None
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        value = best_value(trial, space.objective, space.direction)
        if value is not None and is_searched(trial):
            yield trial.number, trial.user_attrs["params"], value


def _inside(space: SearchSpace, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the params with the constants of a space; None if a searched value lies outside the space."""
    known = {**defaults_by_name(space.job), **params}
    names = {label: name for name, label, _ in draw_labels(space)}
    inside: list[bool] = []

    def choose(label: str, domain: Domain) -> Any:
        inside.append(contains(domain, known[names[label]]))
        return known[names[label]]

    assignment = assign(space, choose)
    return {**known, **assignment} if all(inside) else None

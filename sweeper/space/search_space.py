"""A search-space file becomes a checked SearchSpace, every mistake said at once; and what a space means.

Knows jobs only by their parameters and metrics, and nothing of who proposes values or runs trials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Protocol

from jobs import get_job
from jobs.job import Direction, Job
from sweeper.space.document import plain_scalar, yaml_text
from sweeper.space.domains import (
    Branch,
    Choice,
    Constant,
    Domain,
    Range,
    Reservation,
    contains,
    grid_values,
    is_number,
    literal_text,
)
from sweeper.space.sections import (
    Budget,
    EarlyStopping,
    Keep,
    Repeats,
    Resources,
    Search,
)

# What others need of the file's parts, they take from here.
__all__ = ["Branch", "Choice", "Constant", "Domain", "Range", "Reservation", "Resources"]
Parameters = Mapping[str, tuple[Branch, ...]]
Suggest = Callable[[str, Domain], Any]


@dataclass(frozen=True)
class SearchSpace:
    """A checked file. Plain data: `job` is the name or import path that `jobs.get_job` takes.

    `parameters` stand in an order in which each comes after those its `when` names, whatever the file's
    order; `data` is an absolute folder or `sample`; `search.trials` is set for a grid too.
    """

    name: str
    job: str
    data: str
    objective: str
    parameters: Parameters
    search: Search
    early_stopping: EarlyStopping | None
    repeats: Repeats | None
    budget: Budget
    resources: tuple[Reservation, ...]
    keep: Keep
    data_fingerprint: str = ""

    @property
    def metrics(self) -> Mapping[str, Direction]:
        return get_job(self.job).metrics

    @property
    def direction(self) -> Direction:
        return self.metrics[self.objective]


def assign(space: SearchSpace, suggest: Suggest, fixed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One setting of the parameters; what no branch gives a value keeps the job's default and is left out.

    >>> assign(space, lambda label, domain: trial.suggest_float(label, domain.low, domain.high))
    {'backbone': 'bert-base-chinese', 'learning_rate': 3.1e-05}

    `suggest(label, domain)` is asked for choices and ranges only. A label is the parameter's name, with
    `.BRANCH` after it where branches differ in kind. Values in `fixed` stand, in the space or not; those that
    lie in it are asked for as well, so that a sampler gets to know them.
    """
    chosen = dict(fixed or {})
    known = {**_defaults(space.job), **chosen}
    for name, branches in space.parameters.items():
        index = _first_match(branches, known)
        if index is None:
            continue
        domain, label = branches[index].domain, _label(name, branches, index)
        if name not in chosen:
            chosen[name] = known[name] = domain.value if isinstance(domain, Constant) else suggest(label, domain)
        elif not isinstance(domain, Constant) and contains(domain, chosen[name]):
            suggest(label, domain)
    return chosen


def params_of(space: SearchSpace, assignment: Mapping[str, Any]) -> Any:
    """The job's params dataclass with this assignment. Raises ParamError if values do not fit together."""
    return get_job(space.job).params(**assignment)


def resources_of(space: SearchSpace, params: Mapping[str, Any]) -> Resources | None:
    """What a trial with these parameters reserves, or None where the file does not say."""
    index = _first_match(space.resources, {**_defaults(space.job), **params})
    return None if index is None else space.resources[index].resources


def grid(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Every assignment, the last parameter changing fastest. Raises ValueError if a range is continuous."""
    return _grid(list(space.parameters.items()), {}, _defaults(space.job))


def draw_labels(space: SearchSpace) -> Iterator[tuple[str, str, Domain]]:
    """Name, label and domain of every choice and range that `assign` may ask for."""
    for name, branches in space.parameters.items():
        for index, branch in enumerate(branches):
            if not isinstance(branch.domain, Constant):
                yield name, _label(name, branches, index), branch.domain


def searched_parameters(space: SearchSpace) -> list[str]:
    """The parameters whose values are proposed; the others are constants."""
    return list(dict.fromkeys(name for name, _, _ in draw_labels(space)))


def resolved(space: SearchSpace) -> dict[str, Any]:
    """Plain values which, written as YAML and read again, give an equal space."""
    sections = {
        "early_stopping": space.early_stopping and space.early_stopping.model_dump(),
        "budget": space.budget.model_dump(exclude_none=True),
        "repeats": space.repeats and space.repeats.model_dump(mode="json"),
        "resources": [_plain_reservation(reservation) for reservation in space.resources],
    }
    return {
        **{key: getattr(space, key) for key in ("name", "job", "data", "objective")},
        "parameters": {name: _plain_parameter(branches) for name, branches in space.parameters.items()},
        "search": space.search.model_dump(mode="json"),
        **{key: section for key, section in sections.items() if section},
        "keep": space.keep.model_dump(),
    }


def to_yaml(space: SearchSpace) -> str:
    """The resolved space as the text of a file that `read_search_space` accepts."""
    return yaml_text(resolved(space))


def _plain_parameter(branches: tuple[Branch, ...]) -> Any:
    if len(branches) == 1 and not branches[0].when:
        domain = branches[0].domain
        return domain.value if isinstance(domain, Constant) else _plain_domain(domain)
    return [{**_plain_when(branch.when), **_plain_domain(branch.domain)} for branch in branches]


def _plain_domain(domain: Domain) -> dict[str, Any]:
    if isinstance(domain, Constant):
        return {"value": domain.value}
    if isinstance(domain, Choice):
        return {"values": list(domain.values)}
    extras = {"log": domain.log or None, "step": domain.step}
    return {
        "min": domain.low,
        "max": domain.high,
        **{key: value for key, value in extras.items() if value is not None},
    }


def _plain_reservation(reservation: Reservation) -> dict[str, Any]:
    return {**_plain_when(reservation.when), **reservation.resources.model_dump(exclude_defaults=True)}


def _plain_when(when: Mapping[str, str]) -> dict[str, Any]:
    return {"when": dict(when)} if when else {}


def _label(name: str, branches: tuple[Branch, ...], index: int) -> str:
    """One label must not stand for two sets of choices, nor for ranges of two types or scales."""
    drawn = {branch.domain for branch in branches if not isinstance(branch.domain, Constant)}
    kinds = {(domain.integer, domain.log) if isinstance(domain, Range) else domain for domain in drawn}
    return name if len(kinds) <= 1 else f"{name}.{index}"


@cache
def _defaults(job: str) -> dict[str, Any]:
    return defaults_of(get_job(job))


def defaults_of(job: Job) -> dict[str, Any]:
    return {field.name: field.default for field in fields(job.params)}


class Conditional(Protocol):
    @property
    def when(self) -> Mapping[str, str]: ...


def _first_match(branches: Sequence[Conditional], known: Mapping[str, Any]) -> int | None:
    """The first branch all of whose conditions `known` meets."""
    held = (i for i, b in enumerate(branches) if all(fits(known[name], glob) for name, glob in b.when.items()))
    return next(held, None)


def fits(value: Any, glob: str) -> bool:
    """Whether a value's text matches, or its number is the same: 1e-5 fits 0.00001 as well as 1e-*."""
    return any(fnmatchcase(text, glob) for text in {str(value), literal_text(value)}) or (
        is_number(value) and value == _glob_number(glob)
    )


def _glob_number(glob: str) -> int | float | None:
    with suppress(ValueError):
        number = plain_scalar(glob)
        return number if isinstance(number, int | float) and is_number(number) else None
    return None


def _grid(
    rest: list[tuple[str, tuple[Branch, ...]]], chosen: dict[str, Any], defaults: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    if not rest:
        yield chosen
        return
    (name, branches), *rest = rest
    index = _first_match(branches, {**defaults, **chosen})
    if index is None:
        yield from _grid(rest, chosen, defaults)
        return
    values = grid_values(branches[index].domain)
    if values is None:
        raise ValueError(f"{name} has no grid: {branches[index].domain}")
    for value in values:
        yield from _grid(rest, {**chosen, name: value}, defaults)

"""Define SearchSpace: assign parameter values by its branches, list its grid, and write it back as YAML.

The values come from samplers in `sweeper.ledger`; `reading` reads and checks the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Protocol

from jobs import get_job
from jobs.job import MEMORY_ONLY, Direction, Job
from sweeper.space.document import yaml_text
from sweeper.space.domains import (
    Branch,
    Choice,
    Condition,
    Constant,
    Domain,
    Range,
    Reservation,
    contains,
    fits,
    grid_values,
)
from sweeper.space.sections import (
    Budget,
    EarlyStopping,
    Keep,
    Notify,
    Repeats,
    Resources,
    Search,
)

Parameters = Mapping[str, tuple[Branch, ...]]
Suggest = Callable[[str, Domain], Any]


@dataclass(frozen=True)
class SearchSpace:
    """Hold a checked search-space file.

    job         a name or import path for `jobs.get_job`
    data        an absolute folder, or `sample`
    parameters  sorted so that each follows the parameters in its `when`
    search      has `trials` set, also for a grid
    reference   published scores of the objective, by backbone
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
    reference: Mapping[str, float] = field(default_factory=dict)
    notify: Notify | None = None

    @property
    def metrics(self) -> Mapping[str, Direction]:
        return get_job(self.job).metrics

    @property
    def direction(self) -> Direction:
        return self.metrics[self.objective]

    @property
    def kept_checkpoints(self) -> int:
        """Return how many of the best checkpoints are kept. Any finalist may become the best once it is repeated."""
        return max(self.keep.checkpoints, self.repeats.top if self.repeats else 0)


def assign(space: SearchSpace, suggest: Suggest, fixed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Assign a value to each parameter. A parameter without a matching branch is left out and keeps its default.

    >>> assign(space, lambda label, domain: trial.suggest_float(label, domain.low, domain.high))
    {'backbone': 'bert-base-chinese', 'learning_rate': 3.1e-05}

    Calls `suggest(label, domain)` for choices and ranges. The label is the parameter's name, with `.BRANCH` appended
    if its branches differ in kind. Values in `fixed` are kept, even outside the space. For values inside the space
    `suggest` is called too, so that the sampler learns from them.
    """
    chosen = dict(fixed or {})
    known = {**defaults_by_name(space.job), **chosen}
    for name, branches in space.parameters.items():
        index = first_match(branches, known)
        if index is None:
            continue
        domain, label = branches[index].domain, _label(name, branches, index)
        if name not in chosen:
            chosen[name] = known[name] = domain.value if isinstance(domain, Constant) else suggest(label, domain)
        elif not isinstance(domain, Constant) and contains(domain, chosen[name]):
            suggest(label, domain)
    return chosen


def params_of(space: SearchSpace, assignment: Mapping[str, Any]) -> Any:
    """Return the job's params dataclass for an assignment. Raises ParamError if the job refuses the combination."""
    return get_job(space.job).params(**assignment)


def resources_of(space: SearchSpace, params: Mapping[str, Any]) -> Resources | None:
    """Return the resources of a trial with these parameters, or None if the file sets none."""
    index = first_match(space.resources, {**defaults_by_name(space.job), **params})
    return None if index is None else space.resources[index].resources


def grid(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Yield every assignment; the last parameter changes fastest. Raises ValueError if a range is continuous."""
    return _grid(list(space.parameters.items()), {}, defaults_by_name(space.job))


def draw_labels(space: SearchSpace) -> Iterator[tuple[str, str, Domain]]:
    """Yield name, label and domain of every choice and range that `assign` may suggest."""
    for name, branches in space.parameters.items():
        for index, branch in enumerate(branches):
            if not isinstance(branch.domain, Constant):
                yield name, _label(name, branches, index), branch.domain


def searched_parameters(space: SearchSpace) -> list[str]:
    """Return the names of the parameters that are not constants."""
    return list(dict.fromkeys(name for name, _, _ in draw_labels(space)))


def resolved(space: SearchSpace) -> dict[str, Any]:
    """Return the space as plain values. Written as YAML and read again, they give an equal space."""
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
        **({"notify": space.notify.model_dump(mode="json")} if space.notify else {}),
        **({"reference": dict(space.reference)} if space.reference else {}),
    }


def to_yaml(space: SearchSpace) -> str:
    """Write a space as YAML that `read_search_space` accepts."""
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


def _plain_when(when: Mapping[str, Condition]) -> dict[str, Any]:
    plain = {name: one if isinstance(one, str) else list(one) for name, one in when.items()}
    return {"when": plain} if when else {}


def _label(name: str, branches: tuple[Branch, ...], index: int) -> str:
    """Return a parameter's label: its name, with the branch index if branches differ in choices, type or scale."""
    drawn = {branch.domain for branch in branches if not isinstance(branch.domain, Constant)}
    kinds = {(domain.integer, domain.log) if isinstance(domain, Range) else domain for domain in drawn}
    return name if len(kinds) <= 1 else f"{name}.{index}"


@cache
def defaults_by_name(job: str) -> dict[str, Any]:
    return defaults_of(get_job(job))


def defaults_of(job: Job) -> dict[str, Any]:
    return {one.name: one.default for one in fields(job.params)}


def memory_only(space: SearchSpace) -> set[str]:
    """Return the parameters that change memory and time only, and that the space does not search."""
    names = {one.name for one in fields(get_job(space.job).params) if one.metadata.get(MEMORY_ONLY)}
    return names.difference(searched_parameters(space))


class Conditional(Protocol):
    @property
    def when(self) -> Mapping[str, Condition]: ...


def first_match(branches: Sequence[Conditional], known: Mapping[str, Any]) -> int | None:
    """Return the index of the first branch whose conditions all match `known`, or None."""
    held = (i for i, b in enumerate(branches) if all(fits(known[name], one) for name, one in b.when.items()))
    return next(held, None)


def _grid(
    rest: list[tuple[str, tuple[Branch, ...]]], chosen: dict[str, Any], defaults: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    if not rest:
        yield chosen
        return
    (name, branches), *rest = rest
    index = first_match(branches, {**defaults, **chosen})
    if index is None:
        yield from _grid(rest, chosen, defaults)
        return
    values = grid_values(branches[index].domain)
    if values is None:
        raise ValueError(f"{name} has no grid: {branches[index].domain}")
    for value in values:
        yield from _grid(rest, {**chosen, name: value}, defaults)

"""List the cases of a conditional search space: the combinations of branches whose values can occur together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from jobs import get_job
from jobs.job import Job, ParamError
from sweeper.space.domains import (
    Branch,
    Choice,
    Condition,
    Constant,
    Domain,
    Range,
    Reservation,
    alternatives,
    comparison,
    cut_range,
    fits,
    glob_number,
    grid_values,
)
from sweeper.space.search_space import (
    Conditional,
    Parameters,
    SearchSpace,
    defaults_by_name,
    first_match,
    resources_of,
)
from sweeper.space.sections import (
    Resources,
)

MAX_CUTS = 1_000
MIN_BOUND = 1e-300  # a smaller bound is the number next to zero


@dataclass(frozen=True)
class Case:
    """Hold the domains and resources of all trials whose parameters match the same branches."""

    domains: Mapping[str, Domain]
    resources: Resources | None


def list_cases(space: SearchSpace) -> list[Case]:
    """Split a space by its `when` conditions: one Case for each combination of branches that can occur.

    >>> for name, domain in list_cases(space)[0].domains.items():
    ...     print(f"{name}: {domain}")
    backbone: hfl/chinese-lert-large
    learning_rate: 1e-5 … 4e-5 log
    """
    groups: dict[tuple[Any, ...], list[Cut]] = {}
    for cut in split_space(space.parameters, space.resources, defaults_by_name(space.job)):
        reserved = first_match(space.resources, {**defaults_by_name(space.job), **cut.first})
        groups.setdefault((*cut.matched.items(), reserved), []).append(cut)
    return [Case(_merged(space.parameters, cuts), resources_of(space, cuts[0].first)) for cuts in groups.values()]


def max_epochs(space: SearchSpace) -> int:
    """Return the largest num_train_epochs that a trial of this space can have."""
    return int(max(_possible(space, "num_train_epochs")))


def max_evaluations(space: SearchSpace) -> int | None:
    """Return the largest number of evaluations of a trial; None if it depends on the number of optimizer steps."""
    by_steps = "eval_steps" in defaults_by_name(space.job) and any(_possible(space, "eval_steps"))
    return None if by_steps else max_epochs(space)


def may_shard(space: SearchSpace) -> bool:
    """Return True if a trial may have `fsdp`, whose checkpoints hold the weights a second time."""
    return "fsdp" in defaults_by_name(space.job) and any(_possible(space, "fsdp"))


def backbones(space: SearchSpace) -> list[str]:
    """Return every backbone that a trial of this space can have."""
    return list(dict.fromkeys(_possible(space, "backbone")))


def idle_lines(space: SearchSpace) -> list[str]:
    """Return a line for each backbone and each parameter of the space that has no effect with it."""
    idle, default = get_job(space.job).idle, Constant(defaults_by_name(space.job)["backbone"])
    lines = [
        f"{parameter} has no effect with {backbone}: {reason}"
        for case in list_cases(space)
        for backbone in ends(case.domains.get("backbone", default))
        for parameter, reason in idle(backbone).items()
        if parameter in case.domains
    ]
    return list(dict.fromkeys(lines))


def largest_params(space: SearchSpace) -> dict[str, Any]:
    """Return for each backbone the params of a trial that this space can have, with its numbers as large as possible.

    >>> largest_params(space)["hfl/chinese-lert-large"].max_length
    512
    """
    job = get_job(space.job)
    default = Constant(defaults_by_name(space.job)["backbone"])
    found: dict[str, Any] = {}
    for cut in _all_cuts(space):
        for backbone in ends(cut.domains.get("backbone", default)):
            params = _with_largest_numbers(job, cut, {**cut.first, "backbone": backbone})
            found[backbone] = max(filter(None, (found.get(backbone), params)), key=_weight, default=None)
    return {backbone: params for backbone, params in found.items() if params}


def _with_largest_numbers(job: Job, cut: Cut, assignment: dict[str, Any]) -> Any:
    """Return params with each number as large as the cut allows and the job accepts; None if the job accepts none."""
    params = _params_if_right(job, assignment)
    for name, domain in cut.domains.items():
        if all(isinstance(value, int | float) for value in ends(domain)):
            larger = {**assignment, name: max(ends(domain))}
            if accepted := _params_if_right(job, larger):
                assignment, params = larger, accepted
    return params


def _params_if_right(job: Job, assignment: Mapping[str, Any]) -> Any:
    try:
        return job.params(**assignment)
    except ParamError:
        return None


def _weight(params: Any) -> tuple[int, bool]:
    """Return what makes the check of a backbone stricter: longer inputs, and activations to compute again."""
    return int(getattr(params, "max_length", 0)), bool(getattr(params, "gradient_checkpointing", False))


def possible_resources(space: SearchSpace) -> list[Resources | None]:
    """Return the distinct resources that trials of this space reserve."""
    found: list[Resources | None] = []
    for cut in _all_cuts(space):
        resources = resources_of(space, cut.first)
        if resources not in found:
            found.append(resources)
    return found


def possible_with_resources(space: SearchSpace, name: str) -> list[tuple[Any, Resources | None]]:
    """Return the distinct values that a parameter can have, each with the resources that its trials may reserve."""
    default = Constant(defaults_by_name(space.job)[name])
    found = [
        (value, resources_of(space, cut.first))
        for cut in _all_cuts(space)
        for value in ends(cut.domains.get(name, default))
    ]
    return [pair for number, pair in enumerate(found) if pair not in found[:number]]


def _possible(space: SearchSpace, name: str) -> Iterator[Any]:
    """Yield the values that a parameter can have; for a range, both ends."""
    default = Constant(defaults_by_name(space.job)[name])
    for cut in _all_cuts(space):
        yield from ends(cut.domains.get(name, default))


def _all_cuts(space: SearchSpace) -> Iterator[Cut]:
    """Yield the cuts of the space, then for each enqueued setting the cuts of the space with this setting fixed."""
    for parameters in (space.parameters, *(pinned(space.parameters, e) for e in space.search.enqueue)):
        yield from split_space(parameters, space.resources, defaults_by_name(space.job))


def ends(domain: Domain) -> tuple[Any, ...]:
    """Return the values to check of a domain: every value of a choice, both ends of a range."""
    if isinstance(domain, Range):
        return (domain.low, domain.high)
    return domain.values if isinstance(domain, Choice) else (domain.value,)


@dataclass(frozen=True)
class Cut:
    """Hold a part of the space in which every `when` condition is either true or false.

    matched  the index of the branch that each parameter takes
    domains  each parameter's domain within this part
    first    the first value of each domain
    """

    matched: Mapping[str, int]
    domains: Mapping[str, Domain]
    first: Mapping[str, Any]


def split_space(parameters: Parameters, resources: Sequence[Reservation], defaults: Mapping[str, Any]) -> list[Cut]:
    """Split a space into cuts. Stops after MAX_CUTS + 1, so that the caller can see that there are too many."""
    conditional: list[Conditional] = [
        *(branch for branches in parameters.values() for branch in branches),
        *resources,
    ]
    conditions = dict.fromkeys(condition for branch in conditional for condition in branch.when.items())
    cuts = [Cut({}, {}, {})]
    for name, branches in parameters.items():
        own = [condition for other, condition in conditions if other == name]
        parts = [domain_parts(branch.domain, own) for branch in branches]
        longer = (more for cut in cuts for more in _extended(cut, name, branches, parts, defaults))
        cuts = list(islice(longer, MAX_CUTS + 1))
    return cuts


def _extended(
    cut: Cut,
    name: str,
    branches: tuple[Branch, ...],
    parts: list[list[tuple[Domain, Any]]],
    defaults: Mapping[str, Any],
) -> Iterator[Cut]:
    index = first_match(branches, {**defaults, **cut.first})
    if index is None:
        yield cut
        return
    for part, first in parts[index]:
        yield Cut({**cut.matched, name: index}, {**cut.domains, name: part}, {**cut.first, name: first})


def domain_parts(domain: Domain, conditions: Sequence[Condition]) -> list[tuple[Domain, Any]]:
    """Group the values of a domain by the conditions they meet. Return each group with its first value.

    A range that is too long to list is cut where a comparison changes. Each piece is represented by its ends, by the
    numbers that the globs name, and by one that no glob matches. A piece has all its other values as its domain.
    """
    listed = grid_values(domain) if conditions else None
    samples: list[tuple[Any, Domain]]
    if listed is not None or not isinstance(domain, Range):
        samples = [(value, Choice((value,))) for value in listed or ends(domain)]
    else:
        samples = list(_samples(domain, [one for condition in conditions for one in alternatives(condition)]))
    groups: dict[tuple[bool, ...], list[tuple[Any, Domain]]] = {}
    for value, part in samples:
        groups.setdefault(tuple(fits(value, one) for one in conditions), []).append((value, part))
    return [
        (domain if len(groups) == 1 else _joined(domain, [part for _, part in group]), group[0][0])
        for group in groups.values()
    ]


def _samples(domain: Range, texts: Sequence[str]) -> Iterator[tuple[Any, Domain]]:
    """Yield numbers of a long range, each with the part of the range that it stands for."""
    compared = [found[1] for text in texts if (found := comparison(text))]
    globs = [text for text in texts if comparison(text) is None]
    pieces = cut_range(domain, compared)
    yield from ((value, piece) for piece in pieces for value in ends(piece))
    named = (number for glob in globs if (number := _number_in_range(domain, glob)) is not None)
    yield from ((number, Choice((number,))) for number in named)
    yield from ((value, piece) for piece in pieces for value in _inner_number(piece, globs))


def _joined(whole: Domain, parts: Sequence[Domain]) -> Domain:
    """Return the parts of a domain as one: the values, or the range from the least to the largest of them."""
    values = [value for part in parts for value in ends(part)]
    if isinstance(whole, Range) and any(isinstance(part, Range) for part in parts):
        return replace(whole, low=min(values), high=max(values))
    return Choice(tuple(dict.fromkeys(values)))


def _inner_number(domain: Domain, globs: Sequence[str]) -> Iterator[int | float]:
    """Yield a number inside a range that no glob matches, if one of a few does."""
    if not globs or not isinstance(domain, Range):
        return
    number = int if domain.integer else float
    steps = (number(domain.low + (domain.high - domain.low) * seventh / 7) for seventh in range(1, 7))
    yield from islice((value for value in steps if not any(fits(value, glob) for glob in globs)), 1)


def _number_in_range(domain: Domain, glob: str) -> int | float | None:
    """Return the number that a glob is equal to if it lies in the range, else None."""
    number = glob_number(glob)
    if number is None or not isinstance(domain, Range) or not domain.low <= number <= domain.high:
        return None
    if domain.integer:
        return int(number) if number == int(number) else None
    return float(number)


def _merged(parameters: Parameters, cuts: list[Cut]) -> dict[str, Domain]:
    """Join the domains of cuts that match the same branches."""
    return {
        name: _union(parameters[name][index].domain, [cut.domains[name] for cut in cuts])
        for name, index in cuts[0].matched.items()
    }


def _union(whole: Domain, parts: list[Domain]) -> Domain:
    joined = _joined(whole, parts)
    if isinstance(joined, Range):
        return replace(joined, low=_shown_bound(joined.low, whole), high=_shown_bound(joined.high, whole))
    if not all(isinstance(part, Choice) for part in parts):
        return whole
    values = dict.fromkeys(value for part in parts for value in ends(part))
    listed = grid_values(whole)
    if listed is None:
        return Choice(tuple(values))
    return whole if len(values) == len(listed) else Choice(tuple(v for v in listed if v in values))


def _shown_bound(number: float, whole: Domain) -> float:
    """Return a bound that is next to a number as that number, unless it is a bound of the whole range."""
    if isinstance(whole, Range) and number in (whole.low, whole.high):
        return number
    near = number if isinstance(number, int) else float(f"{number:.15g}")
    return near if abs(near) > MIN_BOUND or isinstance(number, int) else 0.0


def pinned(parameters: Parameters, entry: Mapping[str, Any]) -> Parameters:
    """Return the parameters with the values of `entry` as constants, which come first as they depend on nothing."""
    constants = {name: (Branch({}, Constant(value)),) for name, value in entry.items()}
    return {**constants, **{name: branches for name, branches in parameters.items() if name not in entry}}

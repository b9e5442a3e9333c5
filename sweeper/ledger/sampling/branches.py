"""Draw a trial's parameters branch by branch, for samplers that know nothing of conditions.

First come the parameters that decide which branches apply, then all others of these branches together. Each group of
parameters learns from the trials whose parameters took the same branches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any

from optuna.distributions import CategoricalDistribution

from sweeper.ledger.sampling.draws import distribution
from sweeper.ledger.sampling.models import Distributions, Past, by_cmaes, by_gp, by_qmc, by_tpe
from sweeper.space.domains import Constant, Domain, contains
from sweeper.space.search_space import (
    Parameters,
    SearchSpace,
    defaults_by_name,
    first_match,
    searched_parameters,
)


def draw_by_branches(
    space: SearchSpace, past: Sequence[Past], fixed: Mapping[str, Any], seed: int, number: int
) -> dict[str, Any]:
    """Return a value for each parameter. `fixed` values stay, even outside the space; `number` is that of the draw."""
    chosen = dict(fixed)
    for names in stages(space.parameters):
        known = {**defaults_by_name(space.job), **chosen}
        domains = domains_of(space, names, known)
        drawn = {name: domain for name, domain in domains.items() if not isinstance(domain, Constant)}
        values = {name: domain.value for name, domain in domains.items() if isinstance(domain, Constant)}
        if drawn:
            distributions = {name: distribution(domain) for name, domain in drawn.items()}
            alike = [one for one in past if _took(one, space, names, domains, distributions)]
            values |= _propose(space, distributions, alike, seed, number)
        chosen = {**values, **chosen}
    return chosen


def stages(parameters: Parameters) -> list[list[str]]:
    """Return groups of parameters in the order in which they are drawn: those in a `when` by depth, then the others.

    >>> stages(read_search_space(find_file("qa_backbones")).parameters)[0]
    ['backbone']
    """
    parents = {
        name: {one for branch in branches for one in branch.when if one in parameters}
        for name, branches in parameters.items()
    }
    deciding = set().union(*parents.values())
    depth: dict[str, int] = {}
    for name in parameters:  # each comes after the parameters in its `when`
        depth[name] = 1 + max((depth[one] for one in parents[name]), default=-1)
    levels = [
        [name for name in parameters if name in deciding and depth[name] == level] for level in range(len(parameters))
    ]
    return [level for level in (*levels, [name for name in parameters if name not in deciding]) if level]


def domains_of(space: SearchSpace, names: Sequence[str], known: Mapping[str, Any]) -> dict[str, Domain]:
    """Return the domain of each parameter in its branch. Those without a matching branch are left out."""
    return {name: space.parameters[name][index].domain for name, index in _matched_branches(space, names, known)}


def _matched_branches(space: SearchSpace, names: Sequence[str], known: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    matches = ((name, first_match(space.parameters[name], known)) for name in names)
    return ((name, index) for name, index in matches if index is not None)


def _took(
    past: Past,
    space: SearchSpace,
    names: Sequence[str],
    domains: Mapping[str, Domain],
    distributions: Distributions,
) -> bool:
    """Return True if a trial took the branches that have these domains, with values that can be drawn.

    Optuna leaves out the last step of a range if it is only nearly a multiple.
    """
    known = {**defaults_by_name(space.job), **past.params}
    return domains_of(space, names, known) == domains and all(
        contains(domains[name], known[name])
        and (isinstance(one, CategoricalDistribution) or known[name] <= getattr(one, "high", inf))
        for name, one in distributions.items()
    )


def _propose(
    space: SearchSpace, distributions: Distributions, past: Sequence[Past], seed: int, number: int
) -> dict[str, Any]:
    """Return values for the parameters of one group by the space's sampler."""
    values = None
    match space.search.sampler:
        case "cmaes":
            values = by_cmaes(distributions, past, seed)
        case "gp":
            values = by_gp(distributions, past, seed)
        case "tpe":
            values = by_tpe(distributions, past, seed)
    return values or by_qmc(distributions, searched_parameters(space), space.search.seed, number)

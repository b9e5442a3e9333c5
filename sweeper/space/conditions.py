"""Check what the trials of a search space can be: each `when` can match, and all metrics have one definition."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from jobs.job import DEFINES_METRICS, Job
from jobs.suggestions import MAX_NAMES, nearest_part, short, shown
from sweeper.space.cases import MAX_CUTS, Cut, domain_parts, ends, pinned, split_space
from sweeper.space.domains import (
    COMPARISON,
    Condition,
    Constant,
    Domain,
    Range,
    Reservation,
    alternatives,
    comparison,
    contains,
    fits,
    glob_number,
    grid_values,
    literal_text,
)
from sweeper.space.mistakes import Key, Mistakes
from sweeper.space.search_space import (
    Conditional,
    Parameters,
    defaults_of,
    first_match,
)

WILDCARDS = re.compile(r"[*?\[]")
NUMBER_GLOB = re.compile(r"[-+.0-9e*?\[\]!]+")  # may match the text of a number in a range too long to list
UNREACHABLE = "is never reached: no trial matches it and none of the branches before it; drop it, or move it up"


@dataclass(frozen=True)
class Possible:
    """Hold everything that can set a parameter of a trial.

    spaces   the parameters to search, and those that the file has where an override replaced them: a condition may be
             meant for the file's own values
    enqueue  the enqueued settings
    seeds    the seeds of repeats
    """

    job: Job
    spaces: Sequence[Parameters]
    resources: Sequence[Reservation]
    enqueue: Sequence[Mapping[str, Any]]
    seeds: Sequence[int]

    def domains(self, name: str) -> list[Domain]:
        """Return every domain that a parameter can have, its default included."""
        branches = [branch for space in self.spaces for branch in space.get(name, ())]
        fixed = [entry[name] for entry in self.enqueue if name in entry]
        decided = all(any(not branch.when for branch in space.get(name, ())) for space in self.spaces)
        default = [] if decided else [defaults_of(self.job)[name]]
        seeds = list(self.seeds) if name == "seed" else []
        return [*(branch.domain for branch in branches), *map(Constant, (*default, *fixed, *seeds))]

    def cuts(self) -> Iterator[tuple[int | None, Cut]]:
        """Yield the cuts of the space that is searched, then with each enqueued setting's index those around it.

        Last come the cuts of the file's own parameters.
        """
        defaults = defaults_of(self.job)
        searched, *own = self.spaces
        yield from ((None, cut) for cut in split_space(searched, self.resources, defaults))
        for index, entry in enumerate(self.enqueue):
            yield from ((index, cut) for cut in split_space(pinned(searched, entry), self.resources, defaults))
        for space in own:
            yield from ((None, cut) for cut in split_space(space, self.resources, defaults))


def check_conditions(possible: Possible, note: Mistakes) -> None:
    """Record a mistake for each condition that no value fits, and for each branch that no trial can take.

    A last branch without `when` need not be reached.
    """
    before = len(note)
    lists: dict[Key, Sequence[Conditional]] = {("resources",): possible.resources}
    lists |= {("parameters", name): branches for name, branches in possible.spaces[0].items()}
    for key, branches in lists.items():
        for index, branch in enumerate(branches):
            for name, condition in branch.when.items():
                _check_values(name, condition, (*key, index, "when", name), possible.domains(name), note)
    if (
        len(note) > before
        or len(split_space(possible.spaces[0], possible.resources, defaults_of(possible.job))) > MAX_CUTS
    ):
        return
    reached = _reached_branches(possible)
    for key, branches in lists.items():
        for index, branch in enumerate(branches):
            if branch.when and (key, index) not in reached and not _open(branches[: index + 1], possible):
                note((*key, index), UNREACHABLE)


def _check_values(name: str, condition: Condition, key: Key, domains: Sequence[Domain], note: Mistakes) -> None:
    for nth, text in enumerate(alternatives(condition)):
        if not any(can_fit(domain, text) for domain in domains):
            note(key if isinstance(condition, str) else (*key, nth), _no_value(name, text, domains))


def can_fit(domain: Domain, glob: str) -> bool:
    """Return True if a value of the domain matches the glob or the comparison.

    In a range too long to list, a glob with wildcards is taken to match if it can match the text of a number.
    """
    values = grid_values(domain)
    if values is not None:
        return any(fits(value, glob) for value in values)
    if comparison(glob):
        return any(fits(first, glob) for _, first in domain_parts(domain, [glob]))
    number = glob_number(glob)
    if number is not None:
        return contains(domain, number)
    return bool(WILDCARDS.search(glob) and NUMBER_GLOB.fullmatch(glob))


def _no_value(name: str, glob: str, domains: Sequence[Domain]) -> str:
    texts = list(dict.fromkeys(str(Constant(value)) for domain in domains for value in _listed(domain)))
    ranges = [str(domain) for domain in domains if isinstance(domain, Range) and grid_values(domain) is None]
    number = glob_number(glob)
    values = [value for domain in domains for value in ends(domain) if isinstance(value, int | float)]
    near: str | None = nearest_part(re.sub(r"[*?\[\]!]", "", glob), texts)
    compared, turned = COMPARISON.fullmatch(glob), re.fullmatch("=([<>])(.*)", glob, re.DOTALL)
    if turned and values:
        near = f"{turned[1]}={turned[2]}"
    if compared and not values:
        return f"{shown(glob)} compares numbers, and {name} has none; name its values or globs: {', '.join(texts)}"
    if number is not None and values:
        near = literal_text(min(values, key=lambda value: abs(value - number)))
    hint = f"did you mean {short(near)!r}? " if near and not compared else ""
    hint = 'put a comparison in quotes, as in ">2"; ' if not glob else hint
    more = f", … ({len(texts) - MAX_NAMES} more)" if len(texts) > MAX_NAMES else ""
    known = ", ".join([*ranges, *map(short, texts[:MAX_NAMES])])
    return f"{shown(glob)} matches no value of {name}; {hint}its values: {known}{more}"


def _listed(domain: Domain) -> Sequence[Any]:
    return grid_values(domain) or ()


def _reached_branches(possible: Possible) -> set[tuple[Key, int]]:
    reached: set[tuple[Key, int]] = set()
    for _, cut in possible.cuts():
        reached |= {(("parameters", name), index) for name, index in cut.matched.items()}
        index = first_match(possible.resources, {**defaults_of(possible.job), **cut.first})
        reached |= set() if index is None else {(("resources",), index)}
    return reached


def _open(branches: Sequence[Conditional], possible: Possible) -> bool:
    """Return True if a condition has wildcards on a range too long to list, so that its values are not known.

    The same holds for a condition on the seed where repeats bring further seeds.
    """
    conditions = [condition for branch in branches for condition in branch.when.items()]
    return any(
        (name == "seed" and possible.seeds)
        or (
            any(map(WILDCARDS.search, alternatives(condition)))
            and any(grid_values(domain) is None for domain in possible.domains(name))
        )
        for name, condition in conditions
    )


def check_metric_definitions(possible: Possible, note: Mistakes) -> None:
    """Record a mistake if trials can differ in a parameter that defines what a metric means.

    Scores by different definitions cannot be ranked. The job's dataclass marks such parameters; see `jobs.params.knob`.
    """
    for field in fields(possible.job.params):
        if not field.metadata.get(DEFINES_METRICS):
            continue
        found: dict[Any, int | None] = {}
        for index, cut in replace(possible, resources=()).cuts():
            for value in ends(cut.domains.get(field.name, Constant(field.default))):
                found.setdefault(value, index)
        if len(found) > 1:
            enqueued = next((index for index in found.values() if index is not None), None)
            key = ("parameters", field.name) if enqueued is None else ("search", "enqueue", enqueued, field.name)
            values = " and ".join(map(literal_text, found))
            text = (
                f"trials would be scored by {values}, and their scores could not be compared; give all the same value"
            )
            note(key, text)

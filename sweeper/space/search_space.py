"""A search-space file becomes a checked SearchSpace, every mistake said at once; and what a space means.

Knows jobs only by their parameters and metrics, and nothing of who proposes values or runs trials.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import combinations, islice
from math import prod
from pathlib import Path
from typing import Any, Protocol

import sweeper
from jobs import JOBS, get_job
from jobs.dataset.data import SAMPLE, DataError, read
from jobs.job import Direction, Job, ParamError
from sweeper.errors import ConfigError, DataFailure
from sweeper.space.document import Key, Mistakes, nearest, plain_scalar, read_document, shown, unknown, yaml_text
from sweeper.space.domains import (
    Branch,
    Choice,
    Constant,
    Domain,
    Knobs,
    Range,
    Reservation,
    as_text,
    contains,
    grid_values,
    is_number,
    read_enqueue,
    read_parameters,
    read_reservations,
)
from sweeper.space.sections import (
    HOMES,
    IMPORT_PATH,
    Budget,
    EarlyStopping,
    File,
    Keep,
    Repeats,
    Resources,
    Search,
    validated,
)
from sweeper.storage.settings import redacted

# What others need of the file's parts, they take from here.
__all__ = ["Branch", "Choice", "Constant", "Domain", "Range", "Reservation", "Resources"]

MAX_TRIALS = 100_000
MAX_CUTS = 1_000
MAX_PROBES = 10_000

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


@dataclass(frozen=True)
class Case:
    """The trials of a space that match the same branches: what each parameter can be among them."""

    domains: Mapping[str, Domain]
    resources: Resources | None


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
        index = _first(branches, known)
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
    index = _first(space.resources, {**_defaults(space.job), **params})
    return None if index is None else space.resources[index].resources


def grid(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Every assignment, the last parameter changing fastest. Raises ValueError if a range is continuous."""
    return _grid(list(space.parameters.items()), {}, _defaults(space.job))


def branches(space: SearchSpace) -> list[Case]:
    """The space cut by its `when` conditions: one Case for each combination of branches that can occur.

    >>> for name, domain in branches(space)[0].domains.items():
    ...     print(f"{name}: {domain}")
    backbone: hfl/chinese-lert-large
    learning_rate: 1e-5 … 4e-5 log
    """
    groups: dict[tuple[Any, ...], list[_Cut]] = {}
    for cut in _cuts(space.parameters, space.resources, _defaults(space.job)):
        reserved = _first(space.resources, {**_defaults(space.job), **cut.first})
        groups.setdefault((*cut.matched.items(), reserved), []).append(cut)
    return [Case(_merged(space.parameters, cuts), resources_of(space, cuts[0].first)) for cuts in groups.values()]


def labels(space: SearchSpace) -> Iterator[tuple[str, str, Domain]]:
    """Name, label and domain of every choice and range that `assign` may ask for."""
    for name, branches in space.parameters.items():
        for index, branch in enumerate(branches):
            if not isinstance(branch.domain, Constant):
                yield name, _label(name, branches, index), branch.domain


def searched(space: SearchSpace) -> list[str]:
    """The parameters whose values are proposed; the others are constants."""
    return list(dict.fromkeys(name for name, _, _ in labels(space)))


def max_epochs(space: SearchSpace) -> int:
    """The greatest num_train_epochs that a trial of this space can have."""
    return int(max(_possible(space, "num_train_epochs")))


def backbones(space: SearchSpace) -> list[str]:
    """Every backbone that a trial of this space can have."""
    return list(dict.fromkeys(_possible(space, "backbone")))


def possible_resources(space: SearchSpace) -> list[Resources | None]:
    """The different amounts that trials of this space reserve."""
    found: list[Resources | None] = []
    for cut in _all_cuts(space):
        resources = resources_of(space, cut.first)
        if resources not in found:
            found.append(resources)
    return found


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


def find(name: str) -> Path:
    """The file of a search space given by path or by name.

    >>> find("quickstart")
    PosixPath('search_spaces/quickstart.yaml')

    Looked for as given, in ./search_spaces, then beside the installed package; `.yaml` may be left off.
    Raises ConfigError when there is none.
    """
    shelves = [Path("search_spaces"), Path(sweeper.__file__).parent.parent / "search_spaces"]
    for folder in (Path(), *shelves):
        for path in (folder / name, folder / f"{name}.yaml"):
            if _holds(path.is_file):
                return path
    if name and _holds(Path(name).exists):
        return Path(name)  # a directory, say; whoever reads it tells
    known = sorted({path.stem for shelf in shelves for path in shelf.glob("*.yaml")})
    raise ConfigError(f"{shown(name)}: no such file; {unknown('search space', Path(name).stem, known)}")


def read_search_space(path: Path, overrides: Sequence[str] = ()) -> SearchSpace:
    """The checked space in a file, after `dotted.key=value` overrides.

    >>> read_search_space(find("qa_backbones"), ["search.trials=2"]).search.trials
    2

    Raises ConfigError with every mistake in the file, or DataFailure when only the data is wrong.
    """
    document = read_document(path, overrides)
    note = Mistakes(path, document.lines)
    _refuse_secrets(document.values, (), note)
    space = _space(document.values, note)
    return replace(space, data_fingerprint=_fingerprint(space.data, note))


def _refuse_secrets(value: Any, key: Key, note: Mistakes) -> None:
    """What stands in the file is kept in the ledger and shown in MLflow, to the letter."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_secrets(inner, (*key, name), note)
    elif isinstance(value, str) and redacted(value) != value:
        note(key, f"{redacted(value)} holds a secret, which would be kept with the sweep; leave it to the environment")


def restored(values: Mapping[str, Any], data_fingerprint: str, origin: str) -> SearchSpace:
    """The space of which `resolved` made these values. Its data is not looked at: see `present_fingerprint`.

    Raises ConfigError, speaking of `origin`, where the values no longer fit the job.
    """
    space = _space(dict(values), Mistakes(Path(origin), {}))
    return replace(space, data_fingerprint=data_fingerprint)


def present_fingerprint(space: SearchSpace, origin: str) -> str:
    """Of the data as it is now. Raises DataFailure when it is gone or broken."""
    return _fingerprint(space.data, Mistakes(Path(origin), {}))


def _fingerprint(data: str, note: Mistakes) -> str:
    folder = Path(data)
    if data != SAMPLE and not _holds(folder.is_dir):
        near = nearest(folder.name, _folders_in(folder.parent))
        hint = f"did you mean {near!r} beside it?" if near else f"name a folder, or write `{SAMPLE}`"
        note(("data",), f"there is no folder {data!r}; {hint}")
        raise DataFailure(note.lines())
    try:
        return read(data).fingerprint
    except DataError as error:
        raise DataFailure(error.lines) from None


def _folders_in(folder: Path) -> list[str]:
    with suppress(OSError):
        return [path.name for path in folder.glob("*/")]
    return []


def _holds(question: Callable[[], bool]) -> bool:
    """Whether a path is what is asked; a name too long or a folder closed to us is not."""
    with suppress(OSError):
        return question()
    return False


def _space(values: dict[str, Any], note: Mistakes) -> SearchSpace:
    """The space in a file's values. Raises ConfigError with every mistake."""
    job = _job(values.get("job"), note)
    knobs = Knobs(job, note)
    file = validated(File, values, (), note, {**dict.fromkeys(knobs.names, "under parameters"), **HOMES})
    parameters = _ordered(read_parameters(values.get("parameters"), knobs), knobs)
    resources = read_reservations(values.get("resources"), knobs)
    enqueue = read_enqueue(values.get("search"), knobs)
    _check_search(values.get("search"), parameters, note)
    if job is not None:
        _check_objective(values.get("objective"), job, note)
        if not note.under("parameters", "resources", "search"):
            _check_relations(job, parameters, resources, enqueue, note)
    note.raise_any()
    assert file is not None
    search = file.search.model_copy(update={"enqueue": enqueue})
    search = _counted(search, parameters, _defaults(file.job), note)
    note.raise_any()
    return SearchSpace(
        name=file.name,
        job=file.job,
        data=file.data if file.data == SAMPLE else str(Path(file.data).absolute()),
        objective=file.objective,
        parameters=parameters,
        search=search,
        early_stopping=file.early_stopping,
        repeats=file.repeats,
        budget=file.budget or Budget(),
        resources=resources,
        keep=file.keep,
    )


def _job(name: Any, note: Mistakes) -> Job | None:
    if not isinstance(name, str):
        return None
    if name not in JOBS and not re.fullmatch(IMPORT_PATH, name):
        note(("job",), f"{unknown('job', name, JOBS)}, or an import path package.module:NAME")
        return None
    try:
        job: Any = get_job(name)
    except Exception as error:  # the module may be anyone's, and so may what it raises
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        note(
            ("job",),
            f"{name} cannot be imported ({cause}); name a Job that Python finds, as package.module:NAME",
        )
        return None
    if isinstance(job, Job):
        return job
    note(("job",), f"{name} is {type(job).__name__}, not a jobs.job.Job; name one")
    return None


def _check_objective(objective: Any, job: Job, note: Mistakes) -> None:
    if isinstance(objective, str) and objective not in job.metrics:
        note(("objective",), unknown("metric", objective, job.metrics))


def _check_search(search: Any, parameters: Parameters, note: Mistakes) -> None:
    if not isinstance(search, dict):
        return
    if search.get("sampler") != "grid":
        if "trials" not in search:
            note(("search", "trials"), "is missing; write how many trials to run")
        return
    for name, branches in parameters.items():
        if any(grid_values(branch.domain) is None for branch in branches):
            text = "has too many values for a grid; give values or a step, or choose another sampler"
            note(("parameters", name), text)


def _ordered(parameters: Parameters, knobs: Knobs) -> Parameters:
    """Each parameter after those its `when` names, otherwise in the job's order. A circle is a mistake."""
    names = knobs.names or sorted(parameters)
    graph = {
        name: sorted({o for b in parameters[name] for o in b.when if o in parameters}, key=names.index)
        for name in sorted(parameters, key=names.index)
    }
    while True:
        try:
            return {name: parameters[name] for name in TopologicalSorter(graph).static_order()}
        except CycleError as error:
            circle: list[str] = error.args[1]
            text = f"`when` goes in a circle: {' → '.join(circle)}; drop one of these conditions"
            knobs.note(("parameters", circle[0]), text)
            graph = {n: [o for o in graph[n] if o not in circle] for n in graph if n not in circle}


def _check_relations(
    job: Job,
    parameters: Parameters,
    resources: Sequence[Reservation],
    enqueue: Sequence[Mapping[str, Any]],
    note: Mistakes,
) -> None:
    """Try the job's own checks on values the space can give together, and on what is enqueued."""
    cuts = _cuts(parameters, resources, _defaults_of(job))
    if len(cuts) > MAX_CUTS:
        note(
            ("parameters",),
            f"the `when` conditions make more than {MAX_CUTS} cases; use fewer different ones",
        )
        return
    errors = dict.fromkeys((error.key, str(error)) for error in _errors_in(job, cuts, resources))
    for name, text in errors:
        note(("resources" if name in Resources.model_fields else "parameters", name), text)
    for index, entry in enumerate(enqueue):
        first = _cuts(_pinned(parameters, entry), (), _defaults_of(job))[0].first
        for error in _settled(job, first, resources)[0]:
            if (error.key, str(error)) not in errors:
                note(("search", "enqueue", index, error.key), str(error))


def _errors_in(job: Job, cuts: list[_Cut], resources: Sequence[Reservation]) -> Iterator[ParamError]:
    """What the job has against the first values of each part, then with one and with two others in turn."""
    settled = [_settled(job, cut.first, resources) for cut in cuts]
    yield from (error for errors, _ in settled for error in errors)
    varied = ((cut, base, change) for cut, (_, base) in zip(cuts, settled, strict=True) for change in _changes(cut))
    for cut, base, change in islice(varied, MAX_PROBES):
        error = _error(job, {**base, **change}, resources)
        # A parameter that was taken out stands at a default, which no trial may have.
        if error and (error.key in change or error.key in base or error.key not in cut.first):
            yield error


def _changes(cut: _Cut) -> Iterator[dict[str, Any]]:
    values = [(name, value) for name, domain in cut.domains.items() for value in _ends(domain)]
    yield from ({name: value} for name, value in values)
    yield from (dict(pair) for pair in combinations(values, 2) if pair[0][0] != pair[1][0])


def _settled(
    job: Job, assignment: Mapping[str, Any], resources: Sequence[Reservation]
) -> tuple[list[ParamError], dict[str, Any]]:
    """What is wrong with an assignment, one parameter after another, and what of it can stand."""
    rest = dict(assignment)
    errors: list[ParamError] = []
    while (error := _error(job, rest, resources)) and error.key not in {earlier.key for earlier in errors}:
        errors.append(error)
        rest.pop(error.key, None)
    return errors, rest


def _error(job: Job, assignment: Mapping[str, Any], resources: Sequence[Reservation]) -> ParamError | None:
    index = _first(resources, {**_defaults_of(job), **assignment})
    asked = Resources() if index is None else resources[index].resources
    try:
        job.check(job.params(**assignment), asked.workers, asked.gpus)
    except ParamError as error:
        return error
    return None


def _counted(search: Search, parameters: Parameters, defaults: Mapping[str, Any], note: Mistakes) -> Search:
    """A grid's trials: all combinations and what is enqueued, or fewer when the file says so."""
    if search.sampler != "grid":
        return search
    sizes = (
        prod(len(grid_values(domain) or ()) for domain in cut.domains.values())
        for cut in _cuts(parameters, (), defaults)
    )
    total = sum(sizes) + len(search.enqueue)
    if not search.trials and total > MAX_TRIALS:
        note(
            ("search", "trials"),
            f"a grid of {total} trials is more than {MAX_TRIALS}; write trials, or drop values",
        )
    return search.model_copy(update={"trials": min(search.trials or total, total)})


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
    return _defaults_of(get_job(job))


def _defaults_of(job: Job) -> dict[str, Any]:
    return {field.name: field.default for field in fields(job.params)}


class _Conditional(Protocol):
    @property
    def when(self) -> Mapping[str, str]: ...


def _first(branches: Sequence[_Conditional], known: Mapping[str, Any]) -> int | None:
    """The first branch all of whose conditions `known` meets."""
    held = (i for i, b in enumerate(branches) if all(_fits(known[name], glob) for name, glob in b.when.items()))
    return next(held, None)


def _fits(value: Any, glob: str) -> bool:
    """Whether a value's text matches, or its number is the same: 1e-5 fits 0.00001 as well as 1e-*."""
    return any(fnmatchcase(text, glob) for text in {str(value), as_text(value)}) or (
        is_number(value) and value == _number(glob)
    )


def _number(glob: str) -> int | float | None:
    with suppress(ValueError):
        number = plain_scalar(glob)
        return number if isinstance(number, int | float) and is_number(number) else None
    return None


def _possible(space: SearchSpace, name: str) -> Iterator[Any]:
    """The values one parameter can have, of a range its ends."""
    default = Constant(_defaults(space.job)[name])
    for cut in _all_cuts(space):
        yield from _ends(cut.domains.get(name, default))


def _all_cuts(space: SearchSpace) -> Iterator[_Cut]:
    """The parts of the space itself and of what each enqueued setting leaves of it."""
    for parameters in (space.parameters, *(_pinned(space.parameters, e) for e in space.search.enqueue)):
        yield from _cuts(parameters, space.resources, _defaults(space.job))


def _ends(domain: Domain) -> tuple[Any, ...]:
    """The values by which a domain is tried out: each of a choice, both ends of a range."""
    if isinstance(domain, Range):
        return (domain.low, domain.high)
    return domain.values if isinstance(domain, Choice) else (domain.value,)


def _grid(
    rest: list[tuple[str, tuple[Branch, ...]]], chosen: dict[str, Any], defaults: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    if not rest:
        yield chosen
        return
    (name, branches), *rest = rest
    index = _first(branches, {**defaults, **chosen})
    if index is None:
        yield from _grid(rest, chosen, defaults)
        return
    values = grid_values(branches[index].domain)
    if values is None:
        raise ValueError(f"{name} has no grid: {branches[index].domain}")
    for value in values:
        yield from _grid(rest, {**chosen, name: value}, defaults)


@dataclass(frozen=True)
class _Cut:
    """A part of the space in which every condition has one answer: the branch each parameter matched, its
    domain narrowed to this part, and its first value."""

    matched: Mapping[str, int]
    domains: Mapping[str, Domain]
    first: Mapping[str, Any]


def _cuts(parameters: Parameters, resources: Sequence[Reservation], defaults: Mapping[str, Any]) -> list[_Cut]:
    """The parts of a space, at most one more than MAX_CUTS."""
    conditional: list[_Conditional] = [
        *(branch for branches in parameters.values() for branch in branches),
        *resources,
    ]
    conditions = sorted({condition for branch in conditional for condition in branch.when.items()})
    cuts = [_Cut({}, {}, {})]
    for name, branches in parameters.items():
        globs = [glob for other, glob in conditions if other == name]
        parts = [_parts(branch.domain, globs) for branch in branches]
        longer = (more for cut in cuts for more in _extended(cut, name, branches, parts, defaults))
        cuts = list(islice(longer, MAX_CUTS + 1))
    return cuts


def _extended(
    cut: _Cut,
    name: str,
    branches: tuple[Branch, ...],
    parts: list[list[tuple[Domain, Any]]],
    defaults: Mapping[str, Any],
) -> Iterator[_Cut]:
    index = _first(branches, {**defaults, **cut.first})
    if index is None:
        yield cut
        return
    for part, first in parts[index]:
        yield _Cut({**cut.matched, name: index}, {**cut.domains, name: part}, {**cut.first, name: first})


def _parts(domain: Domain, globs: list[str]) -> list[tuple[Domain, Any]]:
    """A domain cut into the values that `globs` tell apart, each part with its first value.

    Of a range too long to list only the ends and the numbers that the globs name are told apart; what is
    left of it stands as the whole range.
    """
    listed = grid_values(domain) if globs else None
    named = [number for glob in globs if (number := _within(domain, glob)) is not None]
    groups: dict[tuple[bool, ...], list[Any]] = {}
    for value in listed or (*_ends(domain), *named):
        groups.setdefault(tuple(_fits(value, glob) for glob in globs), []).append(value)
    exact = [len(groups) > 1 and (listed is not None or set(group) <= set(named)) for group in groups.values()]
    parts = zip(exact, groups.values(), strict=True)
    return [(Choice(tuple(dict.fromkeys(group))) if cut else domain, group[0]) for cut, group in parts]


def _within(domain: Domain, glob: str) -> int | float | None:
    """The number that a glob is, if it lies in the range."""
    number = _number(glob)
    if number is None or not isinstance(domain, Range) or not domain.low <= number <= domain.high:
        return None
    if domain.integer:
        return int(number) if number == int(number) else None
    return float(number)


def _merged(parameters: Parameters, cuts: list[_Cut]) -> dict[str, Domain]:
    """What each parameter can be in any of some cuts that matched the same branches."""
    return {
        name: _union(parameters[name][index].domain, [cut.domains[name] for cut in cuts])
        for name, index in cuts[0].matched.items()
    }


def _union(whole: Domain, parts: list[Domain]) -> Domain:
    if not all(isinstance(part, Choice) for part in parts):
        return whole
    values = dict.fromkeys(value for part in parts for value in _ends(part))
    listed = grid_values(whole)
    if listed is None:
        return Choice(tuple(values))
    return whole if len(values) == len(listed) else Choice(tuple(v for v in listed if v in values))


def _pinned(parameters: Parameters, entry: Mapping[str, Any]) -> Parameters:
    """The parameters with those of `entry` as constants, which come first as they depend on nothing."""
    constants = {name: (Branch({}, Constant(value)),) for name, value in entry.items()}
    return {**constants, **{name: branches for name, branches in parameters.items() if name not in entry}}

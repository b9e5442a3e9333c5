"""Read a search-space file, check it completely, and return the search space."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass, replace
from graphlib import CycleError, TopologicalSorter
from itertools import combinations, islice
from math import prod
from pathlib import Path
from typing import Any, get_type_hints

import sweeper
from jobs import JOBS, get_job
from jobs.dataset.data import SAMPLE, Data, DataError, read_data
from jobs.job import Job, ParamError
from jobs.suggestions import nearest, shown, unknown_name
from sweeper.errors import ConfigError, DataFailure
from sweeper.process.import_path import hiding_module
from sweeper.secrets import redacted
from sweeper.space.cases import MAX_CUTS, Cut, ends, pinned, split_space
from sweeper.space.conditions import Possible, check_conditions, check_metric_definitions
from sweeper.space.document import read_document
from sweeper.space.domains import (
    Knobs,
    Range,
    Reservation,
    grid_values,
    read_enqueue,
    read_parameters,
    read_reservations,
)
from sweeper.space.mistakes import Key, Mistakes
from sweeper.space.search_space import Parameters, SearchSpace, defaults_by_name, defaults_of, first_match
from sweeper.space.sections import IMPORT_PATH, PLACES, Budget, File, Resources, Search, validated

MAX_TRIALS = 100_000
MAX_PROBES = 10_000


def find_file(name: str) -> Path:
    """Return the path of a search space given by path or by name.

    >>> find_file("quickstart")
    PosixPath('search_spaces/quickstart.yaml')

    Searches the current folder, ./search_spaces, then the shipped search spaces; `.yaml` is optional, and so is
    `search_spaces/`. Raises ConfigError when there is none.
    """
    folders = [Path("search_spaces"), shipped_folder()]
    short = name.removeprefix("search_spaces/")
    for path in (Path(name), *(folder / short for folder in folders)):
        for one in (path, Path(f"{path}.yaml")):
            if _holds(one.is_file):
                return one
    if name and _holds(Path(name).exists):
        return Path(name)  # for example a folder: reading it raises the right error
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    raise ConfigError(f"{shown(name)}: no such file; {unknown_name('search space', Path(name).stem, known)}")


def shipped_folder() -> Path:
    """Return the folder of the shipped search spaces: inside an installed package, beside it in the source tree."""
    package = Path(sweeper.__file__).parent
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


def read_search_space(path: Path, overrides: Sequence[str] = ()) -> SearchSpace:
    """Read a search-space file with `dotted.key=value` overrides, and check it completely.

    >>> read_search_space(find_file("qa_backbones"), ["search.trials=2"]).search.trials
    2

    Raises ConfigError with every mistake in the file, or DataFailure when only the data is wrong.
    """
    document = read_document(path, overrides)
    note = Mistakes(path, document.lines)
    _refuse_addresses(document.values, note)
    _refuse_secrets(document.values, (), note)
    try:
        space = _space(document.values, note, read_document(path).values if overrides else document.values)
    except ConfigError:
        if isinstance(data := document.values.get("data"), str) and (problem := _missing_folder(data)):
            note(("data",), problem)
        note.raise_any()
        raise
    data = _checked_data(space.data, note)
    if problem := unreadable_options(import_job(space.job), data):
        note(("data",), problem)
        note.raise_any()
    return replace(space, data_fingerprint=data.fingerprint)


def unreadable_options(job: Job, data: Data) -> str | None:
    """Return one line if the job marks answers inside paragraphs and the paragraphs are options; else None."""
    if not (job.reads and data.options):
        return None
    return (
        f"{shown(data.location)} holds multiple-choice questions, whose answers are whole options;"
        f" job {job.name} marks answers inside paragraphs; use job mc"
    )


def _refuse_addresses(values: dict[str, Any], note: Mistakes) -> None:
    """Record a mistake if `notify` holds an address, and drop the section, so that no other message shows it."""
    section = values.get("notify")
    if section is None or not _holds_address(section):
        return
    values["notify"] = None
    note(
        ("notify",), "holds an address, which is a secret; set SWEEPER_NOTIFY_URL, or url below [notify] in mlflow.ini"
    )


def _holds_address(value: Any) -> bool:
    """Return True if a value has the key `url`, or a text that names a scheme or an account."""
    if isinstance(value, dict):
        return "url" in value or any(map(_holds_address, (*value, *value.values())))
    if isinstance(value, list):
        return any(map(_holds_address, value))
    return isinstance(value, str) and any(mark in value for mark in (":/", "@"))


def _refuse_secrets(value: Any, key: Key, note: Mistakes) -> None:
    """Record a mistake for every secret, since the ledger and MLflow would store and show it."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_secrets(inner, (*key, name), note)
    elif isinstance(value, str) and redacted(value) != value:
        note(
            key,
            f"{redacted(value)} holds a secret, which the sweep would store; set it in the environment instead",
        )


def restored(values: Mapping[str, Any], data_fingerprint: str, origin: str) -> SearchSpace:
    """Return the search space from the plain values that `resolved` made of it. Its data is not read.

    Raises ConfigError, whose lines name `origin`, if the values no longer fit the job.
    """
    space = _space(dict(values), Mistakes(Path(origin), {}))
    return replace(space, data_fingerprint=data_fingerprint)


def present_fingerprint(space: SearchSpace, origin: str, recorded: str) -> str:
    """Return the fingerprint of the data as it is now; `recorded` if an earlier definition gives the data that one.

    Raises DataFailure if the data is missing or invalid.
    """
    data = _checked_data(space.data, Mistakes(Path(origin), {}))
    return recorded if data.matches(recorded) else data.fingerprint


def _checked_data(data: str, note: Mistakes) -> Data:
    if problem := _missing_folder(data):
        note(("data",), problem)
        raise DataFailure(note.lines())
    try:
        return read_data(data)
    except DataError as error:
        raise DataFailure(error.lines) from None


def _missing_folder(data: str) -> str | None:
    """Return one line that suggests the nearest name if there is no folder `data`; else None."""
    folder = Path(data).absolute()
    if not data or data == SAMPLE or _holds(folder.is_dir):
        return None
    near = nearest(folder.name, _folders_in(folder.parent))
    hint = f"did you mean {near!r} beside it?" if near else f"name a folder, or write `{SAMPLE}`"
    return f"there is no folder {str(folder)!r}; {hint}"


def _folders_in(folder: Path) -> list[str]:
    with suppress(OSError):
        return [path.name for path in folder.glob("*/")]
    return []


def _holds(question: Callable[[], bool]) -> bool:
    """Return the result of a test on a path, or False if the name is too long or the folder is not readable."""
    with suppress(OSError):
        return question()
    return False


def _space(values: dict[str, Any], note: Mistakes, own: Mapping[str, Any] | None = None) -> SearchSpace:
    """Build the space from a file's values. Raises ConfigError with every mistake.

    `own` are the file's values without overrides. Without them the conditions and the definition of metrics are not
    checked, so that a stored space of an earlier version still reads.
    """
    job = _job(values.get("job"), note)
    knobs = Knobs(job, note)
    file = validated(File, values, (), note, {**dict.fromkeys(knobs.names, "under parameters"), **PLACES})
    parameters = _order_parameters(read_parameters(values.get("parameters"), knobs), knobs)
    resources = read_reservations(values.get("resources"), knobs)
    enqueue = read_enqueue(values.get("search"), knobs)
    _check_search(values.get("search"), parameters, note)
    if job is not None:
        _check_objective(values.get("objective"), job, note)
        if not note.under("parameters", "resources", "search"):
            _check_relations(job, parameters, resources, enqueue, note)
            if own is not None:
                seeds = file.repeats.seeds if file and file.repeats else ()
                possible = Possible(job, [parameters], resources, enqueue, seeds)
                check_conditions(possible if own == values else _with_own_values(possible, own), note)
                check_metric_definitions(possible, note)
    note.raise_any()
    assert file is not None
    search = file.search.model_copy(update={"enqueue": enqueue})
    search = _grid_size(search, parameters, defaults_by_name(file.job), note)
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
        reference=file.reference or {},
        notify=file.notify,
    )


def _with_own_values(possible: Possible, own: Mapping[str, Any]) -> Possible:
    """Return `possible` with what the file has where overrides replaced it, unless that has mistakes of its own."""
    knobs = Knobs(possible.job, Mistakes(Path(), {}))
    parameters = _order_parameters(read_parameters(own.get("parameters"), knobs), knobs)
    enqueue = read_enqueue(own.get("search"), knobs)
    if len(knobs.note):
        return possible
    return replace(possible, spaces=[*possible.spaces, parameters], enqueue=[*possible.enqueue, *enqueue])


def _job(name: Any, note: Mistakes) -> Job | None:
    if not isinstance(name, str):
        return None
    try:
        return import_job(name)
    except ConfigError as error:
        note(("job",), str(error))
        return None


def import_job(name: str) -> Job:
    """Return the job with this name or import path. Raises ConfigError with one line if there is none."""
    if name not in JOBS and not re.fullmatch(IMPORT_PATH, name):
        raise ConfigError(f"{unknown_name('job', name, JOBS)}, or an import path package.module:NAME")
    try:
        job: Any = get_job(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's module may raise anything and even call sys.exit
        refuse_hidden_module(name)
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"{name} cannot be imported ({cause}); write package.module:NAME and run in the folder that holds it"
        ) from None
    if not isinstance(job, Job):
        refuse_hidden_module(name)
        raise ConfigError(f"{name} is {type(job).__name__}, not a jobs.job.Job; name a Job")
    if problem := _params_problem(job.params):
        raise ConfigError(f"{name}: the job's params {problem}")
    return job


def refuse_hidden_module(name: str) -> None:
    """Raise ConfigError if the user's module of the import path `name` is hidden by a library of the same name."""
    module = name.partition(":")[0]
    if origin := hiding_module(module):
        top = module.partition(".")[0]
        raise ConfigError(
            f"{name} cannot be imported; {top!r} is also the name of a library ({origin}), which Python finds first; "
            "rename your module or package"
        )


def _params_problem(params: Any) -> str | None:
    """Return what is wrong with the params class of a user's job, with the cure; None if nothing is."""
    if not (isinstance(params, type) and is_dataclass(params)):
        return "are not a dataclass; give Job a frozen dataclass"
    try:
        get_type_hints(params)
    except Exception as error:  # a name in an annotation may fail in any way
        return f"have an annotation that cannot be read ({error}); import the name at the top of the module"
    every = fields(params)
    if missing := [
        name for name in ("backbone", "seed", "num_train_epochs") if name not in {one.name for one in every}
    ]:
        return f"lack {', '.join(missing)}; every job needs them"
    bare = [one.name for one in every if one.default is MISSING and one.default_factory is MISSING]
    return f"have no default for {', '.join(bare)}; give each a default" if bare else None


def check_relations(space: SearchSpace) -> None:
    """Raise ConfigError if the job refuses values that trials of `space` can combine.

    `read_search_space` checks this too, but some limits of a backbone are known only after its download.
    """
    note = Mistakes(Path(space.name), {})
    _check_relations(get_job(space.job), space.parameters, space.resources, space.search.enqueue, note)
    note.raise_any()


def _check_objective(objective: Any, job: Job, note: Mistakes) -> None:
    if isinstance(objective, str) and objective not in job.metrics:
        note(("objective",), unknown_name("metric", objective, job.metrics))


def _check_search(search: Any, parameters: Parameters, note: Mistakes) -> None:
    if not isinstance(search, dict):
        return
    if search.get("sampler") == "cmaes" and parameters and not _has_range(parameters):
        text = "cmaes draws numbers from ranges, and no parameter has min and max; write a range, or choose tpe"
        note(("search", "sampler"), text)
    _check_learn_from(search, note)
    if search.get("sampler") != "grid":
        if "trials" not in search:
            note(("search", "trials"), "is missing; write how many trials to run")
        return
    for name, branches in parameters.items():
        if any(grid_values(branch.domain) is None for branch in branches):
            text = "has too many values for a grid; give values or a step, or choose another sampler"
            note(("parameters", name), text)


def _check_learn_from(search: Mapping[str, Any], note: Mistakes) -> None:
    names, sampler = search.get("learn_from"), search.get("sampler")
    if names and sampler in ("qmc", "random", "grid"):
        note(("search", "learn_from"), f"{sampler} does not learn; choose tpe, gp or cmaes, or drop learn_from")
    for index, name in enumerate(names if isinstance(names, list) else ()):
        if name in (names or ())[:index]:
            note(("search", "learn_from", index), f"{shown(name)} stands twice; keep one")


def _has_range(parameters: Parameters) -> bool:
    return any(isinstance(branch.domain, Range) for branches in parameters.values() for branch in branches)


def _order_parameters(parameters: Parameters, knobs: Knobs) -> Parameters:
    """Sort parameters in the job's order, but each after the parameters in its `when`. A cycle is a mistake."""
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
            text = f"`when` forms a cycle: {' → '.join(circle)}; drop one of these conditions"
            knobs.note(("parameters", circle[0]), text)
            graph = {n: [o for o in graph[n] if o not in circle] for n in graph if n not in circle}


def _check_relations(
    job: Job,
    parameters: Parameters,
    resources: Sequence[Reservation],
    enqueue: Sequence[Mapping[str, Any]],
    note: Mistakes,
) -> None:
    """Run the job's checks on values that can occur together, and on enqueued settings."""
    cuts = split_space(parameters, resources, defaults_of(job))
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
        first = split_space(pinned(parameters, entry), (), defaults_of(job))[0].first
        for error in _errors_and_rest(job, first, resources)[0]:
            if (error.key, str(error)) not in errors:
                note(("search", "enqueue", index, error.key), str(error))


def _errors_in(job: Job, cuts: list[Cut], resources: Sequence[Reservation]) -> Iterator[ParamError]:
    """Yield the job's errors for the first values of each cut, then for all changes of one value and of two values."""
    checked = [_errors_and_rest(job, cut.first, resources) for cut in cuts]
    yield from (error for errors, _ in checked for error in errors)
    varied = ((cut, base, change) for cut, (_, base) in zip(cuts, checked, strict=True) for change in _changes(cut))
    for cut, base, change in islice(varied, MAX_PROBES):
        error = _params_error(job, {**base, **change}, resources)
        # An error may be due to the default of a removed parameter, and no trial may have this default.
        if error and (error.key in change or error.key in base or error.key not in cut.first):
            yield error


def _changes(cut: Cut) -> Iterator[dict[str, Any]]:
    values = [(name, value) for name, domain in cut.domains.items() for value in ends(domain)]
    yield from ({name: value} for name, value in values)
    yield from (dict(pair) for pair in combinations(values, 2) if pair[0][0] != pair[1][0])


def _errors_and_rest(
    job: Job, assignment: Mapping[str, Any], resources: Sequence[Reservation]
) -> tuple[list[ParamError], dict[str, Any]]:
    """Return the job's errors for an assignment, and the assignment without the parameters in error."""
    rest = dict(assignment)
    errors: list[ParamError] = []
    while (error := _params_error(job, rest, resources)) and error.key not in {earlier.key for earlier in errors}:
        errors.append(error)
        rest.pop(error.key, None)
    return errors, rest


def _params_error(job: Job, assignment: Mapping[str, Any], resources: Sequence[Reservation]) -> ParamError | None:
    index = first_match(resources, {**defaults_of(job), **assignment})
    asked = Resources() if index is None else resources[index].resources
    try:
        job.check(job.params(**assignment), asked.workers, asked.asked_gpus)
    except ParamError as error:
        return error
    return None


def _grid_size(search: Search, parameters: Parameters, defaults: Mapping[str, Any], note: Mistakes) -> Search:
    """Set a grid's number of trials: all combinations and enqueued settings, or fewer if the file sets `trials`."""
    if search.sampler != "grid":
        return search
    sizes = (
        prod(len(grid_values(domain) or ()) for domain in cut.domains.values())
        for cut in split_space(parameters, (), defaults)
    )
    total = sum(sizes) + len(search.enqueue)
    if not search.trials and total > MAX_TRIALS:
        note(
            ("search", "trials"),
            f"a grid of {total} trials is more than {MAX_TRIALS}; write trials, or drop values",
        )
    return search.model_copy(update={"trials": min(search.trials or total, total)})

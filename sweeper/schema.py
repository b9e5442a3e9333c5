"""What each part of a search-space file may hold, checked where it stands, and the same as JSON Schema.

Fixed sections are pydantic models; a parameter's domain is judged by the job's own type for it. What depends
on several parts at once is left to `search_space`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from math import floor, isfinite
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails

from jobs import JOBS, get_job
from jobs.job import Job
from sweeper.document import Key, Mistakes, kind, nearest, shown, unknown

MAX_VALUES = 1_000  # of one domain in a grid, and entries of any list
RANGE = {"min", "max", "log", "step"}
TOO_LONG = f"has more than {MAX_VALUES} entries; is it the right file?"
FORMS = {"value": {"value"}, "values": {"values"}, "a range": RANGE}
NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}"
IMPORT_PATH = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"
DURATION = r"(?:([0-9]{1,4})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,8})s)?"
# Windows opens devices under these names, whatever the extension.
RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


def _name(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise ValueError(f"found {shown(name)}; use 1 to 64 of A-Z a-z 0-9 . _ - and no leading dot")
    if RESERVED.fullmatch(name):
        raise ValueError(f"{shown(name)} is reserved by Windows; choose another name")
    return name


def _seconds(text: Any) -> int:
    match = re.fullmatch(DURATION, text) if isinstance(text, str) else None
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    if total := 3600 * hours + 60 * minutes + seconds:
        return total
    raise ValueError(f"found {shown(text)}; write a time above zero as 12h, 90m, 45s or 1h30m")


def duration(seconds: int) -> str:
    """Seconds as the file writes them.

    >>> duration(5400)
    '1h30m'
    """
    parts = {"h": seconds // 3600, "m": seconds % 3600 // 60, "s": seconds % 60}
    return "".join(f"{count}{unit}" for unit, count in parts.items() if count)


def _whole_above_one(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"found {shown(gpus)}; above one GPU only whole numbers can be reserved")
    return gpus


def _single(workers: int) -> int:
    if workers > 1:
        text = "several workers per trial are not available yet; write 1 or leave it out"
        raise ValueError(f"found {workers}; {text}")
    return workers


Name = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"})]
Seconds = Annotated[
    int,
    BeforeValidator(_seconds),
    PlainSerializer(duration),
    WithJsonSchema({"type": "string", "pattern": f"^(?=.){DURATION}$"}),
]
Number = Annotated[float, Field(allow_inf_nan=False)]


def about(description: str, **bounds: Any) -> Any:
    """Bounds of a key, and the sentence an editor shows for it."""
    return Field(description=description, **bounds)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Search(Section):
    """How settings are proposed."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"sampler": {"const": "grid"}}, "required": ["sampler"]},
            "else": {"required": ["trials"]},
        }
    )

    sampler: Annotated[
        Literal["tpe", "random", "grid"],
        about("tpe learns from finished trials, random does not, grid runs every combination"),
    ] = "tpe"
    # Zero until the combinations of a grid have been counted; a factory keeps that out of the JSON Schema.
    trials: Annotated[int, about("how many trials to run; by default all of a grid", ge=1, le=100_000)] = (
        Field(default_factory=int)
    )
    seed: Annotated[int, about("makes the sampler's proposals repeatable", ge=0, lt=2**32)] = 42
    enqueue: Annotated[
        tuple[dict[str, Any], ...],
        about(
            "settings to run first, such as known good ones; they may lie outside the space",
            strict=False,
            max_length=MAX_VALUES,
        ),
    ] = ()


class EarlyStopping(Section):
    """When trials that fall behind are stopped. Without this section none is."""

    scheduler: Annotated[Literal["asha"], about("asha: asynchronous successive halving")] = "asha"
    grace_period: Annotated[int, about("epochs that every trial gets", ge=1)] = 1
    reduction_factor: Annotated[int, about("one in this many trials goes on at each rung", ge=2)] = 3


class Budget(Section):
    """When the whole sweep ends early."""

    # In seconds, however the file wrote it.
    time: Annotated[Seconds | None, about("no trial goes on after this time: 12h, 90m, 45s, 1h30m")] = None
    failed_trials: Annotated[int | None, about("the sweep ends when this many trials have failed", ge=1)] = (
        None
    )


class Resources(Section):
    """What one trial reserves. What is left out is the planner's to decide."""

    cpus: Annotated[Number | None, about("CPU cores of one trial", gt=0)] = None
    gpus: Annotated[
        Annotated[Number, Field(ge=0), AfterValidator(_whole_above_one)] | None,
        about("GPUs of one trial; with 0.5 two trials share one"),
    ] = None
    workers: Annotated[
        int,
        about("processes that one trial is spread over", ge=1),
        AfterValidator(_single),
        WithJsonSchema({"type": "integer", "const": 1}),
    ] = 1


class Keep(Section):
    """What stays on the disk."""

    checkpoints: Annotated[int, about("best checkpoints of the whole sweep", ge=1)] = 3


class File(Section):
    """A search space: what to train, which settings to try, and for how long."""

    name: Annotated[Name, about("names the sweep, its folder and its experiment")]
    job: Annotated[str, about("what a trial does: a job's name, or an import path package.module:NAME")]
    data: Annotated[
        str,
        about(
            "folder with context.json, train.json, valid.json and perhaps test.json; or `sample`",
            min_length=1,
        ),
    ]
    objective: Annotated[str, about("the metric to search by; a trial's best evaluation counts")]
    parameters: Annotated[
        dict[str, Any],
        about(
            "a bare value is a constant, {values: [...]} a choice, {min, max} a range; "
            "a list of these with `when` is conditional",
            min_length=1,
        ),
    ]
    search: Search
    early_stopping: EarlyStopping | None = None
    budget: Budget | None = None
    resources: Annotated[
        Any, about("what one trial reserves; a list of these with `when` is conditional")
    ] = None
    keep: Keep = Keep()


_SECTIONS: dict[str | int, type[Section]] = {
    "search": Search,
    "early_stopping": EarlyStopping,
    "budget": Budget,
    "resources": Resources,
    "keep": Keep,
}
HOMES = {
    "when": "in a list of branches",
    **dict.fromkeys(File.model_fields, "at the top level"),
    **{key: f"under {name}" for name, section in _SECTIONS.items() for key in section.model_fields},
}

Model = TypeVar("Model", bound=Section)


def validated(
    model: type[Model], values: Any, key: Key, note: Mistakes, homes: Mapping[str, str]
) -> Model | None:
    """The section at `key`, or None after every mistake in it was noted.

    `homes` tells where a key would be right that is wrong here.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            location = tuple(part for part in details["loc"] if part != "[key]")
            note((*key, *location), explanation(details, _known(model, location), homes))
        return None


def _known(model: type[Section], location: Key) -> list[str]:
    """The keys that stand beside the one at `location`."""
    section = model if len(location) < 2 else _SECTIONS.get(location[-2])
    return list(section.model_fields) if section else []


_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text; put it in quotes if that is what you mean",
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
}


def explanation(details: ErrorDetails, known: list[str], homes: Mapping[str, str]) -> str:
    """One of pydantic's findings as `what is wrong; cure`. `known` are the keys allowed at its place."""
    found, error = details["input"], details["type"]
    if error == "extra_forbidden":
        return unknown("key", str(details["loc"][-1]), known, homes)
    if error == "missing":
        return "is missing; add it"
    if error == "value_error":
        return str(details["ctx"]["error"])
    if error in ("too_short", "string_too_short"):
        return "is empty; give at least one"
    if error == "too_long":
        return TOO_LONG
    if error == "literal_error":
        return _not_among(found, details["ctx"]["expected"])
    wanted = _WANTED.get(error) or details["msg"].removeprefix("Input should be ")
    plain = " in plain decimal digits" if isinstance(found, str) and "number" in wanted else ""
    return f"found {shown(found)}; must be {wanted}{plain}"


def _not_among(found: Any, expected: str) -> str:
    near = nearest(found, re.findall(r"'([^']*)'", expected)) if isinstance(found, str) else None
    return f"found {shown(found)}; {f'did you mean {near!r}? ' if near else ''}must be {expected}"


@dataclass(frozen=True)
class Constant:
    value: Any

    def __str__(self) -> str:
        return as_text(self.value)


@dataclass(frozen=True)
class Choice:
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return ", ".join(map(as_text, self.values))


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included. With a step, `high` is the last value the steps reach."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False

    def __str__(self) -> str:
        log = " log" if self.log else ""
        step = "" if self.step is None else f" step {as_text(self.step)}"
        return f"{as_text(self.low)} … {as_text(self.high)}{log}{step}"


Domain = Constant | Choice | Range


@dataclass(frozen=True)
class Branch:
    """A domain, and what other parameters must be for it: name → glob. An empty `when` always holds."""

    when: Mapping[str, str]
    domain: Domain


@dataclass(frozen=True)
class Reservation:
    """What trials reserve whose parameters match `when`."""

    when: Mapping[str, str]
    resources: Resources


def as_text(value: Any) -> str:
    """A value as the file would write it.

    >>> as_text(0.00001), as_text(True)
    ('1e-5', 'true')
    """
    if isinstance(value, str):
        return value
    return re.sub(r"e([-+])0", r"e\1", repr(value)) if isinstance(value, float) else shown(value)


def grid_values(domain: Domain) -> tuple[Any, ...] | None:
    """All values of a domain in order, or None if they are more than can be run one by one."""
    if isinstance(domain, Constant):
        return (domain.value,)
    if isinstance(domain, Choice):
        return domain.values
    step = domain.step or (1 if domain.integer else 0)
    count = _steps(domain.low, domain.high, step) if step else MAX_VALUES
    number = int if domain.integer else float
    exact = (_exact(domain.low) + n * _exact(step) for n in range(count + 1))
    return tuple(min(number(value), domain.high) for value in exact) if count < MAX_VALUES else None


def contains(domain: Domain, value: Any) -> bool:
    """Whether a domain can give this value."""
    if not isinstance(domain, Range):
        return value in (grid_values(domain) or ())
    if not is_number(value) or not domain.low <= value <= domain.high:
        return False
    step = domain.step or (1 if domain.integer else 0)
    steps = (value - domain.low) / step if step else 0
    return bool(abs(steps - round(steps)) < 1e-8)


def _steps(low: float, high: float, step: float) -> int:
    """How many whole steps fit. A billionth is forgiven: `high` may be a rounded sum of steps itself."""
    return floor((_exact(high) - _exact(low)) / _exact(step) + Fraction(1, 10**9))


def _exact(number: float) -> Fraction:
    return Fraction(str(number))


class Knobs:
    """The job's parameters and what each accepts; every mistake goes to `note`.

    Of an unknown job every name accepts everything, so that the rest of the file is still checked.
    """

    def __init__(self, job: Job | None, note: Mistakes) -> None:
        self.names = [field.name for field in fields(job.params)] if job else []
        self.note = note
        self._hints = get_type_hints(job.params, include_extras=True) if job else {}

    def has(self, name: str, key: Key) -> bool:
        """Whether the job has this parameter."""
        if self.names and name not in self.names:
            self.note(key, unknown("parameter", name, self.names, HOMES))
            return False
        return True

    def accept(self, name: str, value: Any, key: Key) -> Any:
        """The value as the parameter holds it: an int becomes a float where one is wanted."""
        if isinstance(value, dict | list):
            self.note(key, f"found {kind(value)}; must be a single value")
        elif isinstance(value, float) and not isfinite(value):
            self.note(key, f"found {shown(value)}; must be a finite number")
        elif self.names:
            try:
                return TypeAdapter(self._hints[name]).validate_python(value, strict=True)
            except ValidationError as error:
                self.note(key, explanation(error.errors(include_url=False)[0], [], {}))
        return value

    def number(self, name: str) -> type[int] | type[float] | None:
        """int or float if the parameter is one."""
        return _number_type(self._hints[name]) if self.names else float


def _number_type(annotation: Any) -> type[int] | type[float] | None:
    """int or float where the annotation is one: bare, annotated or optional."""
    if annotation is int or annotation is float:
        return int if annotation is int else float
    return next((found for inner in get_args(annotation) if (found := _number_type(inner))), None)


def read_parameters(values: Any, knobs: Knobs) -> dict[str, tuple[Branch, ...]]:
    """The branches of every parameter the job knows. What had a mistake is a placeholder."""
    named = values.items() if isinstance(values, dict) else ()
    known = {name: value for name, value in named if knobs.has(name, ("parameters", name))}
    return {name: _branches(name, value, ("parameters", name), knobs) for name, value in known.items()}


def read_reservations(values: Any, knobs: Knobs) -> tuple[Reservation, ...]:
    """The branches of `resources`. What had a mistake is a placeholder."""
    if isinstance(values, list) and len(values) > MAX_VALUES:
        knobs.note(("resources",), TOO_LONG)
        return ()
    if not isinstance(values, list):
        return () if values is None else (Reservation({}, _resources(values, ("resources",), knobs)),)
    whens = _whens(values, ("resources",), knobs)
    plain = [{k: v for k, v in i.items() if k != "when"} if isinstance(i, dict) else i for i in values]
    resources = [_resources(item, ("resources", index), knobs) for index, item in enumerate(plain)]
    return tuple(Reservation(*pair) for pair in zip(whens, resources, strict=True))


def _resources(values: Any, key: Key, knobs: Knobs) -> Resources:
    return validated(Resources, values, key, knobs.note, HOMES) or Resources()


def read_enqueue(search: Any, knobs: Knobs) -> tuple[dict[str, Any], ...]:
    """The entries of search.enqueue, every value as its parameter holds it."""
    entries = search.get("enqueue") if isinstance(search, dict) else None
    items = enumerate(entries[:MAX_VALUES] if isinstance(entries, list) else ())
    return tuple(_entry(entry, ("search", "enqueue", index), knobs) for index, entry in items)


def _entry(entry: Any, key: Key, knobs: Knobs) -> dict[str, Any]:
    if entry == {}:
        knobs.note(key, "is empty; name at least one parameter, or drop it")
    named = entry.items() if isinstance(entry, dict) else ()
    known = {name: value for name, value in named if knobs.has(name, (*key, name))}
    return {name: knobs.accept(name, value, (*key, name)) for name, value in known.items()}


def _branches(name: str, value: Any, key: Key, knobs: Knobs) -> tuple[Branch, ...]:
    if isinstance(value, dict):
        return (Branch({}, _domain(name, value, key, knobs, RANGE | {"values"})),)
    if not isinstance(value, list):
        return (Branch({}, Constant(knobs.accept(name, value, key))),)
    if len(value) > MAX_VALUES:
        knobs.note(key, TOO_LONG)
        return ()
    if not all(isinstance(item, dict) for item in value) or not value:
        knobs.note(
            key, "a list holds branches as {when: {...}, min: 1, max: 2}; for a choice write {values: [...]}"
        )
        return ()
    whens = _whens(value, key, knobs)
    allowed = RANGE | {"values", "value", "when"}
    domains = [_domain(name, item, (*key, index), knobs, allowed) for index, item in enumerate(value)]
    return tuple(Branch(*pair) for pair in zip(whens, domains, strict=True))


def _whens(items: list[Any], key: Key, knobs: Knobs) -> list[dict[str, str]]:
    """The conditions of each branch; a branch that comes too late to be reached is a mistake."""
    if not items:
        knobs.note(key, "is empty; list at least one branch, or leave it out")
    before = len(knobs.note)
    whens = [_when(item, (*key, index), knobs) for index, item in enumerate(items)]
    for index, when in enumerate(whens if len(knobs.note) == before else ()):
        if any(earlier.items() <= when.items() for earlier in whens[:index]):
            text = "is never reached: a branch before it matches whenever it does; move it up or drop it"
            knobs.note((*key, index), text)
    return whens


def _when(item: Any, key: Key, knobs: Knobs) -> dict[str, str]:
    if not isinstance(item, dict) or "when" not in item:
        return {}
    conditions = item["when"]
    if not isinstance(conditions, dict) or not conditions:
        text = f"found {shown(conditions)}; name other parameters and their values, or leave `when` out"
        knobs.note((*key, "when"), text)
        return {}
    for name, glob in conditions.items():
        if knobs.has(name, (*key, "when", name)) and (glob is None or isinstance(glob, dict | list)):
            knobs.note((*key, "when", name), f"found {shown(glob)}; must be one value or glob")
    return {name: as_text(glob) for name, glob in conditions.items()}


def _domain(name: str, spec: dict[str, Any], key: Key, knobs: Knobs, allowed: set[str]) -> Domain:
    for extra in sorted(spec.keys() - allowed):
        in_list = f"`{extra}` stands in a list of branches only; write `- {{...}}`"
        knobs.note((*key, extra), in_list if extra in ("when", "value") else unknown("key", extra, allowed))
    forms = [form for form, keys in FORMS.items() if keys & spec.keys()]
    if forms == ["values"]:
        return _choice(name, spec["values"], (*key, "values"), knobs)
    if forms == ["value"]:
        return Constant(knobs.accept(name, spec["value"], (*key, "value")))
    if forms == ["a range"]:
        return _range(name, spec, key, knobs)
    nothing = "has no values; write {values: [...]} or {min: ..., max: ...}"
    knobs.note(key, f"mixes {' and '.join(forms)}; keep one" if forms else nothing)
    return Constant(None)


def _choice(name: str, values: Any, key: Key, knobs: Knobs) -> Choice:
    if not isinstance(values, list) or not values:
        knobs.note(key, f"found {shown(values)}; must be a list of at least one value")
        return Choice(())
    if len(values) > MAX_VALUES:
        knobs.note(key, TOO_LONG)
        return Choice(())
    accepted = [knobs.accept(name, value, (*key, index)) for index, value in enumerate(values)]
    for index, value in enumerate(accepted):
        if value in accepted[:index]:
            knobs.note((*key, index), f"{shown(value)} stands twice; keep one")
    return Choice(tuple(accepted))


def _range(name: str, spec: dict[str, Any], key: Key, knobs: Knobs) -> Domain:
    number = knobs.number(name)
    if number is None:
        knobs.note(key, f"{name} is not a number and has no range; write {{values: [...]}}")
        return Constant(None)
    before = len(knobs.note)
    low, high = (_end(name, end, spec, key, knobs) for end in ("min", "max"))
    log, step = spec.get("log", False), spec.get("step")
    if not isinstance(log, bool):
        knobs.note((*key, "log"), f"found {shown(log)}; must be true or false")
    if "step" in spec and not (is_number(step) and isinstance(step, int | number)):
        wanted = "whole" if number is int else "finite"
        knobs.note((*key, "step"), f"found {shown(step)}; must be a {wanted} number")
    for end, text in _range_mistakes(low, high, log, step) if len(knobs.note) == before else ():
        knobs.note((*key, end), text)
    if len(knobs.note) > before:
        return Constant(None)
    if step is None:
        return Range(low, high, log, integer=number is int)
    last = number(_exact(low) + _steps(low, high, step) * _exact(step))
    return Range(low, min(high, last), log, number(step), number is int)


def _end(name: str, end: str, spec: dict[str, Any], key: Key, knobs: Knobs) -> Any:
    if end not in spec:
        knobs.note((*key, end), "is missing; a range needs min and max")
    elif not is_number(spec[end]):
        knobs.note((*key, end), f"found {shown(spec[end])}; must be a finite number")
    else:
        return knobs.accept(name, spec[end], (*key, end))
    return None


def _range_mistakes(low: float, high: float, log: bool, step: float | None) -> Iterator[tuple[str, str]]:
    if low == high:
        yield "max", f"min and max are both {as_text(low)}; for a constant write the bare value"
    if low > high:
        yield "max", f"max {as_text(high)} is below min {as_text(low)}; swap them"
    if log and low <= 0:
        yield "min", f"found {as_text(low)}; a logarithmic range begins above zero"
    if log and step is not None:
        yield "step", "a logarithmic range has no step; drop log or step"
    if step is not None and step <= 0:
        yield "step", f"found {as_text(step)}; must be above zero"
    if step is not None and step > 0 and low < high and not _steps(low, high, step):
        yield "step", f"the step {as_text(step)} leads beyond max; use at most {as_text(high - low)}"


def is_number(value: Any) -> bool:
    """Whether this is a finite int or float, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


class _Untitled(GenerateJsonSchema):
    """Leaves out titles that only repeat a key."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def json_schema_text() -> str:
    """What `sweeper schema` prints and search_spaces/schema.json holds."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a search-space file, with the parameters of every job in JOBS."""
    schema = File.model_json_schema(schema_generator=_Untitled)
    properties, definitions = schema["properties"], schema["$defs"]
    definitions["when"] = {
        "type": "object",
        "description": "holds when every named parameter has this value or matches this glob",
        "minProperties": 1,
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    }
    properties["job"]["anyOf"] = [{"enum": list(JOBS)}, {"pattern": f"^{IMPORT_PATH}$"}]
    definitions["Resources"] = Resources.model_json_schema(schema_generator=_Untitled)
    properties["resources"] |= _conditional(definitions["Resources"])
    conditions = [_of_job(name, definitions) for name in JOBS]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "allOf": conditions}


def _conditional(section: dict[str, Any]) -> dict[str, Any]:
    """A section as it stands, null, or a list of them each with an optional `when`."""
    branch = {**section, "properties": {"when": {"$ref": "#/$defs/when"}, **section["properties"]}}
    return {"anyOf": [section, {"type": "array", "minItems": 1, "items": branch}, {"type": "null"}]}


def _of_job(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """What follows once `job` is `name`: its parameters, in `enqueue` too, and its metrics."""
    job = get_job(name)
    hints = get_type_hints(job.params, include_extras=True)
    values = {field.name: TypeAdapter(hints[field.name]).json_schema() for field in fields(job.params)}
    definitions[f"{name}_values"] = _strict(values)
    definitions[f"{name}_parameters"] = _strict(
        {
            field.name: {
                "description": field.metadata.get("help", ""),
                "default": field.default,
                "anyOf": _forms(
                    f"#/$defs/{name}_values/properties/{field.name}", _number_type(hints[field.name])
                ),
            }
            for field in fields(job.params)
        }
    )
    then = {
        "parameters": {"$ref": f"#/$defs/{name}_parameters"},
        "objective": {"enum": list(job.metrics)},
        "search": {"properties": {"enqueue": {"items": {"$ref": f"#/$defs/{name}_values"}}}},
    }
    return {"if": {"properties": {"job": {"const": name}}, "required": ["job"]}, "then": {"properties": then}}


def _forms(value: str, number: type[int] | type[float] | None) -> list[dict[str, Any]]:
    """The forms of a parameter whose single values have the schema at `value`."""
    one = {"$ref": value}
    keys: dict[str, Any] = {"values": {"type": "array", "items": one, "minItems": 1, "uniqueItems": True}}
    required = [["values"]]
    if number:
        step = {"type": "integer" if number is int else "number", "exclusiveMinimum": 0}
        keys |= {"min": one, "max": one, "log": {"type": "boolean"}, "step": step}
        required.append(["min", "max"])
    branch = _strict({"when": {"$ref": "#/$defs/when"}, "value": one, **keys}, *required, ["value"])
    return [one, _strict(keys, *required), {"type": "array", "minItems": 1, "items": branch}]


def _strict(properties: dict[str, Any], *required: list[str]) -> dict[str, Any]:
    """A mapping of these keys only, with one of the `required` groups."""
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "oneOf": [{"required": keys} for keys in required]} if required else schema

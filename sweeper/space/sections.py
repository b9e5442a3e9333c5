"""Define the fixed sections of a search-space file as pydantic models, and explain their errors in one line each.

`domains` reads the parameters; `reading` checks relations between keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import count, takewhile
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    WrapValidator,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails

from jobs.suggestions import nearest, shown, unknown_name
from sweeper.space.mistakes import Key, Mistakes

AUTO_GPUS = "auto"
MAX_VALUES = 1_000  # largest number of values of a domain in a grid, and of entries of a list
MEDIAN_TRIALS = 3  # with fewer other trials of as many epochs the median stops none
RANGE = {"min", "max", "log", "step"}
TOO_LONG = f"has more than {MAX_VALUES} entries; is it the right file?"
FORMS = {"value": {"value"}, "values": {"values"}, "a range": RANGE}
NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}"
IMPORT_PATH = r"[^\W\d][\w.]*:[^\W\d]\w*"
DURATION = r"(?:([0-9]{1,4})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,8})s)?"
# On Windows these names open devices, with any extension.
RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


def _name(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise ValueError(f"found {shown(name)}; use 1 to 64 of A-Z a-z 0-9 . _ - and no leading dot")
    if RESERVED.fullmatch(name):
        raise ValueError(f"{shown(name)} is reserved by Windows; choose another name")
    return name


def parse_duration(text: Any) -> int:
    """Return the seconds of a time such as `1h30m`. Raises ValueError if it is none."""
    match = re.fullmatch(DURATION, text) if isinstance(text, str) else None
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    if total := 3600 * hours + 60 * minutes + seconds:
        return total
    raise ValueError(f"found {shown(text)}; write a time above zero as 12h, 90m, 45s or 1h30m")


def duration(seconds: int) -> str:
    """Write seconds as a search-space file does.

    >>> duration(5400)
    '1h30m'
    """
    parts = {"h": seconds // 3600, "m": seconds % 3600 // 60, "s": seconds % 60}
    return "".join(f"{count}{unit}" for unit, count in parts.items() if count)


def _whole_above_one(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"found {shown(gpus)}; above one GPU only whole numbers can be reserved")
    return gpus


def _auto_or_number(gpus: Any, check: Callable[[Any], Any]) -> Any:
    if isinstance(gpus, str) and gpus != AUTO_GPUS:
        raise ValueError(f"found {shown(gpus)}; write a number, or {AUTO_GPUS}")
    return gpus if gpus == AUTO_GPUS else check(gpus)


def _different(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"found a seed twice in {list(seeds)}; give each once")
    return seeds


Name = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"})]
Seconds = Annotated[
    int,
    BeforeValidator(parse_duration),
    PlainSerializer(duration),
    WithJsonSchema({"type": "string", "pattern": f"^(?=.){DURATION}$"}),
]
Number = Annotated[float, Field(allow_inf_nan=False)]


def about(description: str, **bounds: Any) -> Any:
    """Return a field with bounds and with the description that editors show."""
    return Field(description=description, **bounds)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Search(Section):
    """Configure how parameter values are proposed."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"sampler": {"const": "grid"}}, "required": ["sampler"]},
            "else": {"required": ["trials"]},
        }
    )

    sampler: Annotated[
        Literal["tpe", "gp", "cmaes", "qmc", "random", "grid"],
        about(
            "tpe, gp (Gaussian process) and cmaes learn from finished trials; qmc spreads its trials evenly, "
            "random does not; grid runs every combination"
        ),
    ] = "tpe"
    # Zero until the combinations of a grid are counted. A factory keeps this default out of the JSON Schema.
    trials: Annotated[int, about("how many trials to run; by default all of a grid", ge=1, le=100_000)] = Field(
        default_factory=int
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
    learn_from: Annotated[
        tuple[Name, ...],
        about(
            "sweeps of the same job, data and objective; tpe, gp and cmaes learn from their trials too",
            strict=False,
            max_length=MAX_VALUES,
        ),
    ] = ()

    @model_serializer(mode="wrap")
    def _used_keys(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out an empty `learn_from`, which stored search spaces of earlier versions do not have."""
        values: dict[str, Any] = serialize(self)
        return {key: value for key, value in values.items() if key != "learn_from" or value}


def _not_of_median(factor: int, info: ValidationInfo) -> int:
    if info.data.get("scheduler") == "median":
        raise ValueError("median has no reduction_factor; drop it")
    return factor


class EarlyStopping(Section):
    """Configure which trials are stopped early. Without this section all run to the end."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"scheduler": {"const": "median"}}, "required": ["scheduler"]},
            "then": {"properties": {"reduction_factor": False}},
        }
    )

    scheduler: Annotated[
        Literal["asha", "hyperband", "median"],
        about(
            "asha: asynchronous successive halving; hyperband: the same in brackets, some of which begin later; "
            "median: a trial ends when its best value is worse than the median of the others' means"
        ),
    ] = "asha"
    grace_period: Annotated[int, about("epochs that every trial gets", ge=1)] = 1
    reduction_factor: Annotated[
        int,
        about("asha, hyperband: one in this many trials goes on at each rung", ge=2),
        AfterValidator(_not_of_median),
    ] = 3

    @model_serializer(mode="wrap")
    def _own_keys(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the key that the scheduler does not have, so that the section can be read again."""
        values: dict[str, Any] = serialize(self)
        return {key: value for key, value in values.items() if self.scheduler != "median" or key != "reduction_factor"}


def bracket_count(rule: EarlyStopping, epochs: int) -> int:
    """Return the number of brackets for trials of at most `epochs`: one, or with hyperband one for each rung.

    >>> bracket_count(EarlyStopping(scheduler="hyperband"), 9)
    3
    """
    if rule.scheduler != "hyperband":
        return 1
    rungs = takewhile(lambda epoch: epoch <= epochs, (rule.grace_period * rule.reduction_factor**n for n in count()))
    return max(1, sum(1 for _ in rungs))


class Budget(Section):
    """Limit the time, cost, failures and retries of a sweep and its trials. What is spent counts over all runs of the
    sweep."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"cost": {"type": "number"}}, "required": ["cost"]},
            "then": {"properties": {"price": {"type": "number"}}, "required": ["price"]},
        }
    )

    # In seconds; the file may have another unit.
    time: Annotated[
        Seconds | None, about("no trial goes on once the sweep has run for this time: 12h, 90m, 45s, 1h30m")
    ] = None
    gpu_hours: Annotated[
        Number | None, about("no trial goes on once all trials have reserved this many GPU-hours", gt=0)
    ] = None
    cost: Annotated[Number | None, about("no trial goes on once this is spent, at `price`", gt=0)] = None
    price: Annotated[
        Number | None, about("price of one GPU for an hour; a trial without a GPU costs as much as with one", gt=0)
    ] = None
    target: Annotated[Number | None, about("no trial goes on once the objective has reached this value")] = None
    trials_without_gain: Annotated[
        int | None, about("the sweep ends when this many trials in a row have ended without a new best", ge=1)
    ] = None
    failed_trials: Annotated[int | None, about("the sweep ends when this many trials have failed", ge=1)] = None
    trial_time: Annotated[
        Seconds | None, about("a trial that takes longer at a stretch, or hangs, is ended as failed: 2h, 30m")
    ] = None
    retries: Annotated[
        int, about("how often a trial goes on from its checkpoint after its process died", ge=0, le=100)
    ] = 2
    preemptions: Annotated[
        int, about("how often a trial goes on from its checkpoint after its machine was lost", ge=0, le=10_000)
    ] = 20

    @model_validator(mode="after")
    def _cost_has_price(self) -> Self:
        if self.cost is not None and self.price is None:
            raise ValueError("cost needs price; write what one GPU costs for an hour")
        return self


class Repeats(Section):
    """Train the best trials again with other seeds after the search. Without this section none is repeated."""

    top: Annotated[int, about("how many of the best trials", ge=1, le=100)] = 3
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**32)], ...],
        about("each is trained with all of these", strict=False, min_length=1, max_length=100),
        AfterValidator(_different),
    ]


class Resources(Section):
    """Reserve CPUs, GPUs and workers for one trial. The planner chooses missing values."""

    cpus: Annotated[Number | None, about("CPU cores of each worker", gt=0)] = None
    # A number; `shares_gpus` tells if the file says auto instead.
    gpus: Annotated[
        Annotated[Number, Field(ge=0), AfterValidator(_whole_above_one)] | None,
        WrapValidator(_auto_or_number),
        PlainSerializer(lambda gpus: gpus),
        WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"const": AUTO_GPUS}, {"type": "null"}]}),
        about("GPUs of each worker; with 0.5 two trials of one worker share one; auto: as many trials as fit, up to 3"),
    ] = None
    workers: Annotated[
        int, about("processes that train one trial together, on one machine or several", ge=1, le=1024)
    ] = 1

    @model_validator(mode="after")
    def _own_gpus(self) -> Self:
        # NCCL refuses two processes of a group on one device.
        if self.workers > 1 and self.asked_gpus is not None and self.asked_gpus != int(self.asked_gpus):
            raise ValueError(f"{self.workers} workers cannot share a GPU; write a whole number of gpus")
        return self

    @property
    def shares_gpus(self) -> bool:
        """Return True if the file leaves it to the machine how many trials share a GPU."""
        return str(self.gpus) == AUTO_GPUS

    @property
    def asked_gpus(self) -> float | None:
        """Return the number of GPUs that the file asks for; None if the machine decides."""
        return None if self.shares_gpus else self.gpus


class Keep(Section):
    """Limit the checkpoints that stay on disk."""

    checkpoints: Annotated[int, about("best checkpoints of the whole sweep", ge=1)] = 3


NotifyEvent = Literal["finished", "failed", "budget", "first_failure", "new_best"]
NOTIFY_EVENTS = get_args(NotifyEvent)


class Notify(Section):
    """Choose the events of a sweep that send a message. The address is a secret: it stands in SWEEPER_NOTIFY_URL or
    mlflow.ini."""

    events: Annotated[
        tuple[NotifyEvent, ...],
        about(
            "the sweep has finished, has failed, or was ended by its budget; its first trial has failed; a new best",
            strict=False,
            min_length=1,
            max_length=MAX_VALUES,
        ),
    ] = NOTIFY_EVENTS
    # A factory keeps this default out of the JSON Schema, where it would be a number.
    new_best_every: Annotated[Seconds, about("a new best is told at most once in this time: 30m, 2h")] = Field(
        default_factory=lambda: 1800
    )


class File(Section):
    """Define a search space: the job, its data, the values to try, and limits."""

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
    repeats: Repeats | None = None
    resources: Annotated[Any, about("what one trial reserves; a list of these with `when` is conditional")] = None
    keep: Keep = Keep()
    notify: Annotated[
        Notify | None,
        about("which events send a message; its address stands in SWEEPER_NOTIFY_URL or mlflow.ini, never here"),
    ] = None
    reference: Annotated[
        dict[str, Number] | None,
        about(
            "published scores of the objective, by backbone; `compare --reference` shows them beside the sweep's own",
            min_length=1,
        ),
    ] = None


_SECTIONS: dict[str | int, type[Section]] = {
    "search": Search,
    "early_stopping": EarlyStopping,
    "budget": Budget,
    "repeats": Repeats,
    "resources": Resources,
    "keep": Keep,
    "notify": Notify,
}
PLACES = {
    "when": "in a list of branches",
    **dict.fromkeys(File.model_fields, "at the top level"),
    **{key: f"under {name}" for name, section in _SECTIONS.items() for key in section.model_fields},
}

Model = TypeVar("Model", bound=Section)


def validated(model: type[Model], values: Any, key: Key, note: Mistakes, places: Mapping[str, str]) -> Model | None:
    """Return the validated section at `key`, or None after recording every mistake in it.

    `places` maps a key to the section in which it is allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for details in _true_causes(error.errors(include_url=False)):
            location = tuple(part for part in details["loc"] if part != "[key]")
            note((*key, *location), explanation(details, _sibling_keys(model, location), places))
        return None


def _true_causes(errors: list[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Yield the errors, less those of a list that pydantic (2.14) calls too short without its wrong entries."""
    places = [details["loc"] for details in errors]
    for details in errors:
        inside = (
            len(place) > len(details["loc"]) and place[: len(details["loc"])] == details["loc"] for place in places
        )
        if details["type"] != "too_short" or not any(inside):
            yield details


def _sibling_keys(model: type[Section], location: Key) -> list[str]:
    """Return the keys allowed next to the one at `location`."""
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


def explanation(details: ErrorDetails, known: list[str], places: Mapping[str, str]) -> str:
    """Explain one pydantic error as `what is wrong; cure`. `known` are the keys allowed at its location;
    `places` names for a key the section to which it belongs."""
    found, error = details["input"], details["type"]
    if error == "extra_forbidden":
        return unknown_name("key", str(details["loc"][-1]), known, places)
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

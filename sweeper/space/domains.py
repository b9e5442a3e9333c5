"""Define the domain of one parameter (constant, choice or range) with its branches, and read it from a file.

`search_space` decides which branch applies to a trial.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from math import ceil, floor, inf, isclose, isfinite, nextafter
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from jobs.job import Job
from jobs.suggestions import shown, unknown_name
from sweeper.space.document import kind_of, plain_scalar
from sweeper.space.mistakes import Key, Mistakes
from sweeper.space.sections import FORMS, MAX_VALUES, PLACES, RANGE, TOO_LONG, Resources, explanation, validated


@dataclass(frozen=True)
class Constant:
    value: Any

    def __str__(self) -> str:
        return literal_text(self.value)


@dataclass(frozen=True)
class Choice:
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return ", ".join(map(literal_text, self.values))


@dataclass(frozen=True)
class Range:
    """Hold the numbers from `low` to `high`, both included. With a step, `high` is the last value on the grid."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False

    def __str__(self) -> str:
        log = " log" if self.log else ""
        step = "" if self.step is None else f" step {literal_text(self.step)}"
        return f"{literal_text(self.low)} … {literal_text(self.high)}{log}{step}"


Domain = Constant | Choice | Range
Condition = str | tuple[str, ...]  # a value, a glob or a comparison; one of several has to hold
COMPARISON = re.compile(r"(>=|<=|!=|>|<)(.*)", re.DOTALL)
COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Branch:
    """Hold a domain and its conditions on other parameters, by name. An empty `when` always applies."""

    when: Mapping[str, Condition]
    domain: Domain


@dataclass(frozen=True)
class Reservation:
    """Hold the resources of trials whose parameters match `when`."""

    when: Mapping[str, Condition]
    resources: Resources


def literal_text(value: Any) -> str:
    """Return a value in the notation of search-space files.

    >>> literal_text(0.00001), literal_text(True)
    ('1e-5', 'true')
    """
    if isinstance(value, str):
        return value
    return re.sub(r"e([-+])0", r"e\1", repr(value)) if isinstance(value, float) else shown(value)


def alternatives(condition: Condition) -> tuple[str, ...]:
    """Return the values, globs and comparisons of which one has to hold."""
    return (condition,) if isinstance(condition, str) else tuple(condition)


def fits(value: Any, condition: Condition) -> bool:
    """Return True if a value meets a condition of `when`.

    >>> fits(1e-5, "1e-*"), fits(3, ">2"), fits("bert", ["roberta", "b*"])
    (True, True, True)
    """
    return any(_fits_one(value, one) for one in alternatives(condition))


def _fits_one(value: Any, text: str) -> bool:
    """Return True if the value's text matches the glob, or the value is a number and equal to it or on its right side.

    A comparison holds for numbers only, so that a text value may begin with `>`.
    """
    if any(own == text or fnmatchcase(own, text) for own in {str(value), literal_text(value)}):
        return True
    if not is_number(value):
        return False
    compared = comparison(text)
    return COMPARE[compared[0]](value, compared[1]) if compared else bool(value == glob_number(text))


def comparison(text: str) -> tuple[str, int | float] | None:
    """Return the sign and the number of a comparison; None for a value or a glob.

    >>> comparison(">= 2")
    ('>=', 2)
    """
    found = COMPARISON.fullmatch(text)
    number = glob_number(found[2].strip()) if found else None
    return None if found is None or number is None else (found[1], number)


def glob_number(glob: str) -> int | float | None:
    """Return the number that a text stands for, or None."""
    with suppress(ValueError):
        number = plain_scalar(glob)
        return number if isinstance(number, int | float) and is_number(number) else None
    return None


def grid_values(domain: Domain) -> tuple[Any, ...] | None:
    """Return all values of a domain in order, or None if there are MAX_VALUES or more."""
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
    """Return True if the domain contains the value."""
    if not isinstance(domain, Range):
        return value in (grid_values(domain) or ())
    if not is_number(value) or not domain.low <= value <= domain.high:
        return False
    step = domain.step or (1 if domain.integer else 0)
    nearest = domain.low + round((value - domain.low) / step) * step if step else value
    return isclose(value, nearest, rel_tol=1e-12, abs_tol=1e-8 * step)


def cut_range(domain: Range, numbers: Iterable[float]) -> list[Domain]:
    """Cut a range at numbers: return each number that lies in the range, and the pieces before, between and after.

    >>> [str(part) for part in cut_range(Range(1, 9000, integer=True), [4])]
    ['1 … 3', '4', '5 … 9000']
    """
    parts: list[Domain] = []
    low: float = domain.low
    for number in sorted({one for one in numbers if domain.low <= one <= domain.high}):
        before, after = _neighbours(domain, number)
        parts += [
            *_piece(domain, low, before),
            *([Choice((_like(domain, number),))] if contains(domain, number) else []),
        ]
        low = after
    return [*parts, *_piece(domain, low, domain.high)]


def _neighbours(domain: Range, number: float) -> tuple[float, float]:
    """Return the next smaller and the next larger number that a range without bounds would hold."""
    step = domain.step or (1 if domain.integer else 0)
    if not step:
        return nextafter(number, -inf), nextafter(number, inf)
    steps = (_exact(number) - _exact(domain.low)) / _exact(step)
    return tuple(  # type: ignore[return-value]
        _like(domain, float(_exact(domain.low) + count * _exact(step))) for count in (ceil(steps) - 1, floor(steps) + 1)
    )


def _piece(domain: Range, low: float, high: float) -> list[Domain]:
    if low > high:
        return []
    return [Choice((_like(domain, low),)) if low == high else replace(domain, low=low, high=high)]


def _like(domain: Range, number: float) -> int | float:
    return int(number) if domain.integer else float(number)


def _steps(low: float, high: float, step: float) -> int:
    """Count the whole steps from low to high. `high` may be a rounded sum of steps, so an error of 1e-9 is ignored."""
    return floor((_exact(high) - _exact(low)) / _exact(step) + Fraction(1, 10**9))


def _exact(number: float) -> Fraction:
    return Fraction(str(number))


class Knobs:
    """Check names and values against a job's parameters, and record every mistake in `note`.

    Without a job, every name and value is accepted, so that the rest of the file is still checked.
    """

    def __init__(self, job: Job | None, note: Mistakes) -> None:
        self.names = [field.name for field in fields(job.params)] if job else []
        self.note = note
        self._hints = get_type_hints(job.params, include_extras=True) if job else {}

    def has(self, name: str, key: Key) -> bool:
        """Return True if the job has this parameter; else record a mistake."""
        if self.names and name not in self.names:
            self.note(key, unknown_name("parameter", name, self.names, PLACES))
            return False
        return True

    def accept(self, name: str, value: Any, key: Key) -> Any:
        """Return the value in the parameter's type: an int becomes a float for a float parameter."""
        if isinstance(value, dict | list):
            self.note(key, f"found {kind_of(value)}; must be a single value")
        elif isinstance(value, float) and not isfinite(value):
            self.note(key, f"found {shown(value)}; must be a finite number")
        elif self.names:
            try:
                return TypeAdapter(self._hints[name]).validate_python(value, strict=True)
            except ValidationError as error:
                first, *others = error.errors(include_url=False)  # several for a number or a word, such as `auto`
                words = [f" or {one['ctx']['expected']}" for one in others if one["type"] == "literal_error"]
                self.note(key, "".join([explanation(first, [], {}), *words]))
        return value

    def number(self, name: str) -> type[int] | type[float] | None:
        """Return int or float for a numeric parameter, else None."""
        return number_type(self._hints[name]) if self.names else float


def number_type(annotation: Any) -> type[int] | type[float] | None:
    """Return int or float if the annotation is that type, also inside Annotated or Optional; else None."""
    if annotation is int or annotation is float:
        return int if annotation is int else float
    return next((found for inner in get_args(annotation) if (found := number_type(inner))), None)


def read_parameters(values: Any, knobs: Knobs) -> dict[str, tuple[Branch, ...]]:
    """Read the branches of every parameter of the job. A parameter with a mistake gets a placeholder."""
    named = values.items() if isinstance(values, dict) else ()
    known = {name: value for name, value in named if knobs.has(name, ("parameters", name))}
    return {name: _branches(name, value, ("parameters", name), knobs) for name, value in known.items()}


def read_reservations(values: Any, knobs: Knobs) -> tuple[Reservation, ...]:
    """Read the branches of `resources`. A branch with a mistake gets a placeholder."""
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
    return validated(Resources, values, key, knobs.note, PLACES) or Resources()


def read_enqueue(search: Any, knobs: Knobs) -> tuple[dict[str, Any], ...]:
    """Read the entries of search.enqueue, each value in its parameter's type."""
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
        return (Branch({}, _parse_domain(name, value, key, knobs, RANGE | {"values"})),)
    if not isinstance(value, list):
        return (Branch({}, Constant(knobs.accept(name, value, key))),)
    if len(value) > MAX_VALUES:
        knobs.note(key, TOO_LONG)
        return ()
    if not all(isinstance(item, dict) for item in value) or not value:
        knobs.note(key, "a list holds branches as {when: {...}, min: 1, max: 2}; for a choice write {values: [...]}")
        return ()
    whens = _whens(value, key, knobs)
    allowed = RANGE | {"values", "value", "when"}
    domains = [_parse_domain(name, item, (*key, index), knobs, allowed) for index, item in enumerate(value)]
    return tuple(Branch(*pair) for pair in zip(whens, domains, strict=True))


def _whens(items: list[Any], key: Key, knobs: Knobs) -> list[dict[str, Condition]]:
    """Read the conditions of each branch. Record a mistake for each branch that can never apply."""
    if not items:
        knobs.note(key, "is empty; list at least one branch, or leave it out")
    before = len(knobs.note)
    whens = [_when(item, (*key, index), knobs) for index, item in enumerate(items)]
    for index, when in enumerate(whens if len(knobs.note) == before else ()):
        if any(earlier.items() <= when.items() for earlier in whens[:index]):
            text = "is never reached: an earlier branch matches whenever it does; move it up or drop it"
            knobs.note((*key, index), text)
    return whens


def _when(item: Any, key: Key, knobs: Knobs) -> dict[str, Condition]:
    if not isinstance(item, dict) or "when" not in item:
        return {}
    conditions = item["when"]
    if not isinstance(conditions, dict) or not conditions:
        text = f"found {shown(conditions)}; name other parameters and their values, or leave `when` out"
        knobs.note((*key, "when"), text)
        return {}
    for name, condition in conditions.items():
        if knobs.has(name, (*key, "when", name)):
            _check_condition(name, condition, (*key, "when", name), knobs)
    return {
        name: tuple(map(literal_text, condition)) if isinstance(condition, list) else literal_text(condition)
        for name, condition in conditions.items()
    }


def _check_condition(name: str, condition: Any, key: Key, knobs: Knobs) -> None:
    """Record a mistake for what is no value, no glob and no comparison, and for an empty list."""
    if condition == []:
        knobs.note(key, "is empty; list at least one value, glob or comparison")
    listed = isinstance(condition, list)
    if listed and len(condition) > MAX_VALUES:
        knobs.note(key, TOO_LONG)
        return
    for place, one in (((*key, i), one) for i, one in enumerate(condition)) if listed else ((key, condition),):
        if one is None or isinstance(one, dict | list):
            more = "" if listed else ", or a list of these"
            knobs.note(place, f"found {shown(one)}; must be one value, glob or comparison{more}")
        elif isinstance(one, str) and (sign := COMPARISON.fullmatch(one)) and _lacks_number(name, one, knobs):
            knobs.note(place, f"found {shown(one)}; write a number after {sign[1]}, such as {sign[1]}2")


def _lacks_number(name: str, text: str, knobs: Knobs) -> bool:
    """Return True for the sign of a comparison without a number. The value of a text parameter may begin with one."""
    return comparison(text) is None and bool(knobs.names and knobs.number(name))


def _parse_domain(name: str, spec: dict[str, Any], key: Key, knobs: Knobs, allowed: set[str]) -> Domain:
    for extra in sorted(spec.keys() - allowed):
        in_list = f"`{extra}` stands in a list of branches only; write `- {{...}}`"
        knobs.note((*key, extra), in_list if extra in ("when", "value") else unknown_name("key", extra, allowed))
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
    low, high = (_range_end(name, end, spec, key, knobs) for end in ("min", "max"))
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


def _range_end(name: str, end: str, spec: dict[str, Any], key: Key, knobs: Knobs) -> Any:
    if end not in spec:
        knobs.note((*key, end), "is missing; a range needs min and max")
    elif not is_number(spec[end]):
        knobs.note((*key, end), f"found {shown(spec[end])}; must be a finite number")
    else:
        return knobs.accept(name, spec[end], (*key, end))
    return None


def _range_mistakes(low: float, high: float, log: bool, step: float | None) -> Iterator[tuple[str, str]]:
    if low == high:
        yield "max", f"min and max are both {literal_text(low)}; for a constant write the bare value"
    if low > high:
        yield "max", f"max {literal_text(high)} is below min {literal_text(low)}; swap them"
    if log and low <= 0:
        yield "min", f"found {literal_text(low)}; a logarithmic range begins above zero"
    if log and step is not None:
        yield "step", "a logarithmic range has no step; drop log or step"
    if step is not None and step <= 0:
        yield "step", f"found {literal_text(step)}; must be above zero"
    if step is not None and step > 0 and low < high and not _steps(low, high, step):
        yield "step", f"the step {literal_text(step)} leads beyond max; use at most {literal_text(high - low)}"


def is_number(value: Any) -> bool:
    """Return True for a finite int or float that is not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)

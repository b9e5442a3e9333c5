"""Change the budget of a sweep that is resumed without its file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sweeper.errors import ConfigError
from sweeper.space.document import plain_scalar
from sweeper.space.mistakes import Mistakes
from sweeper.space.sections import PLACES, Budget, duration, parse_duration, validated


def with_limits(budget: Budget, limits: Sequence[str]) -> Budget:
    """Return the budget with keys that are set as KEY=VALUE; `null` removes a limit.

    >>> with_limits(Budget(), ["gpu_hours=20"]).gpu_hours
    20

    Raises ConfigError with every mistake.
    """
    values, note = budget.model_dump(exclude_none=True), Mistakes(Path("resume"), {(): "--budget"})
    for limit in limits:
        key, equals, text = limit.partition("=")
        if not equals:
            raise ConfigError(f"--budget {limit}: is not KEY=VALUE; write for instance --budget gpu_hours=20")
        try:
            values[key.strip()] = plain_scalar(text.strip())
        except ValueError as error:
            raise ConfigError(f"--budget {limit}: {error}") from None
    changed = validated(Budget, values, (), note, PLACES)
    note.raise_any()
    assert changed is not None
    return changed


def with_time(budget: Budget, added: str, spent: float, say: Callable[[str], object]) -> Budget:
    """Return the budget with more time: `added` to its time, or to the seconds that are `spent` if it has none.

    Raises ConfigError if `added` is no time.
    """
    try:
        seconds = parse_duration(added)
    except ValueError as error:
        raise ConfigError(f"--time: {error}") from None
    time = (round(spent) if budget.time is None else budget.time) + seconds
    used = duration(round(spent)) or "nothing"
    say(f"--time: adds {duration(seconds)}; the sweep may run for {duration(time)} in all, of which {used} is spent")
    return budget.model_copy(update={"time": time})

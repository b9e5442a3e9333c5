"""Describe a sweep as text without running it: the space, the first configurations, the disk space it needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from sweeper.cluster.capacity import Machine, idle_budget_lines, memory_text, reservations
from sweeper.cluster.devices import Device
from sweeper.errors import ConfigError
from sweeper.forecast.disk import disk_bytes, disk_line
from sweeper.forecast.estimate import UNKNOWN, detailed_lines, first_configurations, forecast_line, sweep_forecast
from sweeper.forecast.forecast import Forecast
from sweeper.ledger.sampling.learning import Learned
from sweeper.monitor.progress import short_value
from sweeper.space.cases import idle_lines, list_cases, max_epochs
from sweeper.space.document import yaml_text
from sweeper.space.search_space import SearchSpace, searched_parameters
from sweeper.space.sections import MEDIAN_TRIALS, bracket_count


def plan_lines(space: SearchSpace, machine: Machine, first: int, learned: Learned | None = None) -> Iterator[str]:
    """Yield the lines of the plan: branches of the space, concurrent trials, first configurations, disk space."""
    search = space.search
    goal = f"{space.objective} ({space.direction})"
    yield f"{space.name}: {search.trials} trials of {space.job} on {space.data}, by {goal}"
    for number, case in enumerate(list_cases(space), 1):
        yield f"branch {number}"
        yield from (f"  {name}: {domain}" for name, domain in case.domains.items())
    yield from idle_lines(space)
    yield from idle_budget_lines(space, machine)
    yield from (f"trials: {share.why(machine)}" for share in reservations(space, machine))
    if not machine.nodes:
        yield f"memory: {memory_text()} for all trials that run at once"
    yield early_stopping_line(space)
    if space.repeats:
        seeds = ", ".join(map(str, space.repeats.seeds))
        yield f"repeats: then the best {space.repeats.top} again, with seeds {seeds}"
    if learned and learned.counts:
        yield learned.line()
    configurations = first_configurations(space, first, learned)
    if configurations:
        yield configurations_title(len(configurations), space.search.trials)
    shown = shown_parameters(space)
    yield from (f"  {' '.join(f'{name}={short_value(params[name])}' for name in shown)}" for params in configurations)
    yield disk_line(space, max(share.slots for share in reservations(space, machine)))


def forecast_lines(
    space: SearchSpace, machine: Machine, found: Forecast | None, price: float | None, devices: Sequence[Device]
) -> Iterator[str]:
    """Yield the lines of the forecast for this machine, then a line for each of the devices."""
    yield from detailed_lines(found) if found else [UNKNOWN]
    for device in devices:
        there = sweep_forecast(space, machine, None, price, device)
        yield f"on {device.name}: {forecast_line(there).removeprefix('forecast: ') if there else 'not known'}"


def plan_json(
    space: SearchSpace, machine: Machine, found: Forecast | None, price: float | None, devices: Sequence[Device]
) -> str:
    """Return the forecast as JSON text; its values are null if nothing is known."""
    disk = disk_bytes(space, max(share.slots for share in reservations(space, machine)))
    there = {device.name: sweep_forecast(space, machine, None, price, device) for device in devices}
    values = {
        "name": space.name,
        "trials": space.search.trials,
        **(found.values() if found else dict.fromkeys(("wall_s", "gpu_hours", "cost", "source"))),
        "disk_bytes": disk and asdict(disk),
        "devices": {name: one and one.values() for name, one in there.items()},
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def save_configurations(space: SearchSpace, count: int, file: Path, learned: Learned | None = None) -> None:
    """Write the first configurations as YAML, an `enqueue` list for a search space.

    Raises ConfigError if the file exists or cannot be written.
    """
    shown = shown_parameters(space)
    entries = [{name: params[name] for name in shown} for params in first_configurations(space, count, learned)]
    try:
        with file.open("x", encoding="utf-8") as written:
            written.write(yaml_text({"enqueue": entries}))
    except FileExistsError:
        raise ConfigError(f"{file}: exists; name a new file for --save") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror}); name another file for --save") from None


def shown_parameters(space: SearchSpace) -> list[str]:
    """Return the parameters by which the configurations of a space differ."""
    enqueued = (name for settings in space.search.enqueue for name in settings)
    return list(dict.fromkeys([*searched_parameters(space), *enqueued]))


def configurations_title(shown: int, trials: int) -> str:
    """Return the line above the first configurations of a sweep of `trials` trials.

    >>> configurations_title(5, 8)
    'first 5 configurations'
    """
    if shown == 1:
        return "the configuration" if trials == 1 else "first configuration"
    return f"first {shown} configurations"


def early_stopping_line(space: SearchSpace) -> str:
    rule = space.early_stopping
    if rule is None:
        return "early stopping: none"
    if rule.grace_period >= max_epochs(space):
        most = f"no trial has more than {max_epochs(space)} epochs"
        return f"early stopping: has no effect: grace_period is {rule.grace_period}, and {most}"
    if rule.scheduler == "median":
        return (
            f"early stopping: median, from epoch {rule.grace_period} on trials below the median of at least "
            f"{MEDIAN_TRIALS} others end"
        )
    brackets = bracket_count(rule, max_epochs(space))
    first = [f"{rule.grace_period * rule.reduction_factor**nth}" for nth in range(brackets)]
    when = f"{first[0]} epochs" if brackets == 1 else f"{', '.join(first[:-1])} or {first[-1]} epochs, by its bracket,"
    return f"early stopping: {rule.scheduler}, after {when} the best 1/{rule.reduction_factor:g} go on"

"""Forecast a search space on this machine or on a GPU that is named, with what the ledger knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jobs.dataset.data import read_data
from jobs.suggestions import unknown_name
from jobs.training.precision import Hardware
from sweeper.budget.spending import HOUR_SECONDS
from sweeper.cluster.capacity import Machine, reservations
from sweeper.cluster.devices import DEVICES, Device, find_device
from sweeper.cluster.gpus import hardware, survey_gpus
from sweeper.errors import ConfigError
from sweeper.forecast.forecast import Expected, Forecast, forecast
from sweeper.forecast.probing import with_probes
from sweeper.forecast.sources import Calculation, experience
from sweeper.ledger.database import LedgerStorage, open_storage
from sweeper.ledger.ledger import create_ledger, load_ledger, sweep_names
from sweeper.ledger.sampling.learning import Learned
from sweeper.space.search_space import SearchSpace

MOST_CONFIGURATIONS = 30  # drawn for a forecast; they stand for all trials
UNKNOWN = "forecast: not known; no earlier trial of this job and data has run here, and its time cannot be calculated"


def first_configurations(space: SearchSpace, count: int, learned: Learned | None = None) -> list[dict[str, Any]]:
    """Return the parameters of the first trials, drawn before any result has influenced the sampler."""
    ledger = create_ledger(open_storage("sqlite:///:memory:"), space, space.name, learned=learned or Learned())
    records = iter(partial(ledger.ask, space), None)
    return [
        dict(record.params) for record, _ in zip(records, range(min(count, space.search.trials or count)), strict=False)
    ]


def sweep_forecast(
    space: SearchSpace,
    machine: Machine,
    storage: LedgerStorage | None,
    price: float | None = None,
    device: Device | None = None,
    root: Path | None = None,
    say: Callable[[str], object] | None = None,
) -> Forecast | None:
    """Return the forecast of a sweep; None if nothing tells how long its trials take.

    storage  ledger with earlier trials; None to use none
    price    of an hour of a GPU, or of a trial without one; None for that of the space's budget
    device   GPU to forecast for, one for each trial; None for this machine
    root     folder with what was measured here before; None to use nothing of it
    say      shows what is measured now, in `root`; None to measure nothing
    """
    if device:
        machine = replace(machine, gpus=max(1, machine.gpus))
    configurations = first_configurations(space, MOST_CONFIGURATIONS)
    place = Hardware("cuda", device.name, device.capability) if device else _trial_hardware(space, machine)
    calculation = Calculation(space, machine, read_data(space.data), device or find_device(place.name), place)
    ledgers = [load_ledger(storage, name) for name in sweep_names(storage)] if storage and not device else []
    known = experience(calculation, ledgers)
    if root and not device:
        known = with_probes(known, configurations, root, say)
    seconds = [found for params in configurations if (found := known.seconds(params))]
    if not seconds or len(seconds) < len(configurations):
        return None
    return forecast(space, machine, configurations, seconds, known.source(configurations), price or space.budget.price)


def _trial_hardware(space: SearchSpace, machine: Machine) -> Hardware:
    """Return the GPU of this machine if trials of the space reserve one, else its CPUs."""
    usable = survey_gpus().usable if any(one.gpus for one in reservations(space, machine)) else ()
    return hardware(usable[0], survey_gpus()) if usable else Hardware()


def named_device(name: str) -> Device:
    """Return the device of this name. Raises ConfigError, which suggests the nearest name, if it is not known."""
    if found := find_device(name):
        return found
    raise ConfigError(unknown_name("device", name, [known for one in DEVICES for known in (one.name, *one.aliases)]))


def detailed_lines(found: Forecast) -> Iterator[str]:
    """Yield a forecast as lines of text, with the branches and early stopping."""
    yield forecast_line(found)
    for number, seconds in enumerate(found.trial_s, 1):
        yield f"  a whole trial of branch {number}: {_spread_text(seconds)}"
    if len(found.at_rung) > 1:
        counts = (f"epoch {epoch}: {_count_text(count)}" for epoch, count in found.at_rung.items())
        yield f"  trials that reach {', '.join(counts)}"


def forecast_line(found: Forecast) -> str:
    """Return a forecast as one line: time, GPU-hours and cost, each with its range, a limit that ends it, source."""
    hours = found.gpu_hours
    gpu = [f"{hours.expected:.1f} GPU-hours ({hours.low:.1f} to {hours.high:.1f})"] if hours.expected else []
    cost = [f"cost {found.cost.expected:,.2f} ({found.cost.low:,.2f} to {found.cost.high:,.2f})"] if found.cost else []
    ended = [f"budget.{found.ended_by} ends it before its last trial"] if found.ended_by else []
    return "; ".join([f"forecast: {_spread_text(found.wall_s)}", *gpu, *cost, *ended, f"from {found.source}"])


def _spread_text(seconds: Expected) -> str:
    return f"{time_text(seconds.expected)} ({time_text(seconds.low)} to {time_text(seconds.high)})"


def _count_text(count: Expected) -> str:
    low, middle, high = (round(value) for value in (count.low, count.expected, count.high))
    return f"{middle}" if low == high else f"{middle} ({low} to {high})"


def time_text(seconds: float) -> str:
    """Return a time in a unit that suits it.

    >>> time_text(50), time_text(600), time_text(9000)
    ('50 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 1.5 * HOUR_SECONDS else f"{seconds / HOUR_SECONDS:.1f} h"

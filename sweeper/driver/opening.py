"""Open the ledger of a sweep: create it, resume it, or extend an earlier one."""

from __future__ import annotations

import platform
from collections.abc import Collection
from dataclasses import replace
from importlib.metadata import version
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage

from sweeper.driver.sweep import trial_folder
from sweeper.driver.sweep import trial_storage as storage_of
from sweeper.errors import ConfigError, DataFailure
from sweeper.ledger.ledger import Ledger, begun, create_ledger, load_ledger
from sweeper.space.reading import present_fingerprint, restored
from sweeper.space.search_space import SearchSpace, resolved

PACKAGES = ("sweeper", "torch", "transformers", "ray", "optuna", "mlflow")
MAY_CHANGE = ("search.trials", "keep.checkpoints", "repeats", "budget", "resources")  # may differ when a sweep goes on


def space_of(ledger: Ledger) -> SearchSpace:
    """The search space that a sweep was created with, without a look at its data."""
    attributes = ledger.attributes
    if "search_space" not in attributes:
        raise ConfigError(f"sweep {ledger.name}: was cut short before it began; run its file again")
    return restored(attributes["search_space"], attributes["data_fingerprint"], f"sweep {ledger.name}")


def resumed_space(ledger: Ledger, trials: int | None = None) -> SearchSpace:
    """The search space to go on with, over the data as it is now, perhaps with more trials.

    Raises DataFailure when the data is gone or no longer the same.
    """
    space = space_of(ledger)
    check_data(ledger, present_fingerprint(space, f"sweep {ledger.name}"))
    search = space.search.model_copy(update={"trials": trials}) if trials else space.search
    return replace(space, search=search)


def check_data(ledger: Ledger, present: str) -> None:
    """Raises DataFailure when a sweep's data has changed: old and new trials could not be compared."""
    if (before := ledger.attributes["data_fingerprint"]) != present:
        place = ledger.attributes["data"]
        raise DataFailure(
            f"sweep {ledger.name}: {place} has changed since, its fingerprint was {before} and is {present}; "
            "put the data back, or run the search space under another name"
        )


def sweep_to_extend(storage: RDBStorage, space: SearchSpace, taken: Collection[str]) -> Ledger:
    """The newest sweep of this space's name, which `--extend` goes on from or takes trials from.

    Raises ConfigError when there is none, or it is of another job; DataFailure when it had other data.
    """
    numbered = takewhile(taken.__contains__, (numbered_name(space.name, number) for number in count(1)))
    ledger = load_ledger(storage, [space.name, *numbered][-1])
    check_data(ledger, space.data_fingerprint)
    if ledger.attributes["job"] != space.job:
        raise ConfigError(f"sweep {ledger.name}: is of job {ledger.attributes['job']}, not {space.job}; use --new")
    return ledger


def sweep_name(space: SearchSpace, taken: Collection[str], new: bool, extended: Ledger | None) -> str:
    """What the sweep is called: as its space, as the one it goes on with, or by the next free name."""
    if extended and not space_differences(extended.attributes["search_space"], resolved(space)):
        return extended.name
    return free_name(space.name, taken) if new or extended else space.name


def create_extended(
    extended: Ledger, storage: RDBStorage, space: SearchSpace, folder: Path, checkpoints: str | None = None
) -> None:
    """Create the ledger of the sweep in `folder`, with the trials of `extended` that it would draw too."""
    from sweeper.driver.extending import imported_trials

    trials = imported_trials(
        extended,
        space,
        lambda number: trial_folder(folder, number),
        lambda number: storage_of(checkpoints, folder.name, number),
    )
    create_ledger(storage, space, folder.name, sweep_versions(), trials)


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, or the first of name-2, name-3, … that no sweep has."""
    return next(name for name in (numbered_name(name, number) for number in count(1)) if name not in taken)


def numbered_name(name: str, number: int) -> str:
    return f"{name}-{number}" if number > 1 else name


def open_ledger(storage: RDBStorage, space: SearchSpace, name: str) -> Ledger:
    """The sweep's ledger, new or as it was left, for a space that may differ in what `space_differences` allows."""
    if not begun(storage, name):
        return create_ledger(storage, space, name, sweep_versions())
    ledger = load_ledger(storage, name)
    if changes := space_differences(ledger.attributes["search_space"], resolved(space)):
        cure = "add --extend to take its trials along, --new to run beside it, or name=… for another name"
        raise ConfigError(
            [
                f"sweep {name}: exists with another search space; {cure}",
                *(f"  {change}" for change in changes),
            ]
        )
    check_data(ledger, space.data_fingerprint)
    ledger.extend(space)
    ledger.mend(space)
    return ledger


def space_differences(before: Any, now: Any, key: str = "") -> list[str]:
    """Where two search spaces differ, a line each, but for what changes no trial."""
    if key in MAY_CHANGE:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        names = list(dict.fromkeys([*before, *now]))
        return [
            line
            for name in names
            for line in space_differences(before.get(name), now.get(name), f"{key}.{name}".lstrip("."))
        ]
    return [] if before == now else [f"{key}: was {before}, is {now}"]


def sweep_versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}

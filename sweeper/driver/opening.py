"""Open the ledger of a sweep: create it, resume it, or extend an earlier one."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, replace
from importlib.metadata import version
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any

from jobs import get_job
from jobs.job import STANDS_FOR
from sweeper.budget.changes import with_limits, with_time
from sweeper.budget.spending import spending_of
from sweeper.driver.sweep import CREATING, set_aside, trial_folder, trial_storage
from sweeper.errors import ConfigError, DataFailure
from sweeper.ledger.database import LedgerStorage
from sweeper.ledger.ledger import PRECISION, Ledger, create_ledger, load_ledger, sweep_exists
from sweeper.space.domains import Branch, Constant
from sweeper.space.reading import present_fingerprint, restored
from sweeper.space.search_space import SearchSpace, memory_only, resolved

PACKAGES = ("sweeper", "torch", "transformers", "ray", "optuna", "mlflow")
# keys that may differ when a sweep is resumed
MAY_CHANGE = ("search.trials", "keep.checkpoints", "repeats", "budget", "resources", "reference", "notify")


def space_of(ledger: Ledger) -> SearchSpace:
    """Return the search space with which a sweep was created, without reading its data."""
    attributes = ledger.attributes
    if "search_space" not in attributes:
        raise ConfigError(f"sweep {ledger.name}: its creation was interrupted; run its file again")
    return restored(attributes["search_space"], attributes["data_fingerprint"], f"sweep {ledger.name}")


def resumed_space(
    ledger: Ledger,
    trials: int | None = None,
    added: str | None = None,
    limits: Sequence[str] = (),
    say: Callable[[str], object] = print,
) -> SearchSpace:
    """Return the search space to resume a sweep with; `trials` replaces the number of trials.

    added   time to add to the sweep's budget, such as "2h"; `say` receives what that makes in all
    limits  keys of the budget to set, each as KEY=VALUE

    Raises ConfigError for a mistake in `added` or `limits`, DataFailure when the data is missing or has changed.
    """
    space = space_of(ledger)
    budget = with_limits(space.budget, limits)
    if added is not None:
        spent = spending_of(ledger.latest_attributes(), ()).seconds
        budget = with_time(budget, added, spent, say)
    space = replace(space, budget=budget)
    check_data(ledger, present_fingerprint(space, f"sweep {ledger.name}", space.data_fingerprint))
    search = space.search.model_copy(update={"trials": trials}) if trials else space.search
    return replace(space, search=search)


def with_recorded_data(ledger: Ledger, space: SearchSpace) -> SearchSpace:
    """Return the space with the data's fingerprint as the sweep has recorded it, perhaps by an earlier definition.

    The keys of the sweep's trials hold this fingerprint. Raises DataFailure when the data has changed.
    """
    recorded = str(ledger.attributes["data_fingerprint"])
    if space.data_fingerprint != recorded:
        check_data(ledger, present_fingerprint(space, f"sweep {ledger.name}", recorded))
    return replace(space, data_fingerprint=recorded)


def with_recorded_precision(ledger: Ledger, space: SearchSpace) -> SearchSpace:
    """Return the space in which new trials have the precision of the sweep's earlier ones, and conditions hold as then.

    Earlier versions trained in fp32 if the file named no precision; they knew `bf16` only. Other defaults that have
    changed since keep their earlier value if a condition names them.
    """
    if PRECISION in ledger.attributes or "precision" in space.parameters:
        return space
    earlier = {one.name: one.metadata.get(STANDS_FOR) for one in fields(get_job(space.job).params)}
    branches = list(chain.from_iterable(space.parameters.values()))
    named = {"bf16"}.union(*(one.when for one in branches), *(one.when for one in space.resources))
    last = {k: (Branch({}, Constant(value)),) for k, value in earlier.items() if value is not None and k in named}
    decided = {name for name, found in space.parameters.items() if any(not branch.when for branch in found)}
    added = {name: branch for name, branch in last.items() if name not in decided}
    own = {name: (*found, *added.pop(name, ())) for name, found in space.parameters.items()}
    return replace(space, parameters={**added, **own})


def check_data(ledger: Ledger, present: str) -> None:
    """Raise DataFailure when a sweep's data has changed, since old and new trials would not be comparable."""
    if (before := ledger.attributes["data_fingerprint"]) != present:
        place = ledger.attributes["data"]
        raise DataFailure(
            f"sweep {ledger.name}: {place} has changed; its fingerprint was {before} and is now {present}; "
            "restore the data, or run the search space under another name"
        )


def sweep_to_extend(storage: LedgerStorage, space: SearchSpace, taken: Collection[str]) -> Ledger:
    """Return the ledger of the newest sweep with this space's name, for `--extend`.

    Raises ConfigError when there is no such sweep or its job differs, DataFailure when its data differs.
    """
    numbered = takewhile(taken.__contains__, (numbered_name(space.name, number) for number in count(1)))
    ledger = load_ledger(storage, [space.name, *numbered][-1])
    with_recorded_data(ledger, space)
    if ledger.attributes["job"] != space.job:
        raise ConfigError(f"sweep {ledger.name}: has job {ledger.attributes['job']}, not {space.job}; use --new")
    return ledger


def sweep_name(space: SearchSpace, taken: Collection[str], new: bool, extended: Ledger | None) -> str:
    """Return the name of the sweep to run: the space's name, or the next free name with `new` or `extended`.

    Returns the name of `extended` if its space has no differences that change trials.
    """
    if extended and not space_differences(*comparable_spaces(extended, space)):
        return extended.name
    return free_name(space.name, taken) if new or extended else space.name


def create_extended(
    extended: Ledger,
    storage: LedgerStorage,
    space: SearchSpace,
    folder: Path,
    checkpoints: str | None = None,
    stored_as: str | None = None,
) -> str:
    """Create the ledger of the sweep in `folder` with the trials of `extended` that the new space could also draw.

    Return one line about the trials that fit.
    """
    from sweeper.driver.extending import extension_line, imported_trials

    stored_as = stored_as or folder.name
    (folder / CREATING).write_text(stored_as)
    trials = imported_trials(
        extended,
        space,
        lambda number: trial_folder(folder, number),
        lambda number: trial_storage(checkpoints, stored_as, number),
    )
    create_ledger(storage, space, folder.name, sweep_versions(), trials, stored_as)
    (folder / CREATING).unlink()
    return extension_line(extended, space)


def free_name(name: str, taken: Collection[str]) -> str:
    """Return `name`, or the first of name-2, name-3, … that no sweep has."""
    return next(name for name in (numbered_name(name, number) for number in count(1)) if name not in taken)


def numbered_name(name: str, number: int) -> str:
    return f"{name}-{number}" if number > 1 else name


def open_ledger(storage: LedgerStorage, space: SearchSpace, name: str, stored_as: str | None = None) -> Ledger:
    """Create the sweep's ledger, or open the existing one.

    `stored_as` is the name from `free_storage` for a new sweep.
    Raises ConfigError if `space` and the stored search space differ, DataFailure if the data differs.
    """
    if not sweep_exists(storage, name):
        return create_ledger(storage, space, name, sweep_versions(), stored_as=stored_as)
    ledger = load_ledger(storage, name)
    if changes := space_differences(*comparable_spaces(ledger, space)):
        cure = "add --extend to copy its trials, --new to start a new sweep, or name=… for another name"
        raise ConfigError(
            [
                f"sweep {name}: exists with another search space; {cure}",
                *(f"  {change}" for change in changes),
            ]
        )
    space = with_recorded_data(ledger, space)
    ledger.extend(space)
    ledger.repair(space)
    return ledger


def set_aside_line(folder: Path, ledger: Ledger | None) -> str | None:
    """Set trials aside that the ledger of a sweep does not know. Return one line about it, None if there are none.

    `ledger` is None before the sweep is created.
    """
    known = None if ledger is None else {trial.number for trial in ledger.study.get_trials(deepcopy=False)}
    aside = set_aside(folder, known)
    return f"{folder.name}: the ledger does not know the trials in {folder}; they are now in {aside}" if aside else None


def comparable_spaces(ledger: Ledger, space: SearchSpace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the stored search space and `space` as plain values, without what may differ anywhere.

    Equal data counts as the same, wherever it is. Constants that change memory and time only are left out.
    """
    now = resolved(space)
    same = ledger.attributes["data_fingerprint"] == space.data_fingerprint
    before = {**ledger.attributes["search_space"], **({"data": now["data"]} if same else {})}
    free = memory_only(space) & memory_only(space_of(ledger)) if before["job"] == space.job else set()
    return _without_parameters(before, free), _without_parameters(now, free)


def _without_parameters(space: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {**space, "parameters": {k: v for k, v in space["parameters"].items() if k not in names}}


def space_differences(before: Any, now: Any, key: str = "") -> list[str]:
    """Return one line for each difference between two search spaces that changes trials. Keys in MAY_CHANGE are
    ignored."""
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

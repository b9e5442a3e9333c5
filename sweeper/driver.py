"""Runs one sweep, from a search space to its table: folder, lock, ledger, mirror, trials, in this order."""

from __future__ import annotations

import os
import platform
import shutil
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import chain, count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from optuna.storages import RDBStorage
from rich.console import Console

from jobs import get_job
from jobs.checkpoint import PREDICTIONS
from sweeper import comparison
from sweeper.capacity import Machine, shares
from sweeper.confirmation import expected, leaders
from sweeper.continuation import anything_left, outlook
from sweeper.errors import ConfigError, DataFailure, EnvironmentFailure
from sweeper.interrupt import Interrupt
from sweeper.ledger import (
    Ledger,
    TrialRecord,
    begun,
    create_ledger,
    load_ledger,
    open_storage,
    reachable,
    sweep_names,
)
from sweeper.progress import Progress
from sweeper.results import results
from sweeper.retention import disposable
from sweeper.search_space import SearchSpace, backbones, present_fingerprint, resolved, restored, to_yaml
from sweeper.search_space import searched as searched_parameters
from sweeper.stores import Stores
from sweeper.sweep import Sweep
from sweeper.tracking import Mirror, SweepInfo, check
from sweeper.trial import output_to

PACKAGES = ("sweeper", "torch", "transformers", "ray", "optuna", "mlflow")
FLUSH_SECONDS = 60.0
HURRY_SECONDS = 8.0  # what MLflow gets of the half minute that an interrupt may take


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `interrupted`: trials are left that the next run goes on with. `page`: where MLflow
    shows the sweep, once `sweeper ui` runs."""

    name: str
    records: list[TrialRecord]
    interrupted: bool
    mirror_failure: str | None
    page: str | None

    @property
    def good(self) -> bool:
        return any(record.value is not None and record.state != "FAIL" for record in self.records)


def prepare(space: SearchSpace, machine: Machine, stores: Stores) -> None:
    """Everything that can be refused before something is created: devices, backbones, the tracking store.

    Raises EnvironmentFailure with every backbone that cannot be had.
    """
    shares(space, machine)
    fetch = get_job(space.job).fetch
    mistakes = []
    for name in backbones(space):
        try:
            fetch(name)
        except RuntimeError as error:
            mistakes.append(f"backbone {error}")
    if mistakes:
        raise EnvironmentFailure(mistakes)
    check(stores)


def run_sweep(
    space: SearchSpace,
    stores: Stores,
    machine: Machine,
    console: Console,
    interrupt: Interrupt,
    name: str | None = None,
    new: bool = False,
) -> Outcome:
    """Run what is left of the sweep called `name`, by default as its space, which may be all, some, or nothing.

    `console` shows progress; all that libraries print goes to log.txt in the sweep's folder. `new` starts
    another sweep beside one that exists, under the next free name. `interrupt` stops it in good order.

    Raises ConfigError if a sweep of this name has another search space, DataFailure if its data has changed
    since, EnvironmentFailure if another process runs it.
    """
    prepare(space, machine, stores)
    storage = open_storage(stores.ledger)
    name = name or (free_name(space.name, sweep_names(storage)) if new else space.name)
    folder = stores.root / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with owned(folder), reachable(stores.ledger):
        ledger = open_ledger(storage, space, name)
        (folder / "search_space.yaml").write_text(to_yaml(space), encoding="utf-8")
        if records := ledger.records():
            console.print(outlook(records, space), markup=False, soft_wrap=True)
        return _run(Sweep(ledger, space, folder, machine), stores, console, interrupt)


def space_of(ledger: Ledger) -> SearchSpace:
    """The search space that a sweep was created with, without a look at its data."""
    attributes = ledger.attributes
    if "search_space" not in attributes:
        raise ConfigError(f"sweep {ledger.name}: was cut short before it began; run its file again")
    return restored(attributes["search_space"], attributes["data_fingerprint"], f"sweep {ledger.name}")


def resumed(ledger: Ledger, trials: int | None = None) -> SearchSpace:
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


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, or the first of name-2, name-3, … that no sweep has."""
    candidates = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def open_ledger(storage: RDBStorage, space: SearchSpace, name: str) -> Ledger:
    """The sweep's ledger, new or as it was left, for a space that may differ in what `differences` allows."""
    if not begun(storage, name):
        return create_ledger(storage, space, name, versions())
    ledger = load_ledger(storage, name)
    if changes := differences(ledger.attributes["search_space"], resolved(space)):
        cure = "add --new to run beside it, or name=… for another name"
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


def differences(before: Any, now: Any, key: str = "") -> list[str]:
    """Where two search spaces differ, a line each. How many trials are asked for, what is kept and which finalists
    are repeated may differ: none of it changes what a trial is."""
    if key in ("search.trials", "keep.checkpoints", "repeats"):
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        names = list(dict.fromkeys([*before, *now]))
        return [
            line for name in names for line in differences(before.get(name), now.get(name), f"{key}.{name}".lstrip("."))
        ]
    return [] if before == now else [f"{key}: was {before}, is {now}"]


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Nobody else runs this sweep meanwhile; the kernel frees the lock when the process dies."""
    owner = folder / "owner"
    try:
        with FileLock(folder / "lock", timeout=0):
            owner.write_text(str(os.getpid()))
            yield
            owner.unlink(missing_ok=True)
    except Timeout:
        pid = owner.read_text() if owner.exists() else "unknown"
        raise EnvironmentFailure(f"sweep {folder.name}: process {pid} is running it; wait for it or stop it") from None


def _run(sweep: Sweep, stores: Stores, console: Console, interrupt: Interrupt) -> Outcome:
    ledger, space = sweep.ledger, sweep.space
    names = searched_parameters(space)
    progress = Progress(console, space.objective, space.direction, expected(space), names)
    with output_to(sweep.log), mirror_of(ledger, space, stores) as mirror, progress:
        with interrupt.held():
            run_unfinished(sweep, Listeners(sweep, mirror, progress), interrupt)
        records = finish(ledger, mirror, in_a_hurry=interrupt.asked is not None)
    return outcome_of(ledger, records, mirror, stores)


def outcome_of(ledger: Ledger, records: list[TrialRecord], mirror: Mirror, stores: Stores) -> Outcome:
    page = f"{stores.address}/{mirror.page}" if mirror.page else None
    interrupted = any(record.state == "RUNNING" for record in records)
    return Outcome(ledger.name, records, interrupted, mirror.failure, page)


def mirror_of(ledger: Ledger, space: SearchSpace, stores: Stores, patience: float = FLUSH_SECONDS) -> Mirror:
    """What shows the sweep in MLflow; everything it says of it is in the ledger."""
    info = SweepInfo(
        name=ledger.name,
        key=f"{stores.root.absolute()}/{ledger.name}",
        objective=space.objective,
        direction=space.direction,
        columns=searched_parameters(space),
        tags={"data": space.data, "data_fingerprint": space.data_fingerprint, **ledger.attributes["versions"]},
        texts={"search_space.yaml": to_yaml(space)},
    )
    experiment = ledger.attributes["search_space"]["name"]
    return Mirror(stores.tracking, stores.artifacts, experiment, info, patience, HURRY_SECONDS)


def sync(ledger: Ledger, stores: Stores) -> Outcome:
    """Make MLflow agree with the ledger: what it lacks is written, what it has is left, nothing is there twice.

    Raises EnvironmentFailure when MLflow does not answer, or a process runs the sweep and so does this itself.
    """
    space = space_of(ledger)
    folder = stores.root / ledger.name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with owned(folder), reachable(stores.ledger):
        check(stores)
        with output_to(folder / "log.txt"), mirror_of(ledger, space, stores) as mirror:
            for record in ledger.records():
                keep_predictions(record)
                mirror.put(snapshot(record, ledger))
            records = finish(ledger, mirror)
        return outcome_of(ledger, records, mirror, stores)


@dataclass(frozen=True)
class Listeners:
    """Who is told when the ledger has changed. The ledger has it already, so that nothing here can lose it."""

    sweep: Sweep
    mirror: Mirror
    progress: Progress

    def __call__(self, record: TrialRecord) -> None:
        self.progress.update(record)
        keep_predictions(record)
        self.mirror.put(snapshot(record, self.sweep.ledger))
        records, space = self.sweep.ledger.records(), self.sweep.space
        finalists = space.repeats.top if space.repeats else 0  # their means are not known yet, so all stay
        for checkpoint in disposable(records, space.direction, max(space.keep.checkpoints, finalists)):
            shutil.rmtree(checkpoint, ignore_errors=True)


def run_unfinished(sweep: Sweep, listeners: Listeners, interrupt: Interrupt) -> None:
    """Train what is left; a finished sweep does not even start Ray."""
    records = sweep.ledger.records()
    for record in records:
        listeners(record)
    if anything_left(records, sweep.space):
        from sweeper.tuning import run_trials

        run_trials(sweep, listeners, interrupt)


def keep_predictions(record: TrialRecord) -> None:
    """Beside the checkpoints, since the mirror comes later and most checkpoints do not stay."""
    best = Path(record.checkpoint or "") / PREDICTIONS
    if record.state != "RUNNING" and record.checkpoint and best.is_file():
        shutil.copyfile(best, best.parents[1] / PREDICTIONS)


def snapshot(record: TrialRecord, ledger: Ledger) -> dict[str, Any]:
    """A trial as the mirror takes it, a repeat below the one it repeats. The answers of the best evaluation go
    along once it has ended."""
    again = record.repeat_of is not None
    predictions = Path(record.checkpoint or "").parent / PREDICTIONS
    ended = record.state != "RUNNING" and record.checkpoint is not None and predictions.is_file()
    return {
        **asdict(record),
        "name": f"trial {record.repeat_of}, seed {record.params['seed']}" if again else f"trial {record.number}",
        "parent": ledger.record(record.repeat_of).key if record.repeat_of is not None else None,
        "evaluations": [{k: v for k, v in e.items() if k != "checkpoint"} for e in record.evaluations],
        "artifacts": [predictions] if ended else [],
    }


def finish(ledger: Ledger, mirror: Mirror, in_a_hurry: bool = False) -> list[TrialRecord]:
    """Close the parent run with the table, the plots and the page, and note in the ledger which run shows which
    trial. A trial that waits to go on is shown as stopped. `in_a_hurry` leaves plots and page for later."""
    records = ledger.records()
    for record in records:
        if record.state == "RUNNING":
            mirror.put({**snapshot(record, ledger), "state": "STOPPED"})
    interrupted = any(record.state == "RUNNING" for record in records)
    best = {f"best_{ledger.objective}": one.value or 0.0 for one in leaders(records, ledger.direction)[:1]}
    texts = tables(ledger) if in_a_hurry else pages(ledger)
    mirror.finish("STOPPED" if interrupted or in_a_hurry else "COMPLETE", texts, best)
    mirror.flush(HURRY_SECONDS if in_a_hurry else FLUSH_SECONDS)
    for record in records:
        if record.key in mirror.run_ids:
            ledger.set_run(record.number, mirror.run_ids[record.key])
    return ledger.records()


def tables(ledger: Ledger) -> dict[str, str]:
    """What is to be read, by file name."""
    table, objective = comparison.rows(ledger.records(), ledger.direction), ledger.objective
    return {
        "comparison.md": comparison.markdown(table, objective),
        "comparison.csv": comparison.csv_text(table, objective),
    }


def pages(ledger: Ledger) -> dict[str, str]:
    """The tables, and what is to be looked at. A plot that fails is no reason to end without them."""
    texts = tables(ledger)
    try:
        from sweeper import plots, report

        drawn = plots.artifacts(plots.figures(results(ledger)))
        return texts | drawn | {"report.html": report.html(ledger)}
    except Exception:
        traceback.print_exc()
        return texts


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}

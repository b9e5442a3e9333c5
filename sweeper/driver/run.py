"""Runs one sweep, from a search space to its table: folder, lock, ledger, mirror, trials, in this order."""

from __future__ import annotations

import platform
import traceback
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage
from rich.console import Console

from jobs import faults, get_job
from jobs.checkpoint import PREDICTIONS
from sweeper.cluster.capacity import Machine, shares
from sweeper.driver.checkpoints import anything_left, outlook
from sweeper.driver.repeats import expected, leaders
from sweeper.driver.sweep import Sweep, own_folder, workdir
from sweeper.driver.sweep import storage as storage_of
from sweeper.errors import ConfigError, DataFailure, EnvironmentFailure
from sweeper.ledger.database import open_storage, reachable
from sweeper.ledger.ledger import Ledger, TrialRecord, begun, create_ledger, load_ledger, ready, sweep_names
from sweeper.ledger.lock import owned
from sweeper.monitor.heartbeat import watched
from sweeper.monitor.progress import Progress
from sweeper.process.signals import Interrupt
from sweeper.results import comparison
from sweeper.results.overview import results
from sweeper.retention import delete, delete_copies, disposable, needy
from sweeper.space.search_space import SearchSpace, backbones, present_fingerprint, resolved, restored, to_yaml
from sweeper.space.search_space import searched as searched_parameters
from sweeper.storage import checkpoints as depot
from sweeper.storage.settings import Stores, create_folder
from sweeper.tracking.client import check
from sweeper.tracking.mirror import Mirror
from sweeper.tracking.runs import SweepInfo
from sweeper.trial.process import output_to

PACKAGES = ("sweeper", "torch", "transformers", "ray", "optuna", "mlflow")
FREE = ("search.trials", "keep.checkpoints", "repeats", "budget", "resources")  # may differ when a sweep goes on
FLUSH_SECONDS = 60.0
BESIDE = ("checkpoint", "timing")  # of an evaluation, what is no metric
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

    @property
    def first_cause(self) -> str | None:
        """Why the first trial failed that did, where none is good."""
        first = next((record for record in self.records if record.state == "FAIL"), None)
        if self.good or first is None:
            return None
        return f"{self.name}: no trial ended well; trial {first.number} was the first to fail: {first.reason}"


def prepare(space: SearchSpace, machine: Machine, stores: Stores) -> None:
    """Everything that can be refused before something is created: devices, backbones, the tracking store.

    Raises EnvironmentFailure with every backbone that cannot be had, ConfigError for parameters that do not fit one.
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
    restored(resolved(space), space.data_fingerprint, space.name)  # again, as now the backbones' limits are known
    check(stores)
    if stores.checkpoints:
        depot.check(stores.checkpoints)


def run_sweep(
    space: SearchSpace,
    stores: Stores,
    machine: Machine,
    console: Console,
    interrupt: Interrupt,
    name: str | None = None,
    new: bool = False,
    extend: bool = False,
    begin: Callable[[Path], object] | None = None,
) -> Outcome:
    """Run what is left of the sweep called `name`, by default as its space, which may be all, some, or nothing.

    `console` shows progress; all that libraries print goes to log.txt in the sweep's folder. `new` starts
    another sweep beside one that exists, under the next free name; `extend` does so too when the search space has
    changed, and the new sweep begins with those trials of the old one that it would draw too. `interrupt` stops it
    in good order. `begin` is called with the sweep's folder once nothing is left that would be refused.

    Raises ConfigError if a sweep of this name has another search space, DataFailure if its data has changed
    since, EnvironmentFailure if another process runs it, here or, with a PostgreSQL ledger, anywhere.
    """
    prepare(space, machine, stores)
    storage = open_storage(stores.ledger)
    taken = [name for name in sweep_names(storage) if ready(storage, name)] if new or extend else []
    extended = extended_by(storage, space, taken) if extend else None
    name = name or named(space, taken, new, extended)
    folder = own_folder(stores.root, name)
    with owned(folder, stores.ledger, interrupt.halt), reachable(stores.ledger):
        if extended and extended.name != name and not begun(storage, name):
            adopt(extended, storage, space, folder, stores.checkpoints)
        ledger = open_ledger(storage, space, name)
        (folder / "search_space.yaml").write_text(to_yaml(space), encoding="utf-8")
        if records := ledger.records():
            console.print(outlook(records, space), markup=False, soft_wrap=True)
        if begin:
            begin(folder)
        with watched(ledger, interrupt):
            return _run(Sweep(ledger, space, folder, machine, stores.checkpoints), stores, console, interrupt)


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


def extended_by(storage: RDBStorage, space: SearchSpace, taken: Collection[str]) -> Ledger:
    """The newest sweep of this space's name, which `--extend` goes on from or takes trials from.

    Raises ConfigError when there is none, or it is of another job; DataFailure when it had other data.
    """
    numbered = takewhile(taken.__contains__, (numbered_name(space.name, number) for number in count(1)))
    ledger = load_ledger(storage, [space.name, *numbered][-1])
    check_data(ledger, space.data_fingerprint)
    if ledger.attributes["job"] != space.job:
        raise ConfigError(f"sweep {ledger.name}: is of job {ledger.attributes['job']}, not {space.job}; use --new")
    return ledger


def named(space: SearchSpace, taken: Collection[str], new: bool, extended: Ledger | None) -> str:
    """What the sweep is called: as its space, as the one it goes on with, or by the next free name."""
    if extended and not differences(extended.attributes["search_space"], resolved(space)):
        return extended.name
    return free_name(space.name, taken) if new or extended else space.name


def adopt(
    extended: Ledger, storage: RDBStorage, space: SearchSpace, folder: Path, checkpoints: str | None = None
) -> None:
    """Create the ledger of the sweep in `folder`, with the trials of `extended` that it would draw too."""
    from sweeper.driver.extending import adopted

    trials = adopted(
        extended,
        space,
        lambda number: workdir(folder, number),
        lambda number: storage_of(checkpoints, folder.name, number),
    )
    create_ledger(storage, space, folder.name, versions(), trials)


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, or the first of name-2, name-3, … that no sweep has."""
    return next(name for name in (numbered_name(name, number) for number in count(1)) if name not in taken)


def numbered_name(name: str, number: int) -> str:
    return f"{name}-{number}" if number > 1 else name


def open_ledger(storage: RDBStorage, space: SearchSpace, name: str) -> Ledger:
    """The sweep's ledger, new or as it was left, for a space that may differ in what `differences` allows."""
    if not begun(storage, name):
        return create_ledger(storage, space, name, versions())
    ledger = load_ledger(storage, name)
    if changes := differences(ledger.attributes["search_space"], resolved(space)):
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


def differences(before: Any, now: Any, key: str = "") -> list[str]:
    """Where two search spaces differ, a line each, but for what changes no trial."""
    if key in FREE:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        names = list(dict.fromkeys([*before, *now]))
        return [
            line for name in names for line in differences(before.get(name), now.get(name), f"{key}.{name}".lstrip("."))
        ]
    return [] if before == now else [f"{key}: was {before}, is {now}"]


def _run(sweep: Sweep, stores: Stores, console: Console, interrupt: Interrupt) -> Outcome:
    ledger, space = sweep.ledger, sweep.space
    names = searched_parameters(space)
    progress = Progress(console, space.objective, space.direction, expected(space), names)
    with output_to(sweep.log), mirror_of(ledger, space, stores) as mirror, progress:
        with interrupt.held():
            run_unfinished(sweep, Listeners(sweep, mirror, progress), interrupt)
        records = finish(ledger, mirror, in_a_hurry=interrupt.stopping)
    if interrupt.cause is not None:
        raise EnvironmentFailure(interrupt.cause)
    return outcome_of(ledger, records, mirror, stores)


def outcome_of(ledger: Ledger, records: list[TrialRecord], mirror: Mirror, stores: Stores) -> Outcome:
    page = f"{stores.address}/{mirror.page}" if mirror.page else None
    interrupted = any(record.state == "RUNNING" for record in records)
    return Outcome(ledger.name, records, interrupted, mirror.failure, page)


def mirror_of(ledger: Ledger, space: SearchSpace, stores: Stores, patience: float = FLUSH_SECONDS) -> Mirror:
    """What shows the sweep in MLflow; everything it says of it is in the ledger."""
    info = SweepInfo(
        name=ledger.name,
        key=ledger.shown_as(f"{stores.root.absolute()}/{ledger.name}"),
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
    folder = own_folder(stores.root, ledger.name)
    with owned(folder, stores.ledger), reachable(stores.ledger):
        check(stores)
        with output_to(folder / "log.txt"), mirror_of(ledger, space, stores) as mirror:
            for record in ledger.records():
                mirror.put(snapshot(record, ledger, keep_predictions(record, workdir(folder, record.number))))
            records = finish(ledger, mirror)
        return outcome_of(ledger, records, mirror, stores)


@dataclass(frozen=True)
class Listeners:
    """Who is told when the ledger has changed. The ledger has it already, so that nothing here can lose it."""

    sweep: Sweep
    mirror: Mirror
    progress: Progress
    kept: dict[int, TrialRecord] = field(default_factory=dict)  # the trials that still need a checkpoint
    gone: set[str] = field(default_factory=set)  # checkpoints of theirs that are deleted; a bucket is asked once

    def __call__(self, record: TrialRecord) -> None:
        self.progress.update(record)
        predictions = keep_predictions(record, self.sweep.workdir(record.number))
        faults.point("mirror.put")
        self.mirror.put(snapshot(record, self.sweep.ledger, predictions))
        self.retain(record)

    def say(self, line: str) -> None:
        self.progress.console.print(line, markup=False, soft_wrap=True)

    def retain(self, record: TrialRecord) -> None:
        """Delete what nobody needs. Of a long sweep only the trials are looked at that can still need something."""
        space = self.sweep.space
        before = self.kept.get(record.number)
        self.kept[record.number] = record
        records = list(self.kept.values())
        finalists = space.repeats.top if space.repeats else 0  # their means are not known yet, so all stay
        keep = max(space.keep.checkpoints, finalists)
        unneeded = set(disposable(records, space.direction, keep))
        # It writes some again when it has gone back to before them.
        new = (one for one in record.evaluations if before is None or one not in before.evaluations)
        self.gone.difference_update(one["checkpoint"] for one in new)
        delete(sorted(unneeded - self.gone))
        self.gone.clear()
        self.gone.update(address for address in unneeded if depot.is_remote(address))
        if self.sweep.checkpoints and record.state != "RUNNING":
            delete_copies(self.sweep.workdir(record.number))
        for number in self.kept.keys() - {one.number for one in needy(records, space.direction, keep)}:
            del self.kept[number]


def run_unfinished(sweep: Sweep, listeners: Listeners, interrupt: Interrupt) -> None:
    """Train what is left; a finished sweep does not even start Ray."""
    records = sweep.ledger.records()
    for record in records:
        listeners(record)
    if anything_left(records, sweep.space):
        from sweeper.driver.tuning import run_trials

        run_trials(sweep, listeners, interrupt, listeners.say)


def keep_predictions(record: TrialRecord, workdir: Path) -> Path | None:
    """The answers of an ended trial's best evaluation. They are kept beside the checkpoints, since the mirror comes
    later and most checkpoints do not stay; those from a bucket also in `workdir`."""
    if record.state == "RUNNING" or not record.checkpoint:
        return None
    beside = depot.join(depot.parent(record.checkpoint), PREDICTIONS)
    file = workdir / PREDICTIONS if depot.is_remote(beside) else Path(beside)
    if not (depot.is_remote(beside) and file.is_file()):  # what lies in a bucket is fetched once
        _keep(depot.join(record.checkpoint, PREDICTIONS), beside, file)
    return file if file.is_file() else None


def _keep(best: str, beside: str, file: Path) -> None:
    content = depot.read(best)
    if content is not None:
        depot.write(beside, content)
    if depot.is_remote(beside) and (content := content or depot.read(beside)) is not None:
        create_folder(file.parent)
        file.write_bytes(content)


def snapshot(record: TrialRecord, ledger: Ledger, predictions: Path | None = None) -> dict[str, Any]:
    """A trial as the mirror takes it, a repeat below the one it repeats. `predictions`: the answers of its best
    evaluation, once it has ended."""
    again = record.repeat_of is not None
    return {
        **asdict(record),
        "name": f"trial {record.repeat_of}, seed {record.params['seed']}" if again else f"trial {record.number}",
        "parent": ledger.record(record.repeat_of).key if record.repeat_of is not None else None,
        "evaluations": [{k: v for k, v in e.items() if k not in BESIDE} for e in record.evaluations],
        "artifacts": [predictions] if predictions else [],
        "tags": {"sweeper.origin": record.origin} if record.origin else {},
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
        if mirror.run_ids.get(record.key, record.run_id) != record.run_id:
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
        from sweeper.results import plots, report

        drawn = plots.artifacts(plots.figures(results(ledger)))
        return texts | drawn | {"report.html": report.html(ledger)}
    except Exception:
        traceback.print_exc()
        return texts


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}

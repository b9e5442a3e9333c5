"""Run one sweep: check the environment, open the ledger, train the unfinished trials, mirror them to MLflow."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from jobs import fault_injection
from sweeper.budget.limits import ENDED_BY, Ending, noted_ending
from sweeper.cluster.capacity import Machine, idle_budget_lines, reservations, sharing_lines
from sweeper.cluster.preflight import check_gpus, with_trial_memory
from sweeper.driver.backbones import Say, check_backbones
from sweeper.driver.checkpoints import (
    delete_checkpoints,
    delete_leftovers,
    trials_with_checkpoints,
    unneeded_checkpoints,
)
from sweeper.driver.mirroring import finish_mirror, mirror_of, save_predictions, show_trial, sync_lines
from sweeper.driver.opening import (
    create_extended,
    open_ledger,
    set_aside_line,
    space_of,
    sweep_name,
    sweep_to_extend,
    with_recorded_data,
    with_recorded_precision,
)
from sweeper.driver.repeats import expected_trials, has_unfinished, is_finished, resume_summary, sweep_ending
from sweeper.driver.sweep import Sweep, free_storage, sweep_folder, trial_folder
from sweeper.errors import EnvironmentFailure
from sweeper.forecast.estimate import forecast_line, sweep_forecast
from sweeper.ledger.database import database_errors, open_storage
from sweeper.ledger.ledger import FORECAST, Ledger, fully_created, load_ledger, sweep_exists, sweep_names
from sweeper.ledger.lock import sweep_lock
from sweeper.ledger.lookup import trials_of_job
from sweeper.ledger.record import TrialRecord
from sweeper.ledger.sampling.learning import find_sources
from sweeper.monitor.heartbeat import driver_heartbeat
from sweeper.monitor.progress import Progress
from sweeper.notify.service import checked_address
from sweeper.notify.watcher import Watcher, watched
from sweeper.process.output import output_to
from sweeper.process.screen import print_line
from sweeper.process.signals import Interrupt
from sweeper.space.cases import idle_lines
from sweeper.space.search_space import SearchSpace, searched_parameters, to_yaml
from sweeper.storage import checkpoint_store
from sweeper.storage.identity import places_of, stores_in_use
from sweeper.storage.settings import Stores
from sweeper.tracking.client import check_store
from sweeper.tracking.mirror import Mirror

NO_ADDRESS = (
    "notify: sends no message, since there is no address; set SWEEPER_NOTIFY_URL, or url below [notify] in mlflow.ini"
)


@dataclass(frozen=True)
class Outcome:
    """Describe how a run ended.

    interrupted  the next run has unfinished trials to resume
    ending       the limit of the budget that has ended the sweep, or None
    page         address of the sweep in MLflow, valid while `sweeper ui` runs
    corrections  lines of `sync` about what differed from the ledger
    """

    name: str
    records: list[TrialRecord]
    interrupted: bool
    mirror_failure: str | None
    page: str | None
    ending: Ending | None = None
    corrections: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return any(record.value is not None and record.state != "FAIL" for record in self.records)

    @property
    def first_cause(self) -> str | None:
        """Return the failure of the first failed trial if no trial succeeded, else None."""
        first = next((record for record in self.records if record.state == "FAIL"), None)
        if self.good or first is None:
            return None
        return f"{self.name}: no trial ended well; trial {first.number} was the first to fail: {first.reason}"


def check_environment(space: SearchSpace, stores: Stores, say: Say | None) -> None:
    """Check backbones and stores before anything is created.

    say  shows lines about the backbones that are tried; None if there is nothing left to train

    Raises EnvironmentFailure, and ConfigError for params that do not fit a backbone.
    """
    check_backbones(space, say)
    check_store(stores)
    if stores.checkpoints:
        checkpoint_store.check_address(stores.checkpoints)


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
    """Run every unfinished trial of sweep `name` (default: the space's name).

    console    shows progress; the output of libraries goes to log.txt in the sweep's folder
    interrupt  stops the sweep; running trials can be resumed later
    new        start another sweep under the next free name
    extend     if the search space has changed, start another sweep and copy the old trials that it could also draw
    begin      called with the sweep's folder after all checks have passed

    Raises ConfigError if the sweep has another search space, DataFailure if its data has changed, EnvironmentFailure
    if another process runs it (with a PostgreSQL ledger: on any machine).
    """
    nothing_left = not (new or extend) and is_finished(stores, name or space.name, space)
    reservations(space, machine)  # refuses what the machine cannot hold
    told = space.notify is not None and not nothing_left
    address = checked_address(stores.folder) if told else None
    if not nothing_left:
        check_gpus(space, machine)
    print_line(console, title_line(space, name))
    check_environment(space, stores, None if nothing_left else partial(print_line, console))
    if told and address is None:
        print_line(console, NO_ADDRESS)
    stores = stores_in_use(stores)
    storage = open_storage(stores.ledger, places_of(stores))
    taken = [name for name in sweep_names(storage) if fully_created(storage, name)] if new or extend else []
    extended = sweep_to_extend(storage, space, taken) if extend else None
    space = with_recorded_data(extended, space) if extended else space
    name = name or sweep_name(space, taken, new, extended)
    if name not in sweep_names(storage):
        find_sources(storage, space)  # refuses a sweep that does not fit before anything is created
    folder = sweep_folder(stores.root, name)
    with sweep_lock(folder, stores.ledger, interrupt.halt), database_errors(stores.ledger):
        known = sweep_exists(storage, name)
        moved = None if known else set_aside_line(folder, None)
        stored_as = free_storage(stores.checkpoints, folder) if stores.checkpoints and not known else None
        if extended and extended.name != name and not known:
            reused = create_extended(extended, storage, space, folder, stores.checkpoints, stored_as)
            print_line(console, reused)
        ledger = open_ledger(storage, space, name, stored_as)
        space = with_recorded_precision(ledger, with_recorded_data(ledger, space))
        machine = with_trial_memory(space, machine, trials_of_job(storage, space.job))
        lines = (*_opening_lines(ledger, space, folder, moved), *idle_budget_lines(space, machine))
        for line in (*lines, *sharing_lines(space, machine), *recorded_forecast(ledger, space, machine, stores.root)):
            print_line(console, line)
        (folder / "search_space.yaml").write_text(to_yaml(space), encoding="utf-8")
        if begin:
            begin(folder)
        with driver_heartbeat(ledger, interrupt):
            sweep = Sweep(ledger, space, folder, machine, stores.checkpoints)
            return _run_driver(sweep, stores, console, interrupt, address)


def title_line(space: SearchSpace, name: str | None) -> str:
    """Return the first line of a run: the sweep, its number of trials, job, data and objective."""
    return f"{name or space.name}: {space.search.trials} trials of {space.job} on {space.data}, by {space.objective}"


def _opening_lines(ledger: Ledger, space: SearchSpace, folder: Path, moved: str | None) -> Iterator[str]:
    """Yield what is told before trials start. Sets old files in `folder` aside unless `moved` says that it is done."""
    if line := moved or set_aside_line(folder, ledger):
        yield line
    if records := ledger.records():
        ending = sweep_ending(ledger, records, space)
        yield ending.line(ledger.name) if ending else resume_summary(records, space)
    if (learned := ledger.learned(space)).counts:
        yield learned.line()
    yield from idle_lines(space)


def recorded_forecast(ledger: Ledger, space: SearchSpace, machine: Machine, root: Path) -> Iterator[str]:
    """Yield the forecast of a sweep that has no trial yet, as a line, and record it; nothing if nothing is known."""
    if not ledger.records() and (found := sweep_forecast(space, machine, ledger.storage, root=root)):
        ledger.set_attribute(FORECAST, found.values())
        yield forecast_line(found)


def _run_driver(
    sweep: Sweep, stores: Stores, console: Console, interrupt: Interrupt, address: str | None = None
) -> Outcome:
    ledger, space, earlier = sweep.ledger, sweep.space, sweep.ledger.records()
    names, say = searched_parameters(space), partial(print_line, console)
    progress = Progress(console, space.objective, space.direction, expected_trials(space), names, earlier)
    told = watched(space, ledger.name, earlier, address, interrupt, say)
    with output_to(sweep.log), told as watcher, mirror_of(ledger, space, stores) as mirror, progress:
        with interrupt.held(), interrupt.before_end(lambda: finish_mirror(ledger, mirror, in_a_hurry=True)):
            run_unfinished(sweep, ChangeListener(sweep, mirror, progress, watcher), interrupt)
        if interrupt.asked is None:
            watcher.end(noted_ending(ledger.latest_attributes()), interrupt.cause)
        records = finish_mirror(ledger, mirror, in_a_hurry=interrupt.stopping)
    if interrupt.cause is not None:
        raise EnvironmentFailure(interrupt.cause)
    return outcome_of(ledger, records, mirror, stores)


def outcome_of(ledger: Ledger, records: list[TrialRecord], mirror: Mirror, stores: Stores) -> Outcome:
    page = f"{stores.address}/{mirror.page}" if mirror.page else None
    interrupted = any(record.state == "RUNNING" for record in records)
    return Outcome(ledger.name, records, interrupted, mirror.failure, page, noted_ending(ledger.latest_attributes()))


def sync_mlflow(ledger: Ledger, stores: Stores) -> Outcome:
    """Make MLflow and Optuna's intermediate values agree with the ledger. Nothing is written twice.

    The outcome's `corrections` tell what differed, in one line for each run.

    Raises EnvironmentFailure when MLflow does not answer, or when another process runs the sweep.
    """
    stores = stores_in_use(stores)
    ledger = load_ledger(open_storage(stores.ledger, places_of(stores)), ledger.name)
    space = space_of(ledger)
    folder = sweep_folder(stores.root, ledger.name)
    with sweep_lock(folder, stores.ledger), database_errors(stores.ledger):
        check_store(stores)
        values = [f"trial {number}: corrected: its intermediate values in Optuna" for number in ledger.correct_values()]
        with output_to(folder / "log.txt"), mirror_of(ledger, space, stores, running=False) as mirror:
            for record in ledger.records():
                predictions = save_predictions(record, trial_folder(folder, record.number), ledger.places)
                show_trial(mirror, ledger, record, predictions, stopped=record.state == "RUNNING")
            records = finish_mirror(ledger, mirror)
        return replace(outcome_of(ledger, records, mirror, stores), corrections=(*values, *sync_lines(mirror)))


@dataclass(frozen=True)
class ChangeListener:
    """Show progress, update MLflow and delete checkpoints after each change of a trial in the ledger."""

    sweep: Sweep
    mirror: Mirror
    progress: Progress
    watcher: Watcher
    kept: dict[int, TrialRecord] = field(default_factory=dict)  # trials that may still need a checkpoint
    # remote checkpoints already deleted, so that each costs the bucket only one request
    gone: set[str] = field(default_factory=set)

    def __call__(self, record: TrialRecord) -> None:
        self.progress.update(record)
        self.watcher.update(record)
        predictions = save_predictions(record, self.sweep.workdir(record.number), self.sweep.ledger.places)
        fault_injection.point("mirror.put")
        show_trial(self.mirror, self.sweep.ledger, record, predictions)
        self.retain(record)

    def clear_ended(self, record: TrialRecord, unneeded: Container[str], now: bool) -> None:
        """Remove what only resuming would need: training state, local copies, checkpoints that were never reported.

        now  the trial ends now; a bucket is searched only then, since that takes a request
        """
        kept = record.checkpoint if record.checkpoint not in unneeded else None
        if kept and self.sweep.ledger.places.owns(kept):
            checkpoint_store.remove_stored_state(kept)
        for folder in (str(self.sweep.workdir(record.number)), self.sweep.storage(record.number)):
            if folder and (now or not checkpoint_store.is_remote(folder)):
                delete_leftovers(folder, kept)

    def say(self, line: str) -> None:
        print_line(self.progress.console, line)

    def retain(self, record: TrialRecord) -> None:
        """Delete checkpoints that no trial needs. `kept` limits the check to the few trials that may still need one."""
        space = self.sweep.space
        before = self.kept.get(record.number)
        self.kept[record.number] = record
        records = list(self.kept.values())
        keep = space.kept_checkpoints
        unneeded = set(unneeded_checkpoints(records, space.direction, keep))
        # A resumed trial writes its later checkpoints again, under the same addresses.
        new = (one for one in record.evaluations if before is None or one not in before.evaluations)
        self.gone.difference_update(one["checkpoint"] for one in new)
        delete_checkpoints(sorted(filter(self.sweep.ledger.places.owns, unneeded - self.gone)))
        self.gone.clear()
        self.gone.update(address for address in unneeded if checkpoint_store.is_remote(address))
        if record.state != "RUNNING":
            self.clear_ended(record, unneeded, now=before is not None and before.state == "RUNNING")
        for number in self.kept.keys() - {
            one.number for one in trials_with_checkpoints(records, space.direction, keep)
        }:
            del self.kept[number]


def run_unfinished(sweep: Sweep, listeners: ChangeListener, interrupt: Interrupt) -> None:
    """Train the unfinished trials. A sweep that is finished, or whose budget is spent, does not start Ray."""
    records = sweep.ledger.records()
    for record in records:
        listeners(record)
    if has_unfinished(records, sweep.space) and note_ending(sweep) is None:
        from sweeper.driver.tuning import run_trials

        run_trials(sweep, listeners, interrupt, listeners.say, listeners.progress.follow)
    note_ending(sweep)


def note_ending(sweep: Sweep) -> Ending | None:
    """Record in the ledger which limit has ended the sweep, or that none has, and return it."""
    ending = sweep_ending(sweep.ledger, sweep.ledger.records(), sweep.space)
    if ending != noted_ending(sweep.ledger.latest_attributes()):
        sweep.ledger.set_attribute(ENDED_BY, asdict(ending) if ending else None)
    return ending

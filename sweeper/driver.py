"""Runs one sweep, from a search space to its table: folder, lock, ledger, mirror, trials, in this order."""

from __future__ import annotations

import os
import platform
import shutil
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
from sweeper.confirmation import expected, leaders, missing, searched
from sweeper.errors import ConfigError, EnvironmentFailure
from sweeper.ledger import (
    Ledger,
    TrialRecord,
    create_ledger,
    load_ledger,
    open_storage,
    reachable,
    sweep_names,
)
from sweeper.progress import Progress
from sweeper.results import results
from sweeper.retention import disposable
from sweeper.search_space import SearchSpace, backbones, resolved, to_yaml
from sweeper.search_space import searched as searched_parameters
from sweeper.stores import Stores
from sweeper.sweep import Sweep
from sweeper.tracking import Mirror, SweepInfo, check
from sweeper.trial import output_to

PACKAGES = ("sweeper", "torch", "transformers", "ray", "optuna", "mlflow")
FLUSH_SECONDS = 60.0


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


def run_sweep(space: SearchSpace, stores: Stores, machine: Machine, console: Console, new: bool = False) -> Outcome:
    """Run what is left of the sweep called `space.name`, which may be all, some, or nothing of it.

    `console` shows progress; all that libraries print goes to log.txt in the sweep's folder. `new` starts
    another sweep beside one that exists, under the next free name.

    Raises ConfigError if a sweep of this name has another search space, EnvironmentFailure if another
    process runs it.
    """
    prepare(space, machine, stores)
    storage = open_storage(stores.ledger)
    name = free_name(space.name, sweep_names(storage)) if new else space.name
    folder = stores.root / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with owned(folder), reachable(stores.ledger):
        ledger = open_ledger(storage, space, name)
        (folder / "search_space.yaml").write_text(to_yaml(space), encoding="utf-8")
        return _run(Sweep(ledger, space, folder, machine), stores, console)


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, or the first of name-2, name-3, … that no sweep has."""
    candidates = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def open_ledger(storage: RDBStorage, space: SearchSpace, name: str) -> Ledger:
    """The sweep's ledger, new or as it was left. Only the number of trials may have changed since."""
    if name not in sweep_names(storage):
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
    return ledger


def differences(before: Any, now: Any, key: str = "") -> list[str]:
    """Where two search spaces differ, a line each; how many trials are asked for and what is kept may differ."""
    if key in ("search.trials", "keep.checkpoints"):
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


def _run(sweep: Sweep, stores: Stores, console: Console) -> Outcome:
    ledger, space = sweep.ledger, sweep.space
    info = SweepInfo(
        name=ledger.name,
        key=f"{stores.root.absolute()}/{ledger.name}",
        objective=space.objective,
        direction=space.direction,
        columns=searched_parameters(space),
        tags={"data": space.data, "data_fingerprint": space.data_fingerprint, **versions()},
        texts={"search_space.yaml": to_yaml(space)},
    )
    names = searched_parameters(space)
    progress = Progress(console, space.objective, space.direction, expected(space), names)
    with (
        output_to(sweep.log),
        Mirror(stores.tracking, stores.artifacts, space.name, info) as mirror,
        progress,
    ):
        run_unfinished(sweep, Listeners(sweep, mirror, progress))
        records = finish(ledger, mirror)
        page = f"{stores.address}/{mirror.page}" if mirror.page else None
    interrupted = any(record.state == "RUNNING" for record in records)
    return Outcome(ledger.name, records, interrupted, mirror.failure, page)


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


def run_unfinished(sweep: Sweep, listeners: Listeners) -> None:
    """Train what is left; a finished sweep does not even start Ray."""
    records = sweep.ledger.records()
    for record in records:
        listeners(record)
    open_ended = len(searched(records)) < (sweep.space.search.trials or 0) or any(missing(records, sweep.space))
    if open_ended or any(record.state == "RUNNING" for record in records):
        from sweeper.tuning import run_trials

        run_trials(sweep, listeners)


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


def finish(ledger: Ledger, mirror: Mirror) -> list[TrialRecord]:
    """Close the parent run with the table, the plots and the page, and note in the ledger which run shows which
    trial."""
    records = ledger.records()
    interrupted = any(record.state == "RUNNING" for record in records)
    objective = ledger.objective
    best = {f"best_{objective}": one.value or 0.0 for one in leaders(records, ledger.direction)[:1]}
    mirror.finish("STOPPED" if interrupted else "COMPLETE", pages(ledger), best)
    mirror.flush(FLUSH_SECONDS)
    for record in records:
        if record.key in mirror.run_ids:
            ledger.set_run(record.number, mirror.run_ids[record.key])
    return ledger.records()


def pages(ledger: Ledger) -> dict[str, str]:
    """What is to be read and looked at, by file name. A plot that fails is no reason to end without the table."""
    table, objective = comparison.rows(ledger.records(), ledger.direction), ledger.objective
    texts = {
        "comparison.md": comparison.markdown(table, objective),
        "comparison.csv": comparison.csv_text(table, objective),
    }
    try:
        from sweeper import plots, report

        drawn = plots.artifacts(plots.figures(results(ledger)))
        return texts | drawn | {"report.html": report.html(ledger)}
    except Exception:
        traceback.print_exc()
        return texts


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}

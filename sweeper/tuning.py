"""Ray Tune runs the trials the ledger asks for, and every result goes into the ledger first.

Ray's own searcher, loggers and restore files are not used: the ledger is the only record. Ray asks for
two small classes here, a Searcher and a Callback; both only pass things on.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeper import trial as trial_process
from sweeper.capacity import Machine, share_of
from sweeper.confirmation import Missing, missing, searched
from sweeper.continuation import rewind
from sweeper.interrupt import Interrupt, descendants, end, handlers_kept
from sweeper.ledger import Ledger, TrialRecord
from sweeper.search_space import SearchSpace, max_epochs
from sweeper.sweep import Sweep

BESIDE_METRICS = ("epoch", "step", "seconds")
OBJECT_STORE_BYTES = 100 * 2**20  # trials exchange paths and numbers only

# Read by Ray when it is imported or started; its processes inherit them.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are ours, see sweeper/interrupt.py
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's own state files are not needed
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",  # the driver has fetched what trials need
    "HF_DATASETS_OFFLINE": "1",
}


def run_trials(sweep: Sweep, on_change: Callable[[TrialRecord], None], interrupt: Interrupt | None = None) -> None:
    """Run all trials the search space asks for; `on_change` is told of every change in the ledger.

    Returns when they have ended, when the budget is spent, or after an interrupt, which leaves the trials
    that were running RUNNING in the ledger.
    """
    space, interrupt = sweep.space, interrupt or Interrupt()
    began = time.monotonic()

    def left() -> float | None:
        return None if space.budget.time is None else space.budget.time - (time.monotonic() - began)

    with ray_session(sweep.machine):
        for source, stopping in ((search(sweep), scheduler(sweep.ledger, space)), (repeats(sweep), FIFOScheduler())):
            seconds = left()
            searcher = LedgerSearcher(sweep, source, on_change, interrupt)
            if seconds is None or seconds > 0:
                _tune(searcher, stopping, seconds)
            if searcher.unfinished():  # interrupted: who the finalists are is not known yet
                break
    seconds = left()
    if interrupt.asked is None and seconds is not None and seconds <= 0:
        close_unfinished(sweep.ledger, f"the time budget of {space.budget.time:g} s was spent", on_change)


def _tune(searcher: LedgerSearcher, stopping: TrialScheduler, seconds: float | None) -> None:
    """Run the searcher's trials to their end, for at most so many seconds."""
    if not searcher.any():
        return
    sweep = searcher.sweep
    bookkeeper = Bookkeeper(sweep, searcher.on_change, searcher.interrupt)
    tuner = tune.Tuner(
        tune.with_resources(trial_process.run, bundle),
        tune_config=tune.TuneConfig(
            search_alg=searcher, scheduler=stopping, num_samples=-1, reuse_actors=True, time_budget_s=seconds
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(sweep.ray_folder), callbacks=[bookkeeper], verbose=0),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(sweep.ray_folder, ignore_errors=True)


def assignment(sweep: Sweep, record: TrialRecord) -> trial_process.Assignment:
    """The trial as its process is told of it, going on from its newest whole checkpoint if it has one."""
    workdir = sweep.workdir(record.number)
    resume_from = rewind(record, workdir)
    share = share_of(sweep.space, record.params, sweep.machine)
    return trial_process.Assignment(
        number=record.number,
        job=sweep.space.job,
        params=record.params,
        data=sweep.space.data,
        workdir=str(workdir),
        cpus=share.cpus,
        gpus=share.gpus,
        resume_from=str(resume_from) if resume_from else None,
    )


def bundle(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """What Tune reserves for a trial, from its Assignment."""
    return tune.PlacementGroupFactory([{"CPU": config["cpus"], "GPU": config["gpus"]}])


@contextmanager
def ray_session(machine: Machine) -> Iterator[None]:
    """A Ray of our own on this machine, or the one that is already there.

    `address="local"` keeps Ray from joining a stranger's cluster that it finds here.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.update(QUIET)
    strangers = descendants()
    with handlers_kept():
        ray.init(
            address="local",
            num_cpus=machine.cpus,
            num_gpus=machine.gpus,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    try:
        yield
    finally:
        family = [process for process in descendants() if process not in strangers]
        ray.shutdown()
        end(family)  # its agents would outlive it by a minute


def scheduler(ledger: Ledger, space: SearchSpace) -> TrialScheduler:
    """Successive halving over epochs, or none. It is shown what the ledger holds, so that a sweep which
    goes on judges its trials by those that ended before."""
    if space.early_stopping is None:
        return FIFOScheduler()
    epochs = max_epochs(space)
    asha = ASHAScheduler(
        time_attr="epoch",
        metric=space.objective,
        mode=space.direction,
        grace_period=min(space.early_stopping.grace_period, epochs),
        reduction_factor=space.early_stopping.reduction_factor,
        max_t=epochs,
    )
    for record in searched(ledger.records()):
        earlier = SimpleNamespace(trial_id=f"ledger-{record.number}")
        asha.on_trial_add(None, earlier)
        for evaluation in record.evaluations:
            asha.on_trial_result(None, earlier, dict(evaluation))
    return asha


class Unpickled:
    """Tune pickles what it is given into a restore file. Ours is never restored, and a database has no pickle."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Source:
    """Where trials come from.

    mine    whether a trial of the ledger is one of them
    wanted  whether another is to be made
    new     makes it; None when there is nothing new to offer
    """

    mine: Callable[[TrialRecord], bool]
    wanted: Callable[[], bool]
    new: Callable[[], TrialRecord | None]


def search(sweep: Sweep) -> Source:
    """What the sampler proposes, as many trials as the search space asks for."""
    return Source(
        mine=lambda record: record.repeat_of is None,
        wanted=lambda: len(searched(sweep.ledger.records())) < (sweep.space.search.trials or 0),
        new=lambda: sweep.ledger.ask(sweep.space),
    )


def repeats(sweep: Sweep) -> Source:
    """The finalists once more, with other seeds."""

    def first() -> Missing | None:
        return next(missing(sweep.ledger.records(), sweep.space), None)

    return Source(
        mine=lambda record: record.repeat_of is not None,
        wanted=lambda: first() is not None,
        new=lambda: sweep.ledger.repeat(*found) if (found := first()) else None,
    )


class LedgerSearcher(Unpickled, Searcher):  # type: ignore[misc]
    """Gives Tune the ledger's trials: those left unfinished, then new ones while there are any."""

    def __init__(
        self, sweep: Sweep, source: Source, on_change: Callable[[TrialRecord], None], interrupt: Interrupt
    ) -> None:
        super().__init__(metric=sweep.space.objective, mode=sweep.space.direction)
        self.sweep = sweep
        self.source = source
        self.on_change = on_change
        self.interrupt = interrupt
        self.left = self.unfinished()

    def unfinished(self) -> list[TrialRecord]:
        return [
            record for record in self.sweep.ledger.records() if record.state == "RUNNING" and self.source.mine(record)
        ]

    def any(self) -> bool:
        """Whether there is anything to run, and nobody has asked to stop."""
        return self.interrupt.asked is None and (bool(self.left) or (self.source.wanted() and not self.spent()))

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        record = None if not self.any() else self.left.pop(0) if self.left else self.source.new()
        if record is None:
            return str(Searcher.FINISHED)
        self.on_change(record)
        return asdict(assignment(self.sweep, record))

    def spent(self) -> bool:
        """Whether as many trials have failed as the budget allows."""
        allowed = self.sweep.space.budget.failed_trials
        failed = sum(record.state == "FAIL" for record in self.sweep.ledger.records())
        return allowed is not None and failed >= allowed

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Bookkeeper has written it down."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep goes on from its ledger")


class Bookkeeper(Unpickled, tune.Callback):  # type: ignore[misc]
    """Writes what Tune sees into the ledger, before anyone else is told. After an interrupt results still count,
    but a trial's end is none: Tune stops whatever runs, and so may the signal."""

    def __init__(self, sweep: Sweep, on_change: Callable[[TrialRecord], None], interrupt: Interrupt) -> None:
        self.sweep = sweep
        self.on_change = on_change
        self.interrupt = interrupt

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Tune leaves its loop, in good order, when it gets this signal."""
        if self.interrupt.asked is not None:
            signal.raise_signal(signal.SIGUSR1)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if "checkpoint" not in result:  # Tune's own last word on a function that has returned
            return
        names = [name for name in (*self.sweep.ledger.attributes["metrics"], *BESIDE_METRICS) if name in result]
        metrics = {name: float(result[name]) for name in names}
        self.on_change(self.sweep.ledger.report(trial.config["number"], metrics, result["checkpoint"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        ledger, number = self.sweep.ledger, trial.config["number"]
        record = ledger.record(number)
        if record.trained:
            self.on_change(ledger.finish(number, "COMPLETE"))
        elif self.interrupt.asked is None:
            self.on_change(ledger.finish(number, "PRUNED", f"stopped early after epoch {record.epochs:g}"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        if self.interrupt.asked is None:
            number = trial.config["number"]
            reason = trial_process.failure_reason(self.sweep.workdir(number))
            self.on_change(self.sweep.ledger.finish(number, "FAIL", reason))


def close_unfinished(ledger: Ledger, reason: str, on_change: Callable[[TrialRecord], None]) -> None:
    """End the trials that are still RUNNING in the ledger: with an evaluation PRUNED, without one FAIL."""
    for record in ledger.records():
        if record.state == "RUNNING":
            on_change(ledger.finish(record.number, "PRUNED" if record.evaluations else "FAIL", reason))

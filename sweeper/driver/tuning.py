"""Ray Tune runs the trials the ledger asks for, and every result goes into the ledger first.

Ray's own searcher, loggers and restore files are not used: the ledger is the only record. Ray asks for
two small classes here, a Searcher and a Callback; both only pass things on.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeper.cluster import nodes as cluster
from sweeper.cluster.capacity import share_of, shares, slots, workers_at_once
from sweeper.cluster.ray_session import ray_session
from sweeper.driver.checkpoints import rewind
from sweeper.driver.repeats import Missing, missing, searched
from sweeper.driver.retries import incident, verdict
from sweeper.driver.sweep import Sweep
from sweeper.ledger.ledger import Ledger, TrialRecord
from sweeper.process.signals import Interrupt
from sweeper.results.timing import Attempts
from sweeper.space.search_space import SearchSpace, max_epochs
from sweeper.space.sections import duration
from sweeper.trial import process as trial_process
from sweeper.trial import workers as group
from sweeper.trial.process import Breakdown

BESIDE_METRICS = ("epoch", "step", "seconds")
LOOK = 5.0  # seconds between looks at a cluster's nodes
SAY = 60.0  # seconds without a node that could run any trial, before we say so
GIVE_UP = 1800.0  # and before we end
UNREADY = "the process it was given could not end the trial before"


def run_trials(
    sweep: Sweep,
    on_change: Callable[[TrialRecord], None],
    interrupt: Interrupt | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run all trials the search space asks for; `on_change` is told of every change in the ledger, and `say` of what
    concerns them all.

    Returns when they have ended, when the budget is spent, or when `interrupt` is stopping, which leaves the
    trials that were running RUNNING in the ledger. It is halted when there is no room on the disk, or no node left.

    Raises EnvironmentFailure before the first trial when a cluster's nodes cannot run them.
    """
    space, interrupt = sweep.space, interrupt or Interrupt()
    began = time.monotonic()

    def left() -> float | None:
        return None if space.budget.time is None else space.budget.time - (time.monotonic() - began)

    with ray_session(sweep.machine):
        if sweep.machine.nodes:
            cluster.preflight(sweep)
        for source, stopping in ((search(sweep), scheduler(sweep.ledger, space)), (repeats(sweep), FIFOScheduler())):
            seconds = left()
            searcher = LedgerSearcher(sweep, source, on_change, interrupt, say)
            if seconds is None or seconds > 0:
                _tune(searcher, stopping, seconds)
            if searcher.unfinished():  # interrupted: who the finalists are is not known yet
                break
    seconds = left()
    if not interrupt.stopping and seconds is not None and seconds <= 0:
        close_unfinished(sweep.ledger, f"the time budget of {space.budget.time:g} s was spent", on_change)


def _tune(searcher: LedgerSearcher, stopping: TrialScheduler, seconds: float | None) -> None:
    """Run the searcher's trials to their end, for at most so many seconds."""
    if not searcher.any():
        return
    sweep = searcher.sweep
    watchers = [Watchman(searcher)] if sweep.machine.nodes else []
    listeners = [Timekeeper(sweep), *watchers, Bookkeeper(searcher)]
    tuner = tune.Tuner(
        tune.with_resources(group.run, bundle),
        tune_config=tune.TuneConfig(
            search_alg=searcher, scheduler=patient(stopping), num_samples=-1, reuse_actors=True, time_budget_s=seconds
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(sweep.ray_folder), callbacks=listeners, verbose=0),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(sweep.ray_folder, ignore_errors=True)


def assignment(sweep: Sweep, record: TrialRecord) -> trial_process.Assignment:
    """The trial as its process is told of it, going on from its newest whole checkpoint if it has one."""
    workdir = sweep.workdir(record.number)
    storage = sweep.storage(record.number)
    resume_from, *earlier = rewind(record, workdir, storage) or (None,)
    trial_process.forget(workdir)
    share = share_of(sweep.space, record.params, sweep.machine)
    return trial_process.Assignment(
        number=record.number,
        job=sweep.space.job,
        params=record.used,
        data=sweep.space.data,
        workdir=str(workdir),
        cpus=share.cpus,
        gpus=share.gpus,
        resume_from=resume_from,
        earlier=tuple(filter(None, earlier)),
        storage=storage,
        workers=share.workers,
    )


def bundle(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """What Tune reserves for a trial, from its Assignment: for each worker as much, on as few nodes as may be."""
    return tune.PlacementGroupFactory([{"CPU": config["cpus"], "GPU": config["gpus"]}] * config["workers"])


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


def patient(scheduler: TrialScheduler) -> TrialScheduler:
    """Has trials whose processes are starting wait for these. Ray's schedulers would give them one that is free again,
    and end those that were starting: where many start on few CPUs, or trials are short, most never came up."""
    scheduler.choose_trial_to_run = lambda controller: None  # Tune then goes by who has no process yet
    return scheduler


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
        wanted=lambda: sweep.ledger.tally.searched < (sweep.space.search.trials or 0),
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
    """Gives Tune the ledger's trials: those left unfinished, then new ones while there are any. A trial that
    breaks down may come back, so there is no end while others run."""

    def __init__(
        self,
        sweep: Sweep,
        source: Source,
        on_change: Callable[[TrialRecord], None],
        interrupt: Interrupt,
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__(metric=sweep.space.objective, mode=sweep.space.direction)
        self.sweep = sweep
        self.source = source
        self.on_change = on_change
        self.interrupt = interrupt
        self.say = say
        self.shares = shares(sweep.space, sweep.machine)
        self.nodes = sweep.machine.parts
        self.counted = 0.0  # when the nodes were
        self.left = self.unfinished()
        self.exhausted = False  # nothing new is to be had; what is left may still come back
        self.attempts = Attempts()
        self.given: dict[str, int] = {}  # Tune's own id of a trial that runs → its number

    def unfinished(self) -> list[TrialRecord]:
        return [
            record for record in self.sweep.ledger.records() if record.state == "RUNNING" and self.source.mine(record)
        ]

    def any(self) -> bool:
        """Whether there is anything to run, and nobody has asked to stop."""
        if self.interrupt.stopping:
            return False
        return bool(self.left) or (not self.exhausted and not self.spent())

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """None, which is Tune's "not now", while as many run as there is room for, since the next had better be drawn
        when more is known; and while a trial that runs may yet come back."""
        if not self.interrupt.stopping and len(self.given) >= self.most():
            return None
        record = self.next()
        if record is None:
            return None if self.given and not self.interrupt.stopping else str(Searcher.FINISHED)
        self.given[trial_id] = record.number
        self.attempts.ask(record.number)
        self.on_change(record)
        return asdict(assignment(self.sweep, record))

    def most(self) -> int:
        """How many trials Tune has at once: as many as there is room for. On a cluster, whose nodes are counted now
        and then, one more, which is what has it grow, or tells that it can run none."""
        if not self.sweep.machine.nodes:
            return self.room()
        if time.monotonic() - self.counted > LOOK:
            self.counted, self.nodes = time.monotonic(), cluster.nodes()
        return self.room() + 1

    def room(self) -> int:
        return max(slots(share, self.nodes) for share in self.shares)

    def next(self) -> TrialRecord | None:
        if not self.any():
            return None
        record = self.left.pop(0) if self.left else self.source.new() if self.source.wanted() else None
        self.exhausted = record is None
        return record

    def spent(self) -> bool:
        """Whether as many trials have failed as the budget allows."""
        allowed = self.sweep.space.budget.failed_trials
        return allowed is not None and self.sweep.ledger.tally.failed >= allowed

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Bookkeeper writes down what became of it."""
        self.given.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep goes on from its ledger")


class Bookkeeper(Unpickled, tune.Callback):  # type: ignore[misc]
    """Writes what Tune sees into the ledger, before anyone else is told. When all is stopping results still count,
    but a trial's end is none: Tune stops whatever runs, and so may the signal."""

    def __init__(self, searcher: LedgerSearcher) -> None:
        self.sweep = searcher.sweep
        self.on_change = searcher.on_change
        self.interrupt = searcher.interrupt
        self.attempts = searcher.attempts
        self.given = searcher.given
        self.again = searcher.left.append
        self.looked = 0.0

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Tune leaves its loop, in good order, when it gets this signal."""
        if self.interrupt.stopping:
            signal.raise_signal(signal.SIGUSR1)
        elif time.monotonic() - self.looked > LOOK:
            self.looked = time.monotonic()
            self.find(trials)

    def find(self, trials: list[Any]) -> None:
        """Tune tells nobody of a trial whose process could not leave the one before in time."""
        for trial in [trial for trial in trials if trial.status == "ERROR" and trial.trial_id in self.given]:
            self.settle(self.given.pop(trial.trial_id), Breakdown("crash", UNREADY))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.attempts.begin(trial.config["number"])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if "checkpoint" not in result:  # Tune's own last word on a function that has returned
            return
        names = [name for name in (*self.sweep.ledger.attributes["metrics"], *BESIDE_METRICS) if name in result]
        metrics = {name: float(result[name]) for name in names}
        number = trial.config["number"]
        timing = self.attempts.timing(number, result["timing"])
        self.on_change(self.sweep.ledger.report(number, metrics, result["checkpoint"], timing))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        ledger, number = self.sweep.ledger, trial.config["number"]
        record = ledger.record(number)
        if record.trained:
            self.on_change(ledger.finish(number, "COMPLETE"))
        elif not self.interrupt.stopping:
            self.on_change(ledger.finish(number, "PRUNED", f"stopped early after epoch {record.epochs:g}"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        if not self.interrupt.stopping:
            number = trial.config["number"]
            self.settle(number, breakdown_of(self.sweep, number))

    def settle(self, number: int, breakdown: Breakdown) -> None:
        """A trial has broken down: it goes on, or it has failed, or nothing can go on."""
        ledger = self.sweep.ledger
        record = ledger.record(number)
        if record.trained:  # all that counts is there, whatever its process died of afterwards
            self.on_change(ledger.finish(number, "COMPLETE"))
        elif breakdown.kind == "disk":
            self.interrupt.halt(no_room(self.sweep, number, breakdown.reason))
        elif survived := incident(record, breakdown, self.sweep.space):
            record = ledger.survive(number, survived)
            self.on_change(record)
            self.again(record)
        else:
            self.on_change(ledger.finish(number, "FAIL", verdict(record, breakdown)))


class Watchman(Unpickled, tune.Callback):  # type: ignore[misc]
    """Sees when a trial waits for a node that is not there, as after the last one was lost: Tune would wait for ever
    without a word. A cluster that grows by itself has a while to bring one."""

    def __init__(self, searcher: LedgerSearcher) -> None:
        self.name = searcher.sweep.ledger.name
        self.say = searcher.say
        self.interrupt = searcher.interrupt
        self.since: float | None = None  # when nothing could run any more
        self.told = False
        self.looked = 0.0

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        now = time.monotonic()
        if now - self.looked < LOOK:
            return
        self.looked = now
        lacking = stranded(trials)
        if lacking is None:
            self.since, self.told = None, False
            return
        self.since = self.since or now
        if now - self.since > GIVE_UP:
            cure = f"add one, then sweeper resume {self.name}"
            self.interrupt.halt(f"sweep {self.name}: for {GIVE_UP:g} s no node could run a trial; {lacking}; {cure}")
        elif now - self.since > SAY and not self.told:
            self.told = True
            self.say(f"no node can run the next trial; {lacking}; waits {duration(int(GIVE_UP))} for one to join")


def stranded(trials: list[Any]) -> str | None:
    """What the trials that wait lack, when none runs and the nodes that are left could not run any of them."""
    waiting = [trial for trial in trials if trial.status == "PENDING"]
    if not waiting or any(trial.status == "RUNNING" for trial in trials):
        return None
    nodes = cluster.nodes()
    wants = [(trial.config["cpus"], trial.config["gpus"], trial.config["workers"]) for trial in waiting]
    if any(workers_at_once(cpus, gpus, nodes) >= workers for cpus, gpus, workers in wants):
        return None
    cpus, gpus, workers = wants[0]
    there = ", ".join(f"{node.name} with {node.cpus} CPU and {node.gpus} GPU" for node in nodes) or "none"
    return f"it wants {workers:g} × {cpus:g} CPU and {gpus:g} GPU, nodes left: {there}"


class Timekeeper(Unpickled, tune.Callback):  # type: ignore[misc]
    """Ends the process of a trial that takes longer than the budget allows, whatever it is stuck in."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.limit = sweep.space.budget.trial_time
        self.began: dict[int, float] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.began[trial.config["number"]] = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.began.pop(trial.config["number"], None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.began.pop(trial.config["number"], None)

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """A note in the trial's folder tells Bookkeeper, who hears of the death from Tune, what it died of."""
        if self.limit is None:
            return
        for number in [n for n, began in self.began.items() if time.monotonic() - began > self.limit]:
            del self.began[number]
            workdir = self.sweep.workdir(number)
            reason = f"took longer than {duration(self.limit)}, its budget.trial_time"
            trial_process.note(workdir, Breakdown("timeout", reason))
            cluster.end(workdir)


def breakdown_of(sweep: Sweep, number: int) -> Breakdown:
    """What a trial died of. On a cluster a death without a word may be its machine's."""
    workdir = sweep.workdir(number)
    breakdown = trial_process.breakdown_of(workdir)
    if sweep.machine.nodes and breakdown.kind == "crash" and cluster.lost_node(workdir):
        return Breakdown("node", "its machine left the cluster")
    return breakdown


def no_room(sweep: Sweep, number: int, reason: str) -> str:
    """What to say when a trial could not write."""
    name = sweep.ledger.name
    return f"sweep {name}: trial {number} cannot write; {reason}; put that right, then sweeper resume {name}"


def close_unfinished(ledger: Ledger, reason: str, on_change: Callable[[TrialRecord], None]) -> None:
    """End the trials that are still RUNNING in the ledger: with an evaluation PRUNED, without one FAIL."""
    for record in ledger.records():
        if record.state == "RUNNING":
            on_change(ledger.finish(record.number, "PRUNED" if record.evaluations else "FAIL", reason))

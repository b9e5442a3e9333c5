"""Report the state of a sweep and stop it from any machine. Needs only the ledger, not the data, the job or the
checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sweeper.budget.limits import Counts, Ending, counts_of, noted_ending, spending_phrases
from sweeper.budget.spending import SPENT_SECONDS, Spending, spending_of
from sweeper.errors import EnvironmentFailure
from sweeper.ledger.database import LedgerStorage
from sweeper.ledger.ledger import Ledger, fully_created, load_ledger, sweep_names
from sweeper.ledger.ranking import best_first
from sweeper.ledger.record import TrialRecord
from sweeper.monitor.heartbeat import (
    HEARTBEAT_SECONDS,
    POLL_SECONDS,
    SILENT_SECONDS,
    Driver,
    State,
    StopRequest,
    driver_of,
    request_stop,
    stop_request,
    wait_for_driver,
)
from sweeper.monitor.remaining import end_text, seconds_left
from sweeper.process.signals import SHUTDOWN_SECONDS
from sweeper.space.sections import Budget, duration

# after this time, a driver that missed its shutdown limit and killed itself counts as silent
MAX_WAIT_SECONDS = POLL_SECONDS + SHUTDOWN_SECONDS + SILENT_SECONDS + HEARTBEAT_SECONDS
PROMISES: Mapping[StopRequest, str] = {
    "stop": f"it reads requests every {POLL_SECONDS:g} s, saves the running trials and ends within half a minute",
    "now": f"it reads requests every {POLL_SECONDS:g} s; its trials can resume from their last checkpoints",
}


@dataclass(frozen=True)
class RunningTrial:
    """Hold the state of a running trial: how far it is, in epochs, after so many seconds; `value` is its best so far.

    gpu_memory_bytes  the most memory that it has taken of its GPU; None if it was not measured
    used_precision    the precision in which it is trained; None before the first evaluation
    """

    trial: int
    epoch: float
    epochs: float
    seconds: float
    value: float | None
    gpu_memory_bytes: int | None = None
    used_precision: str | None = None


@dataclass(frozen=True)
class TrialCounts:
    """Count trials by state. `left` have not started; `total` is the largest possible number, with repeats."""

    finished: int
    pruned: int
    failed: int
    running: int
    left: int
    total: int


@dataclass(frozen=True)
class BestTrial:
    trial: int
    value: float


@dataclass(frozen=True)
class DriverProcess:
    """Describe the newest driver. `seconds` count from its start, `seen` from its heartbeat, by the ledger's clock."""

    host: str
    pid: int
    seconds: float
    seen: float


@dataclass(frozen=True)
class Spent:
    """Tell what a sweep has spent over all its runs; `phrases` say the same in words, with the limits."""

    seconds: float
    gpu_hours: float
    cost: float | None
    phrases: tuple[str, ...]


@dataclass(frozen=True)
class Status:
    """Describe a sweep at one moment.

    state  state of the driver; None if the sweep has never had one
    asked  the stop request to the driver, if any
    spent  what the sweep has spent; None if no run has noted it
    ended_by  the limit of the budget that has ended it
    seconds_left  the expected seconds until it ends; None if it does not run or nothing is known yet
    """

    sweep: str
    state: State | None
    process: DriverProcess | None
    asked: StopRequest | None
    objective: str
    trials: TrialCounts
    best: BestTrial | None
    running: tuple[RunningTrial, ...]
    spent: Spent | None = None
    ended_by: Ending | None = None
    seconds_left: float | None = None

    def lines(self) -> list[str]:
        """Return the lines that `sweeper status` prints: driver, trials, best, then each running trial."""
        leader = f"{self.objective} {self.best.value:.4f} (trial {self.best.trial})" if self.best else "–"
        return [
            f"{self.sweep}: {self._driver()}",
            *([f"  {self._asked()}"] if self.asked and self.state == "running" else []),
            f"  trials: {self._counts()}",
            f"  best so far: {leader}",
            *([f"  spent: {', '.join(self.spent.phrases)}"] if self.spent else []),
            *([f"  {end_text(self.seconds_left)}"] if self.seconds_left is not None else []),
            *([f"  ended by {self.ended_by}"] if self.ended_by else []),
            *(f"  {self._running(trial)}" for trial in self.running),
        ]

    def _driver(self) -> str:
        if self.process is None or self.state == "ended":
            return "not running"
        who = f"process {self.process.pid} on {self.process.host}"
        seen = f"seen {duration_text(self.process.seen)} ago by the ledger's clock"
        return {
            "running": f"running for {duration_text(self.process.seconds)}, {who}, {seen}",
            "silent": f"silent: {who} was {seen}; it has died or cannot reach the ledger",
            "died": f"died: {who} is gone, {seen}",
        }[str(self.state)]

    def _asked(self) -> str:
        return "asked to stop at once" if self.asked == "now" else "asked to stop; running trials save what they have"

    def _counts(self) -> str:
        counts = self.trials
        running = "running" if self.state == "running" else "cut short"
        return (
            f"{counts.finished} finished, {counts.pruned} stopped early, {counts.failed} failed, "
            f"{counts.running} {running}, {counts.left} left of {counts.total}"
        )

    def _running(self, trial: RunningTrial) -> str:
        value = "–" if trial.value is None else f"{self.objective} {trial.value:.4f}"
        so_far = f"epoch {trial.epoch:g} of {trial.epochs:g} after {duration_text(trial.seconds)}"
        memory = f", {trial.gpu_memory_bytes / 2**30:.1f} GiB of GPU memory" if trial.gpu_memory_bytes else ""
        precision = f", in {trial.used_precision}" if trial.used_precision not in (None, "fp32") else ""
        return f"trial {trial.trial}: {so_far}, best {value}{precision}{memory}"

    def next(self) -> str:
        """Return the command that continues from this state."""
        if self.state == "running":
            return f"sweeper status {self.sweep}   or   sweeper stop {self.sweep}"
        if self.ended_by:
            return self.ended_by.line(self.sweep).rpartition(": ")[2]
        return f"sweeper {'resume' if self.trials.running or self.trials.left else 'compare'} {self.sweep}"


def status(ledger: Ledger) -> Status:
    """Return the present state of a sweep.

    >>> status(load_ledger(storage, "qa_backbones")).trials.running
    2
    """
    attributes, now = ledger.latest_attributes(), ledger.now()
    driver, records = driver_of(attributes), ledger.records()
    state = driver.state(now) if driver else None
    trials, ranked = count_trials(records, attributes["search_space"]), best_first(records, ledger.direction)
    spent = spending_of(attributes, records)
    budget = Budget.model_validate(attributes["search_space"].get("budget") or {})
    told = told_spending(budget, spent, counts_of(records, ledger.direction))
    return Status(
        sweep=ledger.name,
        state=state,
        process=process_of(driver, now) if driver else None,
        asked=stop_request(driver, attributes) if driver else None,
        objective=ledger.objective,
        trials=trials,
        best=BestTrial(ranked[0].number, ranked[0].value) if ranked and ranked[0].value is not None else None,
        running=tuple(running_trial(record) for record in records if record.state == "RUNNING"),
        spent=told if SPENT_SECONDS in attributes else None,
        ended_by=noted_ending(attributes),
        seconds_left=seconds_left(records, trials.total, budget, spent) if state == "running" else None,
    )


def told_spending(budget: Budget, spent: Spending, counts: Counts) -> Spent:
    phrases = tuple(spending_phrases(budget, spent, counts))
    return Spent(spent.seconds, spent.gpu_hours, spent.cost(budget.price), phrases)


def process_of(driver: Driver, now: float) -> DriverProcess:
    last = now if driver.state(now) == "running" else driver.seen
    return DriverProcess(driver.host, driver.pid, max(0.0, last - driver.started), max(0.0, now - driver.seen))


def count_trials(records: Sequence[TrialRecord], space: Mapping[str, Any]) -> TrialCounts:
    """Count a sweep's trials by state. `space` is the stored plain form, for which the job need not be installed."""
    states = [record.state for record in records]
    repeats = space.get("repeats")
    most = space["search"]["trials"] + (repeats["top"] * len(repeats["seeds"]) if repeats else 0)
    return TrialCounts(
        finished=states.count("COMPLETE"),
        pruned=states.count("PRUNED"),
        failed=states.count("FAIL"),
        running=states.count("RUNNING"),
        left=max(0, most - len(records)),
        total=most,
    )


def running_trial(record: TrialRecord) -> RunningTrial:
    return RunningTrial(
        trial=record.number,
        epoch=round(record.progress, 2),
        epochs=record.params["num_train_epochs"],
        seconds=record.elapsed if record.attempts else record.seconds,
        value=record.value,
        gpu_memory_bytes=record.gpu_memory_bytes,
        used_precision=record.used_precision,
    )


def running_sweeps(storage: LedgerStorage) -> list[Status]:
    """Return the sweeps whose driver has not recorded its end. A silent driver may still run."""
    ledgers = [load_ledger(storage, name) for name in sweep_names(storage) if fully_created(storage, name)]
    signed = [
        ledger for ledger in ledgers if (driver := driver_of(ledger.latest_attributes())) and driver.ended is None
    ]
    return [status(ledger) for ledger in signed]


def status_json(found: Status | Sequence[Status]) -> str:
    """Return one status as a JSON object, or several as an array."""
    values = asdict(found) if isinstance(found, Status) else [asdict(one) for one in found]
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


def stop_sweep(ledger: Ledger, request: StopRequest, say: Callable[[str], object]) -> None:
    """Ask the sweep's driver to stop and wait for its end. `say` receives a line for each step.

    Raises EnvironmentFailure when the driver does not answer.
    """
    driver = driver_of(ledger.latest_attributes())
    state = driver.state(ledger.now()) if driver else "ended"
    if driver is None or state in ("ended", "died"):
        why = "its driver has died" if state == "died" else "it is not running"
        say(f"{ledger.name}: there is nothing to stop, {why}")
        return
    request_stop(ledger, driver, request)
    if state == "running":
        say(f"{ledger.name}: asked process {driver.pid} on {driver.host} to end; {PROMISES[request]}")
        state = wait_for_driver(ledger, driver, MAX_WAIT_SECONDS)
    if state in ("running", "silent"):
        raise EnvironmentFailure(no_answer_text(ledger, driver))
    say(f"{ledger.name}: stopped; nothing that was finished is lost")


def no_answer_text(ledger: Ledger, driver: Driver) -> str:
    seen = duration_text(ledger.now() - driver.seen)
    return (
        f"sweep {ledger.name}: process {driver.pid} on {driver.host} was seen {seen} ago and does not answer; it has "
        "died or cannot reach the ledger; end it there if it still runs, or wait: it stops when it reads the request"
    )


def duration_text(seconds: float) -> str:
    """Return a duration in whole seconds, in the notation of search spaces.

    >>> duration_text(200.4)
    '3m20s'
    """
    return duration(max(0, round(seconds))) or "0s"

"""What a sweep is doing now, and the way to end it from afar. Reads the ledger alone, so that it answers on every
machine that reaches it, also where the data, the job or the checkpoints are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optuna.storages import RDBStorage

from sweeper.errors import EnvironmentFailure
from sweeper.ledger.ledger import Ledger, load_ledger, ready, sweep_names
from sweeper.ledger.ranking import best_first
from sweeper.ledger.record import TrialRecord
from sweeper.monitor.heartbeat import BEAT, LOOK, SILENT, Driver, State, Wish, ask, driver_of, wait_for_driver, wish_for
from sweeper.process.signals import SHUTDOWN_SECONDS
from sweeper.space.sections import duration

LONGEST_WAIT = (
    LOOK + SHUTDOWN_SECONDS + SILENT + BEAT
)  # even a driver that is killed by its own patience has been missed by then
PROMISES: Mapping[Wish, str] = {
    "stop": f"it looks every {LOOK:g} s, lets running trials save what they have, and ends within half a minute",
    "now": f"it looks every {LOOK:g} s and ends then; its trials go on from their last checkpoints",
}


@dataclass(frozen=True)
class Running:
    """A trial that is being trained; `epoch` and `seconds` are those of its last evaluation."""

    trial: int
    epoch: float
    epochs: float
    seconds: float
    value: float | None


@dataclass(frozen=True)
class TrialCounts:
    """Trials by what became of them. `left` have not begun; `total` is the most there will be, repeats included."""

    finished: int
    pruned: int
    failed: int
    running: int
    left: int
    total: int


@dataclass(frozen=True)
class Best:
    trial: int
    value: float


@dataclass(frozen=True)
class Process:
    """The newest driver. `seconds` it has run, and `seen` so many seconds ago, both by the ledger's own clock."""

    host: str
    pid: int
    seconds: float
    seen: float


@dataclass(frozen=True)
class Status:
    """state   of the driver; None when none has ever signed
    asked   whether it was asked to stop, and how
    """

    sweep: str
    state: State | None
    process: Process | None
    asked: Wish | None
    objective: str
    trials: TrialCounts
    best: Best | None
    running: tuple[Running, ...]

    def lines(self) -> list[str]:
        """For people: driver, trials, best, and the running trials one by one."""
        leader = f"{self.objective} {self.best.value:.4f} (trial {self.best.trial})" if self.best else "–"
        return [
            f"{self.sweep}: {self._driver()}",
            *([f"  {self._asked()}"] if self.asked and self.state == "running" else []),
            f"  trials: {self._counts()}",
            f"  best so far: {leader}",
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

    def _running(self, trial: Running) -> str:
        value = "–" if trial.value is None else f"{self.objective} {trial.value:.4f}"
        so_far = f"epoch {trial.epoch:g} of {trial.epochs:g} after {duration_text(trial.seconds)}"
        return f"trial {trial.trial}: {so_far}, best {value}"

    def next(self) -> str:
        """The command that comes next."""
        if self.state == "running":
            return f"sweeper status {self.sweep}   or   sweeper stop {self.sweep}"
        return f"sweeper {'resume' if self.trials.running or self.trials.left else 'compare'} {self.sweep}"


def status(ledger: Ledger) -> Status:
    """How a sweep stands at this moment.

    >>> status(load_ledger(storage, "qa_backbones")).trials.running
    2
    """
    notes, now = ledger.notes(), ledger.now()
    driver, records = driver_of(notes), ledger.records()
    ranked = best_first(records, ledger.direction)
    return Status(
        sweep=ledger.name,
        state=driver.state(now) if driver else None,
        process=process_of(driver, now) if driver else None,
        asked=wish_for(driver, notes) if driver else None,
        objective=ledger.objective,
        trials=count_trials(records, notes["search_space"]),
        best=Best(ranked[0].number, ranked[0].value) if ranked and ranked[0].value is not None else None,
        running=tuple(running(record) for record in records if record.state == "RUNNING"),
    )


def process_of(driver: Driver, now: float) -> Process:
    last = now if driver.state(now) == "running" else driver.seen
    return Process(driver.host, driver.pid, max(0.0, last - driver.started), max(0.0, now - driver.seen))


def count_trials(records: Sequence[TrialRecord], space: Mapping[str, Any]) -> TrialCounts:
    """`space` as the ledger has it, in plain values: the job it names need not be installed here."""
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


def running(record: TrialRecord) -> Running:
    return Running(record.number, record.epochs, record.params["num_train_epochs"], record.seconds, record.value)


def active(storage: RDBStorage) -> list[Status]:
    """The sweeps whose driver runs, or has not said that it ended: from afar, one that is silent may be either."""
    ledgers = [load_ledger(storage, name) for name in sweep_names(storage) if ready(storage, name)]
    signed = [ledger for ledger in ledgers if (driver := driver_of(ledger.notes())) and driver.ended is None]
    return [status(ledger) for ledger in signed]


def status_json(found: Status | Sequence[Status]) -> str:
    """One object, or an array of them."""
    values = asdict(found) if isinstance(found, Status) else [asdict(one) for one in found]
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


def stop(ledger: Ledger, wish: Wish, say: Callable[[str], object]) -> None:
    """Ask the sweep's driver to come to its end, and return when it has; `say` is told what happens meanwhile.

    Raises EnvironmentFailure when the driver does not answer.
    """
    driver = driver_of(ledger.notes())
    state = driver.state(ledger.now()) if driver else "ended"
    if driver is None or state in ("ended", "died"):
        why = "its driver has died" if state == "died" else "it is not running"
        say(f"{ledger.name}: there is nothing to stop, {why}")
        return
    ask(ledger, driver, wish)
    if state == "running":
        say(f"{ledger.name}: asked process {driver.pid} on {driver.host} to end; {PROMISES[wish]}")
        state = wait_for_driver(ledger, driver, LONGEST_WAIT)
    if state in ("running", "silent"):
        raise EnvironmentFailure(unanswered(ledger, driver))
    say(f"{ledger.name}: stopped; nothing that was finished is lost")


def unanswered(ledger: Ledger, driver: Driver) -> str:
    seen = duration_text(ledger.now() - driver.seen)
    return (
        f"sweep {ledger.name}: process {driver.pid} on {driver.host} was seen {seen} ago and does not answer; it has "
        "died or cannot reach the ledger; end it there if it still runs, or wait: it will stop once it reads this"
    )


def duration_text(seconds: float) -> str:
    """A length of time in whole seconds, as a search space writes it.

    >>> span(200.4)
    '3m20s'
    """
    return duration(max(0, round(seconds))) or "0s"

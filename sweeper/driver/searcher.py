"""Give Ray Tune the trials that the ledger draws."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from jobs.timing import START, WAITING

if TYPE_CHECKING:
    from sweeper.ledger.record import TrialRecord
from collections.abc import Callable
from dataclasses import asdict, dataclass

from ray.tune.search import Searcher

from sweeper.cluster import nodes as cluster
from sweeper.cluster.capacity import reservation_of, reservations, trials_at_once
from sweeper.driver.checkpoints import resume_checkpoints
from sweeper.driver.repeats import RepeatSeed, missing_repeats
from sweeper.driver.sweep import Sweep
from sweeper.ledger.record import TrialRecord
from sweeper.process.signals import Interrupt
from sweeper.results.timing import Timing
from sweeper.trial import handover


class TrialTimer:
    """The trials that run: since when each is to run, and since when it does. Seconds of the driver's own clock, as
    another machine's may go otherwise."""

    def __init__(self) -> None:
        self.asked: dict[int, float] = {}
        self.began: dict[int, float] = {}

    def ask(self, number: int) -> None:
        self.asked[number] = time.monotonic()

    def begin(self, number: int) -> None:
        self.began[number] = time.monotonic()

    def timing(self, number: int, taken: Timing) -> dict[str, float]:
        """What a trial has told of its phases, with what only the driver can know at its first report: how long it
        waited for its turn, and how long it took to start before it could measure anything."""
        timing = defaultdict(float, taken)
        if (began := self.began.pop(number, None)) is not None:
            timing[WAITING] += began - self.asked.pop(number, began)
            timing[START] += max(0.0, time.monotonic() - began - sum(taken.values()))
        return dict(timing)


CHECK_SECONDS = 5.0  # seconds between looks at a cluster's nodes


def trial_config(sweep: Sweep, record: TrialRecord) -> handover.TrialConfig:
    """The trial as its process is told of it, going on from its newest whole checkpoint if it has one."""
    workdir = sweep.workdir(record.number)
    storage = sweep.storage(record.number)
    resume_from, *earlier = resume_checkpoints(record, workdir, storage) or (None,)
    handover.clear_handover(workdir)
    share = reservation_of(sweep.space, record.params, sweep.machine)
    return handover.TrialConfig(
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


class NotPickled:
    """Tune pickles what it is given into a restore file. Ours is never restored, and a database has no pickle."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class TrialSource:
    """Where trials come from.

    mine    whether a trial of the ledger is one of them
    wanted  whether another is to be made
    new     makes it; None when there is nothing new to offer
    """

    mine: Callable[[TrialRecord], bool]
    wanted: Callable[[], bool]
    new: Callable[[], TrialRecord | None]


def new_trials_source(sweep: Sweep) -> TrialSource:
    """What the sampler proposes, as many trials as the search space asks for."""
    return TrialSource(
        mine=lambda record: record.repeat_of is None,
        wanted=lambda: sweep.ledger.tally.searched < (sweep.space.search.trials or 0),
        new=lambda: sweep.ledger.ask(sweep.space),
    )


def repeats_source(sweep: Sweep) -> TrialSource:
    """The finalists once more, with other seeds."""

    def first() -> RepeatSeed | None:
        return next(missing_repeats(sweep.ledger.records(), sweep.space), None)

    return TrialSource(
        mine=lambda record: record.repeat_of is not None,
        wanted=lambda: first() is not None,
        new=lambda: sweep.ledger.repeat(*found) if (found := first()) else None,
    )


class LedgerSearcher(NotPickled, Searcher):  # type: ignore[misc]
    """Gives Tune the ledger's trials: those left unfinished, then new ones while there are any. A trial that
    breaks down may come back, so there is no end while others run."""

    def __init__(
        self,
        sweep: Sweep,
        source: TrialSource,
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
        self.shares = reservations(sweep.space, sweep.machine)
        self.nodes = sweep.machine.parts
        self.counted = 0.0  # when the nodes were
        self.left = self.unfinished()
        self.exhausted = False  # nothing new is to be had; what is left may still come back
        self.attempts = TrialTimer()
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
        return asdict(trial_config(self.sweep, record))

    def most(self) -> int:
        """How many trials Tune has at once: as many as there is room for. On a cluster, whose nodes are counted now
        and then, one more, which is what has it grow, or tells that it can run none."""
        if not self.sweep.machine.nodes:
            return self.room()
        if time.monotonic() - self.counted > CHECK_SECONDS:
            self.counted, self.nodes = time.monotonic(), cluster.live_nodes()
        return self.room() + 1

    def room(self) -> int:
        return max(trials_at_once(share, self.nodes) for share in self.shares)

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
        """LedgerCallback records the result."""
        self.given.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep goes on from its ledger")

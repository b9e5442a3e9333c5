"""Give Ray Tune the trials that the ledger proposes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from ray.tune.search import Searcher

from jobs import get_job
from jobs.backbone.names import absolute_name
from jobs.params import TrainingParams
from jobs.timing import START, WAITING
from sweeper.budget.account import Account
from sweeper.cluster.capacity import TrialReservation, cluster_of, reservation_of, reservations, trials_at_once
from sweeper.cluster.surveys import NodeSurveys
from sweeper.driver.checkpoints import resume_checkpoints
from sweeper.driver.repeats import RepeatSeed, missing_repeats
from sweeper.driver.retries import allowed_at_once
from sweeper.driver.sweep import Sweep
from sweeper.errors import EnvironmentFailure
from sweeper.ledger.record import TrialRecord
from sweeper.process.cgroups import usable_memory
from sweeper.process.import_path import user_folders
from sweeper.process.signals import Interrupt
from sweeper.results.timing import Timing
from sweeper.storage.checkpoint_store import name_of
from sweeper.trial import handover


class TrialTimer:
    """Measure how long running trials wait and start, in seconds of the driver's monotonic clock.

    asked, began  times at which a trial was given to Tune and at which Tune started it, by trial number
    """

    def __init__(self) -> None:
        self.asked: dict[int, float] = {}
        self.began: dict[int, float] = {}

    def ask(self, number: int) -> None:
        self.asked[number] = time.monotonic()

    def begin(self, number: int) -> None:
        self.began[number] = time.monotonic()

    def timing(self, number: int, taken: Timing) -> dict[str, float]:
        """Return the seconds that a trial spent in each phase since its last report.

        The trial's process measures `taken`. The first report also gets the seconds that the trial waited in Tune's
        queue and that its process took to start; only the driver can measure these.
        """
        timing = defaultdict(float, taken)
        if (began := self.began.pop(number, None)) is not None:
            timing[WAITING] += began - self.asked.pop(number, began)
            timing[START] += max(0.0, time.monotonic() - began - sum(taken.values()))
        return dict(timing)


CHECK_SECONDS = 5.0  # time between two requests for the nodes of a cluster


def go_back(sweep: Sweep, record: TrialRecord) -> tuple[TrialRecord, tuple[str, ...]]:
    """Return a trial as it resumes, and the checkpoints to resume from, newest first.

    Evaluations after the newest undamaged checkpoint are removed from the ledger: the trial makes them again.
    """
    checkpoints = resume_checkpoints(record, sweep.workdir(record.number), sweep.storage(record.number))
    return sweep.ledger.rewind(record.number, epoch_at(record, checkpoints[0] if checkpoints else None)), checkpoints


def epoch_at(record: TrialRecord, checkpoint: str | None) -> float:
    """Return the epoch of the evaluation with this checkpoint, given by address or by name; 0 if there is none."""
    names = {name_of(e["checkpoint"]): float(e["epoch"]) for e in record.evaluations if e["checkpoint"]}
    return names.get(name_of(checkpoint), 0.0) if checkpoint else 0.0


def trial_config(
    sweep: Sweep,
    record: TrialRecord,
    checkpoints: Sequence[str],
    reserved: TrialReservation | None = None,
    gpu_nodes: str = "",
) -> handover.TrialConfig:
    """Return the config for a trial's process, which resumes from the first undamaged of the checkpoints.

    reserved   what the trial reserves; by default what any trial with its params reserves on the sweep's machine
    gpu_nodes  condition on the nodes that may run a trial with a GPU, see `NodeSurveys.selector`
    """
    workdir = sweep.workdir(record.number)
    resume_from, *earlier = checkpoints or (None,)
    handover.clear_handover(workdir)
    reserved = reserved or reservation_of(sweep.space, record.params, sweep.machine)
    return handover.TrialConfig(
        number=record.number,
        job=sweep.space.job,
        params=_anywhere(sweep.space.job, record.used),
        data=sweep.space.data,
        workdir=str(workdir),
        cpus=reserved.cpus,
        gpus=reserved.gpus,
        resume_from=resume_from,
        earlier=tuple(filter(None, earlier)),
        storage=sweep.storage(record.number),
        workers=reserved.workers,
        folders=user_folders(),
        nodes=gpu_nodes if reserved.gpus else "",
        notes=str(sweep.batch_sizes),
    )


def _anywhere(job: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the params with an absolute path to the backbone, since a trial has another working directory."""
    if not issubclass(get_job(job).params, TrainingParams):  # what a backbone is, is up to the job
        return params
    return {**params, "backbone": absolute_name(params["backbone"])}


class NotPickled:
    """Give an object an empty pickled state.

    Tune pickles searchers and callbacks for its own restore file. Sweeps resume from the ledger instead, and a database
    connection cannot be pickled.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class TrialSource:
    """Define a source of trials.

    is_member  True for a trial in the ledger that came from this source
    wanted     True while another trial is needed
    new        creates the next trial; None when none is left
    """

    is_member: Callable[[TrialRecord], bool]
    wanted: Callable[[], bool]
    new: Callable[[], TrialRecord | None]


def new_trials_source(sweep: Sweep) -> TrialSource:
    """Return the source that asks the sampler for as many trials as the search space requests."""
    return TrialSource(
        is_member=lambda record: record.repeat_of is None,
        wanted=lambda: sweep.ledger.tally.searched < (sweep.space.search.trials or 0),
        new=lambda: sweep.ledger.ask(sweep.space),
    )


def repeats_source(sweep: Sweep) -> TrialSource:
    """Return the source of repeats: the best trials with other seeds."""

    def first() -> RepeatSeed | None:
        return next(missing_repeats(sweep.ledger.records(), sweep.space), None)

    return TrialSource(
        is_member=lambda record: record.repeat_of is not None,
        wanted=lambda: first() is not None,
        new=lambda: sweep.ledger.repeat(*found) if (found := first()) else None,
    )


class LedgerSearcher(NotPickled, Searcher):  # type: ignore[misc]
    """Give Tune the ledger's unfinished trials first, then new ones from `source`.

    The search does not finish while trials run, because a running trial may fail and need a retry.
    """

    def __init__(
        self,
        sweep: Sweep,
        source: TrialSource,
        on_change: Callable[[TrialRecord], None],
        interrupt: Interrupt,
        say: Callable[[str], None] = print,
        surveys: NodeSurveys | None = None,
        account: Account | None = None,
    ) -> None:
        super().__init__(metric=sweep.space.objective, mode=sweep.space.direction)
        self.sweep = sweep
        self.source = source
        self.on_change = on_change
        self.interrupt = interrupt
        self.say = say
        self.surveys = surveys or NodeSurveys(say, sweep.machine.nodes)
        self.account = account or Account(sweep.ledger, sweep.space)
        self.machine = sweep.machine
        self.reservations = reservations(sweep.space, sweep.machine)
        self.nodes = sweep.machine.parts
        self.placed: dict[str, TrialReservation] = {}  # of trials that share GPUs of one kind of node, by Tune's id
        self.counted = 0.0  # time of the last node count
        self.left = self.unfinished()
        self.exhausted = False  # the source has no more trials; running ones may still be retried
        self.attempts = TrialTimer()
        self.given: dict[str, int] = {}  # running trials: Tune's id → our number
        self.memory = None if sweep.machine.nodes else usable_memory()  # bytes that all trials share
        self.at_once = allowed_at_once(sweep.ledger.records(), self.memory)  # None: as many as fit

    def unfinished(self) -> list[TrialRecord]:
        return [
            record
            for record in self.sweep.ledger.records()
            if record.state == "RUNNING" and self.source.is_member(record)
        ]

    def has_trials(self) -> bool:
        """Return True if a trial can start: one is unfinished or wanted, no limit of the budget is reached, and no stop
        was requested. Some limits let unfinished trials run to their end."""
        if self.interrupt.stopping or self.account.ends_trials():
            return False
        return bool(self.left) or (not self.exhausted and self.account.limit() is None)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's config; Searcher.FINISHED at the end.

        Return None while all slots are busy, since a later draw can learn from more results. Also return None while a
        running trial may still need a retry. After None, Tune asks again.
        """
        if not self.interrupt.stopping and len(self.given) >= self.max_running():
            return None
        record = self.next()
        if record is None:
            return None if self.given and not self.interrupt.stopping else str(Searcher.FINISHED)
        self.given[trial_id] = record.number
        self.attempts.ask(record.number)
        record, checkpoints = go_back(self.sweep, record)
        self.on_change(record)
        reserved = self.place(trial_id, record)
        return asdict(trial_config(self.sweep, record, checkpoints, reserved, self.surveys.selector(reserved.nodes)))

    def place(self, trial_id: str, record: TrialRecord) -> TrialReservation:
        """Return what a trial reserves. If nodes of different kinds have different reservations, choose one with room.

        Without room, the trial waits for a whole GPU on any node, perhaps one that joins.
        """
        reserved = reservation_of(self.sweep.space, record.params, self.machine)
        if chosen := next(filter(self.has_room, reserved.parts), None):
            self.placed[trial_id] = chosen
        return chosen or reserved

    def has_room(self, part: TrialReservation) -> bool:
        """Return True if fewer trials than fit were given to the nodes of a reservation."""
        running = [self.placed[one] for one in self.given if one in self.placed]
        there = sum(bool({*part.nodes} & {*one.nodes}) for one in running)
        return there < trials_at_once(part, self.nodes)

    def is_stranded(self, trial_id: str) -> bool:
        """Return True if all nodes that a trial's reservation is for have left, or cannot use their GPUs."""
        placed = self.placed.get(trial_id)
        return placed is not None and not any(node.gpus and node.id in placed.nodes for node in self.nodes)

    def max_running(self) -> int:
        """Return the number of trials to give to Tune at once: as many as fit on the nodes and in the memory.

        A cluster gets one more than fit on its nodes. The pending trial makes the autoscaler add a node, or lets
        NodeCallback report that none fits.
        """
        if self.sweep.machine.nodes and time.monotonic() - self.counted > CHECK_SECONDS:
            self.count_nodes()
        fitting = self.fitting() + bool(self.sweep.machine.nodes)
        return fitting if self.at_once is None else min(fitting, self.at_once)

    def count_nodes(self) -> None:
        """Count the nodes of a cluster, and check the GPUs of those that have joined."""
        if any(one.gpus for one in self.reservations):
            self.surveys.poll()
        self.counted, self.nodes = time.monotonic(), self.surveys.nodes()
        machine = replace(cluster_of(self.nodes), memory=self.sweep.machine.memory)
        if machine.gpus and any(one.note for one in self.reservations):  # other nodes may have other shares
            with suppress(EnvironmentFailure):  # no node fits a trial at present
                self.reservations, self.machine = reservations(self.sweep.space, machine), machine

    def fitting(self) -> int:
        return max(trials_at_once(one, self.nodes) for one in self.reservations)

    def next(self) -> TrialRecord | None:
        if not self.has_trials():
            return None
        record = self.left.pop(0) if self.left else self.source.new() if self.source.wanted() else None
        self.exhausted = record is None
        return record

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Free the trial's slot. LedgerCallback records the result."""
        self.given.pop(trial_id, None)
        self.placed.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing, since the ledger has the state. Tune calls this method."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("sweeps resume from the ledger")

"""The one record of a sweep's trials: an Optuna study, which any Optuna tool can open.

What a trial is to try is asked here, what became of it is written here first, and everything that is
shown or mirrored elsewhere is read from here. Holds no Ray, no MLflow and no files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import extract, func, select

from jobs import faults, get_job
from jobs.job import Direction, ParamError
from jobs.wording import unknown_name
from sweeper.errors import ConfigError
from sweeper.ledger.record import EVALUATION, INCIDENT, ORIGIN, State, TrialRecord, best_evaluation, trial_key
from sweeper.ledger.sampling import draw, enqueueable, sampler
from sweeper.space.search_space import SearchSpace, assign, grid, params_of, resolved

ABANDONED = "abandoned"
READY = "ready"
SHOWN_AS = "shown_as"
DRAWS = 50  # of parameters that had been tried, before the space counts as exhausted


def sweep_names(storage: RDBStorage) -> list[str]:
    """The sweeps in this database, oldest first."""
    return [summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)]


@dataclass
class Tally:
    """What is asked at every step of a sweep, kept up instead of read from all trials, which would take ever longer.
    Its owner is the only one who adds trials or ends them; a reading of all of them counts anew.

    keys      of all trials there are to know of
    drawn     how many trials there would be, had no driver been killed; each draw's seed follows from it
    searched  how many trials are no repeats
    failed    how many trials are FAIL
    waiting   Optuna's ids of the settings that are still to be tried, in order
    """

    keys: set[str]
    drawn: int
    searched: int
    failed: int
    waiting: deque[int]

    def add(self, record: TrialRecord) -> None:
        self.keys.add(record.key)
        self.searched += record.repeat_of is None
        self.failed += record.state == "FAIL"


def tally_of(trials: Sequence[optuna.trial.FrozenTrial], records: Sequence[TrialRecord]) -> Tally:
    waiting = deque(trial._trial_id for trial in trials if trial.state == TrialState.WAITING)
    tally = Tally(set(), sum(ABANDONED not in trial.user_attrs for trial in trials), 0, 0, waiting)
    for record in records:
        tally.add(record)
    return tally


@dataclass(frozen=True)
class Ledger:
    """One sweep's study.

    >>> ledger = create_ledger(open_storage("sqlite:///sweeps/ledger.db"), space, "qa_backbones")
    >>> trial = ledger.ask(space)
    >>> ledger.report(trial.number, {"exact_match": 0.61, "epoch": 1.0, "seconds": 9.2}, "…/checkpoint-000100")
    >>> ledger.finish(trial.number, "COMPLETE")
    >>> ledger.records()[0].value
    0.61
    """

    storage: RDBStorage
    study: optuna.Study
    _tallies: list[Tally] = field(default_factory=list, repr=False, compare=False)  # the newest, once there is one
    _ids: dict[int, int] = field(default_factory=dict, repr=False, compare=False)  # number → Optuna's id

    @property
    def name(self) -> str:
        return self.study.study_name

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """What was noted when the sweep was created: job, objective, metrics, search_space, trials …"""
        return self.study.user_attrs

    def notes(self) -> Mapping[str, Any]:
        """The attributes as they are now, also those that others write."""
        return self.storage.get_study_user_attrs(self.storage.get_study_id_from_name(self.name))

    def note(self, name: str, value: Any) -> None:
        self.study.set_user_attr(name, value)

    def now(self) -> float:
        """Seconds since 1970 by the database's clock, the one that all machines share which reach it. SQLite has
        none but that of the machine that asks."""
        with self.storage.engine.connect() as connection:
            return float(connection.execute(select(extract("epoch", func.current_timestamp()))).scalar_one())

    @property
    def objective(self) -> str:
        return str(self.attributes["objective"])

    @property
    def direction(self) -> Direction:
        return "max" if self.study.direction == optuna.study.StudyDirection.MAXIMIZE else "min"

    def records(self) -> list[TrialRecord]:
        """Every trial there is to know of, by number; draws that had been tried before are not among them."""
        trials, noted = self.study.get_trials(deepcopy=False), self.study.user_attrs
        records = [self._record(trial, noted) for trial in trials if "params" in trial.user_attrs]
        self._tallies[:] = [tally_of(trials, records)]
        return records

    @property
    def tally(self) -> Tally:
        if not self._tallies:
            self.records()
        return self._tallies[0]

    def record(self, number: int) -> TrialRecord:
        return self._record(self.storage.get_trial(self._id(number)), self.study.user_attrs)

    def ask(self, space: SearchSpace) -> TrialRecord | None:
        """The next trial to run, or None when the search space has nothing new to offer.

        The sampler is made anew from the seed and the trial's number, so that a sweep which was
        interrupted goes on with the draws it would have made.
        """
        for _ in range(DRAWS):
            self.study.sampler = sampler(space, self.tally.drawn)
            trial = self._begin(space)
            params = draw(trial, space)
            key = trial_key(space.job, params, space.data_fingerprint) if params else None
            if key and key not in self.tally.keys:
                trial.set_user_attr("key", key)
                trial.set_user_attr("params", params)
                self.tally.add(record := self.record(trial.number))
                return record
            self.study.tell(trial, state=TrialState.FAIL)
        return None

    def _begin(self, space: SearchSpace) -> optuna.Trial:
        """What `study.ask` does, which looks through all trials for one that waits. TPE does so in any case, and
        needs what else that method sets up."""
        waiting = self.tally.waiting
        enqueued = waiting.popleft() if waiting else None
        self.tally.drawn += enqueued is None
        if space.search.sampler == "tpe":
            trial = self.study.ask()
        elif enqueued is None:
            trial = optuna.Trial(self.study, self.study._storage.create_new_trial(self._study_id))
        else:
            self.storage.set_trial_state_values(enqueued, TrialState.RUNNING)
            trial = optuna.Trial(self.study, enqueued)
        self._ids[trial.number] = trial._trial_id
        return trial

    @cached_property
    def _study_id(self) -> int:
        return self.storage.get_study_id_from_name(self.name)

    def mend(self, space: SearchSpace) -> None:
        """Put right what a driver leaves that is killed between two writes. Only for the sweep's owner.

        A trial whose parameters were never written down is closed, and its draw is made again; one whose
        last epoch is on record is finished.
        """
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "params" not in trial.user_attrs:
                self._abandon(trial, space)
            elif self.record(trial.number).trained:
                self.finish(trial.number, "COMPLETE")
        self._tallies.clear()

    def _abandon(self, trial: optuna.trial.FrozenTrial, space: SearchSpace) -> None:
        fixed = trial.user_attrs.get("fixed")
        if fixed is not None and ABANDONED not in trial.user_attrs:
            self.study.enqueue_trial(enqueueable(space, fixed), user_attrs={"fixed": fixed})
        self.storage.set_trial_user_attr(trial._trial_id, ABANDONED, True)
        self.study.tell(trial.number, state=TrialState.FAIL)

    def repeat(self, number: int, seed: int) -> TrialRecord:
        """A new trial with the parameters of another and this seed. The sampler has no part in it."""
        params = {**self.record(number).params, "seed": seed}
        trial_id = self.storage.create_new_trial(self._study_id)
        fingerprint = self.attributes["data_fingerprint"]
        for attribute, value in (
            ("repeat_of", number),
            ("key", trial_key(self.attributes["job"], params, fingerprint)),
            ("params", params),
        ):
            self.storage.set_trial_user_attr(trial_id, attribute, value)
        self._tallies.clear()  # repeats are few
        return self.record(self.storage.get_trial_number_from_id(trial_id))

    def report(
        self,
        number: int,
        metrics: Mapping[str, Any],
        checkpoint: str | None,
        timing: Mapping[str, float] | None = None,
    ) -> TrialRecord:
        """Record one evaluation, and in seconds what each phase took since the one before. The same epoch reported
        again, as after a restart, replaces the first."""
        faults.point("ledger.report")
        trial_id = self._id(number)
        evaluation = {**metrics, "checkpoint": checkpoint, **({"timing": dict(timing)} if timing else {})}
        self.storage.set_trial_user_attr(trial_id, f"{EVALUATION}{metrics['epoch']:014.6f}", evaluation)
        record = self.record(number)
        step = len(record.evaluations)
        self.storage.set_trial_intermediate_value(trial_id, step, metrics[self.objective])
        return record

    def survive(self, number: int, incident: Mapping[str, Any]) -> TrialRecord:
        """Note what has happened to a trial that goes on all the same."""
        nth = len(self.record(number).incidents)
        self.storage.set_trial_user_attr(self._id(number), f"{INCIDENT}{nth:04d}", dict(incident))
        return self.record(number)

    def finish(self, number: int, state: State, reason: str | None = None) -> TrialRecord:
        """Close a trial. Its value is that of its best evaluation; only a finished one has state COMPLETE."""
        faults.point("ledger.finish")
        if reason:
            self.storage.set_trial_user_attr(self._id(number), "reason", reason)
        value = self.record(number).value if state == "COMPLETE" else None
        self.study.tell(number, value, state=TrialState[state])
        for tally in self._tallies:
            tally.failed += state == "FAIL"
        return self.record(number)

    def extend(self, space: SearchSpace) -> None:
        """Note that more trials are asked for, or other checkpoints kept, than when the sweep was created."""
        if self.study.user_attrs["search_space"] != resolved(space):
            self.study.set_user_attr("search_space", resolved(space))

    def shown_as(self, proposed: str) -> str:
        """The key by which MLflow knows the sweep: what was proposed first, on whichever machine that was."""
        if SHOWN_AS not in self.study.user_attrs:
            self.study.set_user_attr(SHOWN_AS, proposed)
        return str(self.study.user_attrs[SHOWN_AS])

    def set_run(self, number: int, run_id: str) -> None:
        """Note which MLflow run shows a trial; kept with the study, since a finished trial is closed to changes."""
        self.study.set_user_attr(f"run:{number}", run_id)

    def set_test(self, number: int, score: float) -> None:
        """Note a trial's score on the test questions; the latest one counts."""
        self.study.set_user_attr(f"test:{number}", score)

    def _id(self, number: int) -> int:
        if number not in self._ids:
            self._ids[number] = self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        return self._ids[number]

    def _record(self, trial: optuna.trial.FrozenTrial, noted: Mapping[str, Any]) -> TrialRecord:
        """`noted`: what the study says of all trials, read once for many, since each look is a query."""
        attrs = trial.user_attrs
        evaluations = tuple(attrs[key] for key in sorted(attrs) if key.startswith(EVALUATION))
        best = best_evaluation(evaluations, self.objective, self.direction)
        return TrialRecord(
            number=trial.number,
            key=attrs["key"],
            state=trial.state.name,  # type: ignore[arg-type]
            params=attrs["params"],
            evaluations=evaluations,
            value=best[self.objective] if best else None,
            metrics={name: best[name] for name in self.attributes["metrics"] if name in best} if best else {},
            checkpoint=best["checkpoint"] if best else None,
            reason=attrs.get("reason"),
            run_id=noted.get(f"run:{trial.number}"),
            started=trial.datetime_start,
            ended=trial.datetime_complete,
            repeat_of=attrs.get("repeat_of"),
            test=noted.get(f"test:{trial.number}"),
            incidents=tuple(attrs[key] for key in sorted(attrs) if key.startswith(INCIDENT)),
            origin=attrs.get(ORIGIN),
        )


def create_ledger(
    storage: RDBStorage,
    space: SearchSpace,
    name: str,
    versions: Mapping[str, str] | None = None,
    adopted: Sequence[optuna.trial.FrozenTrial] = (),
) -> Ledger:
    """A new sweep's ledger, with the trials it begins with (see `adoption`) already in it, and the settings that
    are to be tried first already waiting.

    Raises ConfigError when there is a sweep of that name.
    """
    directions = optuna.study.StudyDirection
    direction = directions.MAXIMIZE if space.direction == "max" else directions.MINIMIZE
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction=direction)
    except optuna.exceptions.DuplicatedStudyError:
        raise ConfigError(f"sweep {name}: there is one of this name already; choose another name") from None
    noted = {
        "job": space.job,
        "data": space.data,
        "data_fingerprint": space.data_fingerprint,
        "objective": space.objective,
        "metrics": list(get_job(space.job).metrics),
        "search_space": resolved(space),
        "versions": dict(versions or {}),
    }
    for attribute, value in noted.items():
        study.set_user_attr(attribute, value)
    for trial in adopted:
        study.add_trial(trial)
    had = {trial.user_attrs["key"] for trial in adopted}
    combinations = grid(space) if space.search.sampler == "grid" else ()
    for settings in chain(space.search.enqueue, combinations):
        if not had or _settled_key(space, settings) not in had:
            study.enqueue_trial(enqueueable(space, settings), user_attrs={"fixed": dict(settings)})
    study.set_user_attr(READY, True)
    return Ledger(storage, study)


def _settled_key(space: SearchSpace, settings: Mapping[str, Any]) -> str | None:
    """The key of the trial that these settings alone decide; None where a sampler would add to them."""
    undecided = object()
    assignment = assign(space, lambda label, domain: undecided, settings)
    try:
        decided = undecided not in assignment.values()
        return trial_key(space.job, asdict(params_of(space, assignment)), space.data_fingerprint) if decided else None
    except ParamError:
        return None


def begun(storage: RDBStorage, name: str) -> bool:
    """Whether there is a sweep of this name. What is left of one whose driver was killed while it wrote down
    the search space is removed: it has run no trial. Only for the sweep's owner."""
    if name not in sweep_names(storage):
        return False
    if ready(storage, name):
        return True
    optuna.delete_study(study_name=name, storage=storage)
    return False


def ready(storage: RDBStorage, name: str) -> bool:
    """Whether a sweep was written down to its end."""
    study = optuna.load_study(study_name=name, storage=storage)
    attributes = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
    return READY in study.user_attrs or any("params" in attrs and ORIGIN not in attrs for attrs in attributes)


def load_ledger(storage: RDBStorage, name: str) -> Ledger:
    """Return the ledger of an existing sweep. Raises ConfigError if the name is unknown, with the most similar one."""
    names = sweep_names(storage)
    if name not in names:
        raise ConfigError(unknown_name("sweep", name, names))
    return Ledger(storage, optuna.load_study(study_name=name, storage=storage))

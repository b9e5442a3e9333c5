"""Store a sweep's trials in an Optuna study: draw parameters, record evaluations and results, read them back.
Every other view of a sweep (tables, plots, MLflow) is made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import optuna
from optuna.trial import TrialState
from sqlalchemy import extract, func, select

from jobs import fault_injection, get_job
from jobs.job import Direction
from jobs.suggestions import unknown_name
from sweeper.errors import ConfigError
from sweeper.ledger.addresses import data_attributes, present_attributes, present_evaluation, stored_trial
from sweeper.ledger.database import LedgerStorage
from sweeper.ledger.history import remove_evaluations, write_values
from sweeper.ledger.record import (
    ATTEMPT,
    CUT_BY,
    EVALUATION,
    INCIDENT,
    ORIGIN,
    State,
    TrialRecord,
    best_evaluation,
    evaluations_of,
    trial_key,
)
from sweeper.ledger.sampling.branches import draw_by_branches
from sweeper.ledger.sampling.draws import (
    draw,
    draw_seed,
    drawn_by_branches,
    enqueueable,
    fixed_key,
    record_draw,
    sampler,
)
from sweeper.ledger.sampling.learning import Learned, find_sources, learn
from sweeper.ledger.sampling.models import own_past
from sweeper.ledger.tally import ABANDONED, Tally, tally_of
from sweeper.space.search_space import SearchSpace, grid, resolved
from sweeper.storage.places import Places

READY = "ready"
FORECAST = "forecast"
MLFLOW_KEY = "shown_as"
STORED_AS = "stored_as"  # the sweep's folder in `[storage] checkpoints`, if it is not the sweep's name
PRECISION = "precision"  # the precision of trials that name none; sweeps of earlier versions lack this attribute
LEARNED = "learned"  # the trials of other sweeps that the sampler learns from: numbers by sweep
MAX_DRAWS = 50  # after this many draws of parameters that were already tried, the space counts as exhausted
MODEL_DRAWS = 5  # after this many of them, gp and cmaes would propose the same again, and draws are random


def sweep_names(storage: LedgerStorage) -> list[str]:
    """Return the names of the sweeps in this database, oldest first."""
    return [summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)]


@dataclass(frozen=True)
class Ledger:
    """Read and write one sweep's study.

    >>> ledger = create_ledger(open_storage("sqlite:///sweeps/ledger.db"), space, "qa_backbones")
    >>> trial = ledger.ask(space)
    >>> ledger.report(trial.number, {"exact_match": 0.61, "epoch": 1.0, "seconds": 9.2}, "…/checkpoint-000100")
    >>> ledger.finish(trial.number, "COMPLETE")
    >>> ledger.records()[0].value
    0.61
    """

    storage: LedgerStorage
    study: optuna.Study
    _tallies: list[Tally] = field(default_factory=list, repr=False, compare=False)  # the current one, or empty
    _learned: list[Learned] = field(default_factory=list, repr=False, compare=False)  # once they are read
    _ids: dict[int, int] = field(default_factory=dict, repr=False, compare=False)  # number → Optuna's id

    @property
    def name(self) -> str:
        return self.study.study_name

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """Return the study's attributes, read once: job, objective, metrics, search_space …

        `data`, there and in the search space, is the data folder of the project in use.
        """
        return present_attributes(self.study.user_attrs, self.places)

    @property
    def places(self) -> Places:
        """Return the folders that the ledger's addresses refer to."""
        return self.storage.places

    def latest_attributes(self) -> Mapping[str, Any]:
        """Read the attributes from the database, including changes by other processes."""
        return self.storage.get_study_user_attrs(self.storage.get_study_id_from_name(self.name))

    def set_attribute(self, name: str, value: Any) -> None:
        self.study.set_user_attr(name, value)

    def now(self) -> float:
        """Return the database server's time in seconds since 1970; SQLite uses the clock of this machine."""
        # Undocumented in optuna 5.0: `engine`, since RDBStorage has no method that runs a query.
        with self.storage.engine.connect() as connection:
            return float(connection.execute(select(extract("epoch", func.current_timestamp()))).scalar_one())

    @property
    def stored_as(self) -> str:
        """Return the name of the sweep's folder in `[storage] checkpoints`."""
        return str(self.attributes.get(STORED_AS, self.name))

    @property
    def objective(self) -> str:
        return str(self.attributes["objective"])

    @property
    def direction(self) -> Direction:
        return "max" if self.study.direction == optuna.study.StudyDirection.MAXIMIZE else "min"

    def records(self) -> list[TrialRecord]:
        """Return all trials by number, without draws that were discarded because their parameters were tried before."""
        trials, attributes = self.study.get_trials(deepcopy=False), self.study.user_attrs
        records = [self._record(trial, attributes) for trial in trials if "params" in trial.user_attrs]
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
        """Draw the next trial. Return None when the search space has no new parameters.

        Each draw uses a new sampler. Its seed depends on the sweep's seed and the number of draws, so that a resumed
        sweep draws the same parameters as an uninterrupted one.
        """
        for attempt in range(MAX_DRAWS):
            number = self.tally.drawn
            self.study.sampler = sampler(space, number)
            trial = self._begin(space)
            params = self._draw(trial, space, number, attempt)
            key = trial_key(space.job, params, space.data_fingerprint) if params else None
            learned = () if "fixed" in trial.user_attrs else self.learned(space).trials
            if key and key not in self.tally.keys and key not in learned:
                trial.set_user_attr("key", key)
                trial.set_user_attr("params", params)
                self.tally.add(record := self.record(trial.number))
                return record
            self.study.tell(trial, state=TrialState.FAIL)
        return None

    def _draw(self, trial: optuna.Trial, space: SearchSpace, number: int, attempt: int) -> dict[str, Any] | None:
        """Draw a trial's parameters. `number` counts draws, and `attempt` those of this trial. See MODEL_DRAWS."""
        kind = space.search.sampler
        if not drawn_by_branches(space) or (kind != "qmc" and attempt >= MODEL_DRAWS):
            return draw(trial, space)
        past = [past for key, past in self.learned(space).trials.items() if key not in self.tally.keys]
        past += own_past(self.study.get_trials(deepcopy=False), self.objective, self.direction)
        values = draw_by_branches(space, past, trial.user_attrs.get("fixed", {}), draw_seed(space, number), number)
        return record_draw(trial, space, values)

    def learned(self, space: SearchSpace) -> Learned:
        """Return the trials of other sweeps that the sampler learns from, as they were when the sweep was created."""
        if not self._learned:
            self._learned.append(learn(self.storage, self.attributes.get(LEARNED, {}), space))
        return self._learned[0]

    def _begin(self, space: SearchSpace) -> optuna.Trial:
        """Start a trial: the next enqueued one, else a new one.

        `study.ask` does the same, but it reads all trials to find an enqueued one. It is used for TPE, which reads all
        trials in any case. For other samplers the private `_storage`, `_trial_id` and `optuna.Trial(study, id)` are
        used as in `study.ask` of optuna 5.0.
        """
        waiting = self.tally.waiting
        enqueued = waiting.popleft() if waiting else None
        self.tally.drawn += enqueued is None
        if space.search.sampler == "tpe" and not drawn_by_branches(space):
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

    def repair(self, space: SearchSpace) -> None:
        """Repair the trials of a driver that was killed between two writes. Requires the sweep's lock.

        A trial without parameters is closed and drawn again. One whose last report is recorded is COMPLETE or PRUNED.
        """
        self.correct_values()
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "params" not in trial.user_attrs:
                self._abandon(trial, space)
            elif (record := self.record(trial.number)).trained:
                self.finish(trial.number, "COMPLETE")
            elif record.stopped:
                self.finish(trial.number, "PRUNED", record.stop_reason)
        self._tallies.clear()

    def _abandon(self, trial: optuna.trial.FrozenTrial, space: SearchSpace) -> None:
        fixed = trial.user_attrs.get("fixed")
        if fixed is not None and ABANDONED not in trial.user_attrs:
            self.study.enqueue_trial(enqueueable(space, fixed), user_attrs={"fixed": fixed})
        # Private in optuna 5.0: see `tally_of`.
        self.storage.set_trial_user_attr(trial._trial_id, ABANDONED, True)
        self.study.tell(trial.number, state=TrialState.FAIL)

    def repeat(self, number: int, seed: int) -> TrialRecord:
        """Create a trial with the parameters of trial `number` and another seed. The sampler is not used."""
        params = {**self.record(number).params, "seed": seed}
        trial_id = self.storage.create_new_trial(self._study_id)
        fingerprint = self.attributes["data_fingerprint"]
        for attribute, value in (
            ("repeat_of", number),
            ("key", trial_key(self.attributes["job"], params, fingerprint)),
            ("params", params),
        ):
            self.storage.set_trial_user_attr(trial_id, attribute, value)
        self._tallies.clear()  # counting again is cheap enough, since repeats are few
        return self.record(self.storage.get_trial_number_from_id(trial_id))

    def report(
        self,
        number: int,
        metrics: Mapping[str, Any],
        checkpoint: str | None,
        timing: Mapping[str, float] | None = None,
        conditions: Mapping[str, Any] | None = None,
    ) -> TrialRecord:
        """Record one evaluation. `timing` holds the seconds of each phase since the previous evaluation, `conditions`
        what `jobs.training.conditions` has noted.

        A second report of the same epoch replaces the first one, and removes those of later epochs: the trial has gone
        back to an earlier checkpoint and trains them again.
        """
        fault_injection.point("ledger.report")
        trial_id = self._id(number)
        self.rewind(number, metrics["epoch"])
        stored = self.places.stored_checkpoint(checkpoint)
        extra = {"timing": timing, "conditions": conditions}
        evaluation = {**metrics, "checkpoint": stored, **{name: dict(of) for name, of in extra.items() if of}}
        self.storage.set_trial_user_attr(trial_id, _evaluation_name(metrics["epoch"]), evaluation)
        record = self.record(number)
        step = len(record.evaluations)
        self.storage.set_trial_intermediate_value(trial_id, step, metrics[self.objective])
        return record

    def rewind(self, number: int, epoch: float) -> TrialRecord:
        """Remove the evaluations after `epoch` of a running trial that resumes there; 0 removes all."""
        record = self.record(number)
        kept = [evaluation for evaluation in record.evaluations if evaluation["epoch"] <= epoch]
        stale = [_evaluation_name(one["epoch"]) for one in record.evaluations[len(kept) :]]
        if not stale:
            return record
        remove_evaluations(self.storage, self._id(number), stale, self._values(kept))
        return self.record(number)

    def correct_values(self) -> list[int]:
        """Make Optuna's intermediate values those of the evaluations. Return the numbers of the corrected trials.

        They differ after a kill between the two writes of `report`, and in ledgers of version 0.1.0.
        """
        corrected = []
        # Private in optuna 5.0: see `tally_of`. The storage is read without the study's cache of finished trials.
        for trial in self.storage.get_all_trials(self._study_id, deepcopy=False):
            values = self._values(evaluations_of(trial.user_attrs))
            if "params" in trial.user_attrs and trial.intermediate_values != values:
                write_values(self.storage, trial._trial_id, values)
                corrected.append(trial.number)
        return corrected

    def _values(self, evaluations: Sequence[Mapping[str, Any]]) -> dict[int, float]:
        """Return the objective by step, as Optuna stores it; the first step is 1."""
        return {step: float(evaluation[self.objective]) for step, evaluation in enumerate(evaluations, 1)}

    def add_incident(self, number: int, incident: Mapping[str, Any]) -> TrialRecord:
        """Record a failure after which the trial continues."""
        nth = len(self.record(number).incidents)
        self.storage.set_trial_user_attr(self._id(number), f"{INCIDENT}{nth:04d}", dict(incident))
        return self.record(number)

    def set_attempt(self, number: int, nth: int, attempt: Mapping[str, float]) -> None:
        """Record what the `nth` attempt of a running trial has spent so far."""
        self.storage.set_trial_user_attr(self._id(number), f"{ATTEMPT}{nth:04d}", dict(attempt))

    def finish(self, number: int, state: State, reason: str | None = None, ended_by: str | None = None) -> TrialRecord:
        """End a trial. A COMPLETE one gets the value of its best evaluation. `ended_by` is the key of a budget."""
        fault_injection.point("ledger.finish")
        for name, text in (("reason", reason), (CUT_BY, ended_by)):
            if text:
                self.storage.set_trial_user_attr(self._id(number), name, text)
        value = self.record(number).value if state == "COMPLETE" else None
        self.study.tell(number, value, state=TrialState[state])
        return self.record(number)

    def extend(self, space: SearchSpace) -> None:
        """Store the changed search space of a resumed sweep, for example with a larger number of trials."""
        if self.study.user_attrs["search_space"] != resolved(space):
            for attribute, value in data_attributes(space, self.places).items():
                self.study.set_user_attr(attribute, value)
            self.study.set_user_attr("search_space", resolved(space))

    def mlflow_key(self, proposed: str) -> str:
        """Return the stored key of the sweep's MLflow run. The first call on any machine stores `proposed`."""
        attribute = self._shown(MLFLOW_KEY)
        if attribute not in self.study.user_attrs:
            self.study.set_user_attr(attribute, self._shown(proposed))
        return str(self.study.user_attrs[attribute])

    def _shown(self, name: str) -> str:
        """Return the name of an attribute about MLflow. A copy that shares MLflow with its original has its own."""
        return f"{name}@{self.places.runs}" if self.places.runs else name

    def set_run(self, number: int, run_id: str) -> None:
        """Record a trial's MLflow run as an attribute of the study, since Optuna cannot change a finished trial."""
        self.study.set_user_attr(self._shown(f"run:{number}"), run_id)

    def set_test(self, number: int, score: float) -> None:
        """Record a trial's score on the test questions; it replaces an earlier score."""
        self.study.set_user_attr(f"test:{number}", score)

    def _id(self, number: int) -> int:
        if number not in self._ids:
            self._ids[number] = self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        return self._ids[number]

    def _record(self, trial: optuna.trial.FrozenTrial, attributes: Mapping[str, Any]) -> TrialRecord:
        """Build a record. `attributes` are the study's, read once for many trials because each read is a query."""
        attrs = trial.user_attrs
        stored = evaluations_of(attrs)
        evaluations = tuple(present_evaluation(one, self.places, self.name, trial.number) for one in stored)
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
            run_id=attributes.get(self._shown(f"run:{trial.number}")),
            started=trial.datetime_start,
            ended=trial.datetime_complete,
            repeat_of=attrs.get("repeat_of"),
            test=attributes.get(f"test:{trial.number}"),
            incidents=tuple(attrs[key] for key in sorted(attrs) if key.startswith(INCIDENT)),
            origin=attrs.get(ORIGIN),
            attempts=tuple(attrs[key] for key in sorted(attrs) if key.startswith(ATTEMPT)),
            ended_by=attrs.get(CUT_BY),
        )


def _evaluation_name(epoch: float) -> str:
    """Return the user attribute of an evaluation. Names sort as epochs do."""
    return f"{EVALUATION}{epoch:014.6f}"


def create_ledger(
    storage: LedgerStorage,
    space: SearchSpace,
    name: str,
    versions: Mapping[str, str] | None = None,
    adopted: Sequence[optuna.trial.FrozenTrial] = (),
    stored_as: str | None = None,
    learned: Learned | None = None,
) -> Ledger:
    """Create a sweep with the trials of another sweep (`adopted`) and the enqueued settings.

    The sampler learns from `learned` too; by default from the sweeps in `search.learn_from`, as they are now.
    Raises ConfigError when a sweep of that name exists, or one to learn from does not fit.
    """
    sources = find_sources(storage, space) if learned is None else {}
    directions = optuna.study.StudyDirection
    direction = directions.MAXIMIZE if space.direction == "max" else directions.MINIMIZE
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction=direction)
    except optuna.exceptions.DuplicatedStudyError:
        raise ConfigError(f"sweep {name}: the name is taken; choose another name") from None
    attributes = {
        "job": space.job,
        **data_attributes(space, storage.places),
        "data_fingerprint": space.data_fingerprint,
        "objective": space.objective,
        "metrics": list(get_job(space.job).metrics),
        "search_space": resolved(space),
        "versions": dict(versions or {}),
        PRECISION: "auto",
        **({LEARNED: sources} if sources else {}),
        **({STORED_AS: stored_as} if stored_as not in (None, name) else {}),
    }
    for attribute, value in attributes.items():
        study.set_user_attr(attribute, value)
    for trial in adopted:
        study.add_trial(stored_trial(trial, storage.places))
    adopted_keys = {trial.user_attrs["key"] for trial in adopted}
    combinations = grid(space) if space.search.sampler == "grid" else ()
    for settings in chain(space.search.enqueue, combinations):
        if not adopted_keys or fixed_key(space, settings) not in adopted_keys:
            study.enqueue_trial(enqueueable(space, settings), user_attrs={"fixed": dict(settings)})
    study.set_user_attr(READY, True)
    return Ledger(storage, study, _learned=[] if learned is None else [learned])


def sweep_exists(storage: LedgerStorage, name: str) -> bool:
    """Return True if the sweep exists. Requires the sweep's lock.

    A sweep whose creation was interrupted has no trials. It is deleted, and the result is False.
    """
    if name not in sweep_names(storage):
        return False
    if fully_created(storage, name):
        return True
    optuna.delete_study(study_name=name, storage=storage)
    return False


def fully_created(storage: LedgerStorage, name: str) -> bool:
    """Return True if the creation of the sweep was not interrupted."""
    study = optuna.load_study(study_name=name, storage=storage)
    attributes = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
    return READY in study.user_attrs or any("params" in attrs and ORIGIN not in attrs for attrs in attributes)


def load_ledger(storage: LedgerStorage, name: str) -> Ledger:
    """Load an existing sweep. Raises ConfigError, which suggests the most similar name, when it does not exist."""
    names = sweep_names(storage)
    if name not in names:
        raise ConfigError(unknown_name("sweep", name, names))
    return Ledger(storage, optuna.load_study(study_name=name, storage=storage))

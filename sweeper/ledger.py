"""The one record of a sweep's trials: an Optuna study, which any Optuna tool can open.

What a trial is to try is asked here, what became of it is written here first, and everything that is
shown or mirrored elsewhere is read from here. Holds no Ray, no MLflow, no files but the database.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from rapidfuzz import process
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from jobs import get_job
from jobs.job import Direction, ParamError
from sweeper.domain import Choice, Constant, Domain, Range, contains
from sweeper.errors import ConfigError, EnvironmentFailure
from sweeper.search_space import (
    SearchSpace,
    assign,
    grid,
    labels,
    params_of,
    resolved,
)
from sweeper.stores import create_private

State = Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL"]
EVALUATION = "evaluation:"
MEMORY = ":memory:"
ABANDONED = "abandoned"
READY = "ready"
DRAWS = 50  # of parameters that had been tried, before the space counts as exhausted

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the ledger has it.

    value        the objective at the best evaluation so far, None before the first
    metrics      all metrics at that evaluation
    evaluations  every report in order: the job's metrics, `epoch`, `seconds` since the trial began
    checkpoint   the folder that belongs to the best evaluation
    reason       why a trial is PRUNED or FAIL
    repeat_of    the number of the trial that this one repeats with another seed
    test         its score on the test questions, where that was ever evaluated
    """

    number: int
    key: str
    state: State
    params: Mapping[str, Any]
    evaluations: tuple[Mapping[str, Any], ...]
    value: float | None
    metrics: Mapping[str, float]
    checkpoint: str | None
    reason: str | None
    run_id: str | None
    started: datetime | None
    ended: datetime | None
    repeat_of: int | None = None
    test: float | None = None

    @property
    def epochs(self) -> float:
        return float(self.evaluations[-1]["epoch"]) if self.evaluations else 0.0

    @property
    def trained(self) -> bool:
        """Whether every epoch is on record."""
        return bool(self.evaluations) and self.epochs >= self.params["num_train_epochs"]

    @property
    def seconds(self) -> float:
        return float(self.evaluations[-1]["seconds"]) if self.evaluations else 0.0


@contextmanager
def reachable(url: str) -> Iterator[None]:
    """Turns what a database says of itself into an EnvironmentFailure of one line."""
    try:
        yield
    except (DBAPIError, optuna.exceptions.StorageInternalError, OSError) as error:
        shown = make_url(url).render_as_string(hide_password=True)
        cause = str(getattr(error.__cause__ or error, "orig", error)).splitlines()[0]
        raise EnvironmentFailure(
            f"ledger {shown}: {cause}; check that it can be reached, is writable and not full"
        ) from error


def open_storage(url: str) -> RDBStorage:
    """The database of all ledgers, created if it is not there. Raises EnvironmentFailure."""
    with reachable(url):
        if make_url(url).database != MEMORY:
            create_private(url)
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})


def existing_storage(url: str) -> RDBStorage:
    """The same, for commands that only read. Raises ConfigError where nothing has been run yet."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise ConfigError(
            f"ledger {parsed.database}: not there; run a sweep first, or look from the folder where it was run"
        )
    return open_storage(url)


def sweep_names(storage: RDBStorage) -> list[str]:
    """The sweeps in this database, oldest first."""
    return [summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)]


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

    @property
    def name(self) -> str:
        return self.study.study_name

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """What was noted when the sweep was created: job, objective, metrics, search_space, trials …"""
        return self.study.user_attrs

    @property
    def objective(self) -> str:
        return str(self.attributes["objective"])

    @property
    def direction(self) -> Direction:
        return "max" if self.study.direction == optuna.study.StudyDirection.MAXIMIZE else "min"

    def records(self) -> list[TrialRecord]:
        """Every trial there is to know of, by number; draws that had been tried before are not among them."""
        trials = self.study.get_trials(deepcopy=False)
        return [self._record(trial) for trial in trials if "params" in trial.user_attrs]

    def record(self, number: int) -> TrialRecord:
        return self._record(self.storage.get_trial(self._id(number)))

    def ask(self, space: SearchSpace) -> TrialRecord | None:
        """The next trial to run, or None when the search space has nothing new to offer.

        The sampler is made anew from the seed and the trial's number, so that a sweep which was
        interrupted goes on with the draws it would have made.
        """
        known = {record.key for record in self.records()}
        for _ in range(DRAWS):
            self.study.sampler = sampler(space, self._drawn())
            trial = self.study.ask()
            params = draw(trial, space)
            key = trial_key(space.job, params, space.data_fingerprint) if params else None
            if key and key not in known:
                trial.set_user_attr("key", key)
                trial.set_user_attr("params", params)
                return self.record(trial.number)
            self.study.tell(trial, state=TrialState.FAIL)
        return None

    def mend(self, space: SearchSpace) -> None:
        """Put right what a driver leaves that is killed between two writes. Only for the sweep's owner.

        A trial whose parameters were never written down is closed, and its draw is made again; one whose
        last epoch is on record is finished.
        """
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "params" not in trial.user_attrs:
                self._abandon(trial, space)
            elif self._record(trial).trained:
                self.finish(trial.number, "COMPLETE")

    def _abandon(self, trial: optuna.trial.FrozenTrial, space: SearchSpace) -> None:
        fixed = trial.user_attrs.get("fixed")
        if fixed is not None and ABANDONED not in trial.user_attrs:
            self.study.enqueue_trial(within(space, fixed), user_attrs={"fixed": fixed})
        self.storage.set_trial_user_attr(trial._trial_id, ABANDONED, True)
        self.study.tell(trial.number, state=TrialState.FAIL)

    def _drawn(self) -> int:
        """How many trials there would be, had no driver been killed; each draw's seed follows from it."""
        trials = self.study.get_trials(deepcopy=False)
        return sum(ABANDONED not in trial.user_attrs for trial in trials)

    def repeat(self, number: int, seed: int) -> TrialRecord:
        """A new trial with the parameters of another and this seed. The sampler has no part in it."""
        params = {**self.record(number).params, "seed": seed}
        trial_id = self.storage.create_new_trial(self.storage.get_study_id_from_name(self.name))
        fingerprint = self.attributes["data_fingerprint"]
        for attribute, value in (
            ("repeat_of", number),
            ("key", trial_key(self.attributes["job"], params, fingerprint)),
            ("params", params),
        ):
            self.storage.set_trial_user_attr(trial_id, attribute, value)
        return self.record(self.storage.get_trial_number_from_id(trial_id))

    def report(self, number: int, metrics: Mapping[str, Any], checkpoint: str | None) -> TrialRecord:
        """Record one evaluation. The same epoch reported again, as after a restart, replaces the first."""
        trial_id = self._id(number)
        evaluation = {**metrics, "checkpoint": checkpoint}
        self.storage.set_trial_user_attr(trial_id, f"{EVALUATION}{metrics['epoch']:014.6f}", evaluation)
        record = self.record(number)
        step = len(record.evaluations)
        self.storage.set_trial_intermediate_value(trial_id, step, metrics[self.objective])
        return record

    def finish(self, number: int, state: State, reason: str | None = None) -> TrialRecord:
        """Close a trial. Its value is that of its best evaluation; only a finished one has state COMPLETE."""
        if reason:
            self.storage.set_trial_user_attr(self._id(number), "reason", reason)
        value = self.record(number).value if state == "COMPLETE" else None
        self.study.tell(number, value, state=TrialState[state])
        return self.record(number)

    def extend(self, space: SearchSpace) -> None:
        """Note that more trials are asked for, or other checkpoints kept, than when the sweep was created."""
        if self.study.user_attrs["search_space"] != resolved(space):
            self.study.set_user_attr("search_space", resolved(space))

    def set_run(self, number: int, run_id: str) -> None:
        """Note which MLflow run shows a trial; kept with the study, since a finished trial is closed to changes."""
        if self.study.user_attrs.get(f"run:{number}") != run_id:
            self.study.set_user_attr(f"run:{number}", run_id)

    def set_test(self, number: int, score: float) -> None:
        """Note a trial's score on the test questions; the latest one counts."""
        self.study.set_user_attr(f"test:{number}", score)

    def _id(self, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(self.name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def _record(self, trial: optuna.trial.FrozenTrial) -> TrialRecord:
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
            run_id=self.study.user_attrs.get(f"run:{trial.number}"),
            started=trial.datetime_start,
            ended=trial.datetime_complete,
            repeat_of=attrs.get("repeat_of"),
            test=self.study.user_attrs.get(f"test:{trial.number}"),
        )


def create_ledger(
    storage: RDBStorage, space: SearchSpace, name: str, versions: Mapping[str, str] | None = None
) -> Ledger:
    """A new sweep's ledger, with the settings to be tried first already waiting in it.

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
    combinations = grid(space) if space.search.sampler == "grid" else ()
    for settings in chain(space.search.enqueue, combinations):
        study.enqueue_trial(within(space, settings), user_attrs={"fixed": dict(settings)})
    study.set_user_attr(READY, True)
    return Ledger(storage, study)


def begun(storage: RDBStorage, name: str) -> bool:
    """Whether there is a sweep of this name. What is left of one whose driver was killed while it wrote down
    the search space is removed: it has no trial. Only for the sweep's owner."""
    if name not in sweep_names(storage):
        return False
    study = optuna.load_study(study_name=name, storage=storage)
    if READY in study.user_attrs or any("params" in trial.user_attrs for trial in study.get_trials(deepcopy=False)):
        return True
    optuna.delete_study(study_name=name, storage=storage)
    return False


def load_ledger(storage: RDBStorage, name: str) -> Ledger:
    """The ledger of a sweep that exists. Raises ConfigError, naming the nearest one there is."""
    names = sweep_names(storage)
    if name not in names:
        nearest = process.extractOne(name, names, score_cutoff=50)
        hint = (
            f"did you mean {nearest[0]!r}?"
            if nearest
            else "`sweeper ls` lists them"
            if names
            else "none has been run here yet"
        )
        raise ConfigError(f"sweep {name}: not in the ledger; {hint}")
    return Ledger(storage, optuna.load_study(study_name=name, storage=storage))


def draw(trial: optuna.Trial, space: SearchSpace) -> dict[str, Any] | None:
    """All parameters of the job for this trial, with what an enqueued setting fixes in its place; None where
    the values do not fit together, which is known of pairs beforehand but not of three."""
    fixed = trial.user_attrs.get("fixed", {})
    assignment = assign(space, lambda label, domain: suggest(trial, label, domain), fixed)
    try:
        return asdict(params_of(space, assignment))
    except ParamError:
        return None


def suggest(trial: optuna.Trial, label: str, domain: Domain) -> Any:
    """Optuna's draw from one of our domains."""
    match domain:
        case Choice(values):
            return trial.suggest_categorical(label, values)
        case Range(low, high, log, step, True):
            return trial.suggest_int(label, int(low), int(high), log=log, step=int(step or 1))
        case Range(low, high, log, step, False):
            return trial.suggest_float(label, low, high, log=log, step=step)
        case Constant(value):
            return value


def sampler(space: SearchSpace, number: int) -> optuna.samplers.BaseSampler:
    """The sampler for trial `number`. TPE learns conditional spaces branch by branch (`group`)."""
    seed = (space.search.seed * 1_000_003 + number) % 2**32
    if space.search.sampler != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def trial_key(job: str, params: Mapping[str, Any], data_fingerprint: str) -> str:
    """What makes two trials the same one: job, every parameter with its seed, and the data."""
    text = json.dumps([job, dict(params), data_fingerprint], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def best_evaluation(
    evaluations: Sequence[Mapping[str, Any]], objective: str, direction: Direction
) -> Mapping[str, Any] | None:
    """The earliest evaluation with the best objective; None when there is none."""
    sign = 1 if direction == "max" else -1
    return max(evaluations, key=lambda evaluation: sign * evaluation[objective], default=None)


def within(space: SearchSpace, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a setting that lies in the space, under the labels its draws will have: what the
    sampler can learn from. The rest is fixed beside it.
    """
    labelled = ((label, domain, settings[name]) for name, label, domain in labels(space) if name in settings)
    return {label: value for label, domain, value in labelled if contains(domain, value)}

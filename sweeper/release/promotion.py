"""Which trial is its job's champion, and the one way to become it.

The rule: on the same validation data and by the same metric, the higher score wins; of equals the trial that the
ledger knew first. So the outcome does not depend on the order in which trials are promoted, which a rule that asked
for significance would: an early one could keep out all that are a little better. The paired test is told with it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jobs import faults, get_job
from jobs.checkpoint import PREDICTIONS, answering_part, copy_answering_part, damage, load_json
from jobs.files import disk_error_line, free_space_text
from jobs.job import Direction
from sweeper.errors import ConfigError, DataFailure, EnvironmentFailure, Failure
from sweeper.ledger.lookup import Trial
from sweeper.release.champions import FOLDER, Registry, Version, open_registry
from sweeper.results.scores import check_reported, metric_profile, question_scores, validation_data, verified_scores
from sweeper.results.statistics import ALPHA, paired_p
from sweeper.secrets import redacted_values
from sweeper.space.sections import NAME
from sweeper.storage.settings import Stores

PATIENCE = 900.0  # seconds to wait while others copy checkpoints


@dataclass(frozen=True)
class Entrant:
    """A trial as far as it is compared: the score of its best evaluation and what that was measured by.

    trial_id   its number in the ledger's database; of equal scores the lower one wins
    profile    the metric profile, which decides what counts as right
    """

    trial: str
    trial_id: int
    score: float
    objective: str
    direction: Direction
    profile: str
    data_fingerprint: str

    @property
    def rank(self) -> tuple[float, int, str]:
        """The lowest is the best."""
        return (-self.score if self.direction == "max" else self.score, self.trial_id, self.trial)


@dataclass(frozen=True)
class Promotion:
    """What became of a promotion.

    promoted  whether the trial is champion now and was not before
    reason    one sentence that says why
    version   the champion's version now, `folder` its checkpoint
    previous  the champion until then, as it was compared
    p         of the paired test between the two; None where they cannot be compared question by question
    """

    job: str
    trial: Entrant
    promoted: bool
    reason: str
    version: int
    folder: Path
    previous: Entrant | None
    p: float | None

    def lines(self) -> list[str]:
        """What became of it, for people."""
        version = f"{self.job} (version {self.version})"
        if self.promoted:
            return [f"{self.trial.trial} is champion of {version}: {self.reason}", f"  {self.folder}"]
        if self.previous == self.trial or self.previous is None:
            return [f"{self.trial.trial} is the champion of {version} already"]
        return [f"{self.previous.trial} stays champion of {version}: {self.reason}; --force replaces it all the same"]


@dataclass(frozen=True)
class Decision:
    wins: bool
    reason: str


def promote(trial: Trial, stores: Stores, *, force: bool = False, significant: bool = False) -> Promotion:
    """Make the trial's best checkpoint its job's champion, if it is better than the present one.

    >>> promote(find_trial("qa_backbones", storage), stores).reason
    'exact_match 0.8315 beats 0.8106 of qa_small/2 (paired test: p = 0.003)'

    `significant` asks for p below 0.05 as well; `force` asks for nothing and is noted with the version. Any number
    may be promoted at once on machines that share the root: they take turns.

    Raises ConfigError when the two were measured on different data or by different metrics, EnvironmentFailure
    when the checkpoint is not kept or damaged or MLflow does not answer, DataFailure when `significant` is asked
    for and the answers cannot be compared.
    """
    job, entrant, checkpoint = job_name(trial), entrant_of(trial), trial.checkpoint(stores.root)
    content, registry = _content(checkpoint), open_registry(stores)
    _check_run(trial, stores)
    with promotion_lock(stores.root / FOLDER, job):
        version = registry.champion(job)
        champion = entrant_in(version.tags) if version else None
        p = _p_against_champion(trial, version, registry) if version and champion != entrant else None
        decision = decide(entrant, champion, p, force=force, significant=significant)
        if version is None or decision.wins:
            tags = lineage(trial, entrant, content, champion, p, forced=force)
            version = _enthrone(trial, checkpoint, tags, registry)
        elif champion == entrant:
            _install(checkpoint, stores.root / FOLDER / version.folder)
    folder = stores.root / FOLDER / version.folder
    return Promotion(job, entrant, decision.wins, decision.reason, version.number, folder, champion, p)


def decide(
    entrant: Entrant, champion: Entrant | None, p: float | None, *, force: bool = False, significant: bool = False
) -> Decision:
    """Whether `entrant` takes the champion's place, and why. Raises ConfigError when the two cannot be compared,
    DataFailure when `significant` is asked for and there is no p."""
    if champion is None:
        return Decision(True, f"the first champion, with {entrant.objective} {entrant.score:.4f}")
    if champion == entrant:
        return Decision(False, "is the champion already")
    if force:
        return Decision(True, f"replaces {champion.trial} ({champion.objective} {champion.score:.4f}) by force")
    _check_comparable(entrant, champion)
    told = "" if p is None else f" (paired test: p = {p:.2g})"
    if entrant.rank >= champion.rank:
        equal = entrant.score == champion.score
        relation = "equals the older" if equal else "does not reach"
        return Decision(False, _outcome_text(entrant, relation, champion, told))
    if significant and p is None:
        raise DataFailure(
            f"trial {entrant.trial}: no paired test against the champion {champion.trial}, as predictions are "
            f"missing, the data has changed, the scores recomputed from predictions are not the reported ones, or "
            f"{entrant.objective} is no score per question; leave out --significant"
        )
    if significant and p is not None and p >= ALPHA:
        return Decision(False, _outcome_text(entrant, "cannot be told from", champion, told))
    relation = "equals, and is older than," if entrant.score == champion.score else "beats"
    return Decision(True, _outcome_text(entrant, relation, champion, told))


def _outcome_text(entrant: Entrant, relation: str, champion: Entrant, told: str) -> str:
    return f"{entrant.objective} {entrant.score:.4f} {relation} {champion.score:.4f} of {champion.trial}{told}"


def _check_comparable(entrant: Entrant, champion: Entrant) -> None:
    for what, own, other in (
        ("validation data", entrant.data_fingerprint[:12], champion.data_fingerprint[:12]),
        ("objective", entrant.objective, champion.objective),
        ("metric profile", entrant.profile, champion.profile),
    ):
        if own != other:
            raise ConfigError(
                f"trial {entrant.trial}: its {what} is {own}, that of the champion {champion.trial} is {other}, so "
                "their scores cannot be compared; add --force to replace it all the same"
            )


def job_name(trial: Trial) -> str:
    """The job's own name, which its registered model bears. Raises ConfigError when it cannot be a folder's."""
    name = get_job(trial.job).name
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"job {trial.job}: {name!r} cannot name a model; use A-Z a-z 0-9 . _ - in its Job")
    return name


def entrant_of(trial: Trial) -> Entrant:
    """Raises ConfigError when the trial has failed or has no score yet."""
    record, ledger = trial.record, trial.ledger
    if record.value is None or record.state not in ("COMPLETE", "PRUNED"):
        raise ConfigError(
            f"trial {trial.name}: is {record.state}{f' ({record.reason})' if record.reason else ''}; "
            "name one that has ended with a value"
        )
    return Entrant(
        trial=trial.name,
        trial_id=trial.id,
        score=record.value,
        objective=ledger.objective,
        direction=ledger.direction,
        profile=metric_profile(trial),
        data_fingerprint=str(ledger.attributes["data_fingerprint"]),
    )


def entrant_in(tags: Mapping[str, str]) -> Entrant:
    """The entrant that `lineage` has noted."""
    values: dict[str, Any] = {name: tags[name] for name in Entrant.__dataclass_fields__}
    return Entrant(**{**values, "trial_id": int(values["trial_id"]), "score": float(values["score"])})


def lineage(
    trial: Trial, entrant: Entrant, content: str, previous: Entrant | None, p: float | None, *, forced: bool
) -> dict[str, str]:
    """Where a version comes from, as its tags: how to make it again and why it became champion."""
    attributes, record = trial.ledger.attributes, trial.record
    return {
        **{name: str(value) for name, value in asdict(entrant).items()},
        "sweep": trial.ledger.name,
        "trial_key": record.key,
        "params": json.dumps(redacted_values(record.params), ensure_ascii=False),
        "data": trial.data,
        **{f"metric.{name}": str(value) for name, value in record.metrics.items()},
        **{f"version.{package}": str(number) for package, number in attributes["versions"].items()},
        "checkpoint": str(trial.record.checkpoint),
        "manifest_sha256": content,
        "forced": str(forced).lower(),
        **({"replaced": previous.trial} if previous else {}),
        **({} if p is None else {"p_value": str(p)}),
    }


def checkpoint_fingerprint(checkpoint: Path) -> str:
    """SHA-256 of the manifest of what answering needs: the same for a checkpoint and its copy."""
    text = json.dumps(answering_part(checkpoint), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def folder_name(trial: Trial, content: str) -> str:
    """Readable, and of its own for every content, so that no folder ever has to change.

    A version's number is known only once MLflow has noted where the files are.
    """
    return f"{trial.name.replace('/', '-')}-{content[:8]}"


@contextmanager
def promotion_lock(folder: Path, job: str) -> Iterator[None]:
    """One promotion of a job at a time; the kernel frees the lock when the process dies.

    MLflow's alias belongs to whoever sets it last, and nothing in it makes "read, compare, set" one step.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(folder / f"{job}.lock")
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise EnvironmentFailure(
            f"champion of {job}: another promotion has held {folder / job}.lock for {PATIENCE:g} s; end that process"
        ) from None
    except OSError as error:  # for example, the lock file is a symbolic link, which FileLock refuses
        line = disk_error_line(error, "remove it", folder / f"{job}.lock")
        raise EnvironmentFailure(f"champion of {job}: {line}") from None
    try:
        yield
    finally:
        lock.release()


def _enthrone(trial: Trial, checkpoint: Path, tags: Mapping[str, str], registry: Registry) -> Version:
    """Files first, alias last: cut short anywhere, the old champion stays and is whole."""
    job = job_name(trial)
    folder = f"{job}/{folder_name(trial, tags['manifest_sha256'])}"
    _install(checkpoint, registry.stores.root / FOLDER / folder)
    version = registry.register(job, folder, trial.record.run_id, tags)
    faults.point("promotion.alias")
    registry.crown(version)
    return version


def _check_run(trial: Trial, stores: Stores) -> None:
    if stores.remote and not trial.record.run_id:
        raise EnvironmentFailure(
            f"trial {trial.name}: MLflow at {stores.address} has no run of it to keep the files; "
            f"run `sweeper sync {trial.ledger.name}` first"
        )


def _install(checkpoint: Path, folder: Path) -> None:
    if not damage(folder):
        return
    faults.point("promotion.copy")
    try:
        copy_answering_part(checkpoint, folder)
    except (OSError, ValueError) as error:
        raise EnvironmentFailure(
            f"champion's folder {folder}: {error} ({free_space_text(folder.parent)}); nothing was promoted"
        ) from None


def _content(checkpoint: Path) -> str:
    """Its fingerprint. Raises EnvironmentFailure when the checkpoint went meanwhile, as a running sweep's may."""
    try:
        return checkpoint_fingerprint(checkpoint)
    except (OSError, ValueError):
        raise EnvironmentFailure(
            f"checkpoint {checkpoint}: is no longer kept, as its sweep found better ones; name the sweep's best trial"
        ) from None


def _p_against_champion(trial: Trial, version: Version, registry: Registry) -> float | None:
    """Return the p-value of the paired test between a trial and the champion.

    Returns None when predictions are missing, the data has changed, or recomputed scores are not the reported ones.
    """
    if version.tags["data_fingerprint"] != trial.ledger.attributes["data_fingerprint"]:
        return None
    objective, champion = trial.ledger.objective, entrant_in(version.tags)
    try:
        data, given = validation_data(trial), load_json(registry.place(version) / PREDICTIONS)
        own = verified_scores(trial, data, trial.predictions())
        other = question_scores(data, given, champion.trial, metric_profile(trial))
        if champion.profile == metric_profile(trial):  # else its score was computed by another definition
            check_reported(other, {champion.objective: champion.score}, champion.objective, champion.trial)
        return paired_p(own[objective], other[objective])
    except (Failure, KeyError, OSError, ValueError):
        return None

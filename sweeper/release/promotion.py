"""Promote a trial to its job's champion.

Trials are compared on the same validation data and metric. The better score wins; with equal scores the older trial
wins. So the order of promotions does not matter. With a significance test it would matter: an early champion would stay
as long as each new trial is only slightly better. The p-value of the paired test is reported as information.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import Timeout

from jobs import fault_injection, get_job
from jobs.checkpoint import PREDICTIONS, answering_part, copy_answering_part, damage, load_json
from jobs.files import disk_error_line, free_space_text
from jobs.job import Direction
from sweeper.errors import ConfigError, DataFailure, EnvironmentFailure, Failure
from sweeper.ledger.lookup import Trial
from sweeper.release.champions import FOLDER, Registry, Version, open_registry
from sweeper.results.scores import (
    check_reported,
    is_same_data,
    metric_profile,
    question_scores,
    validation_data,
    verified_scores,
)
from sweeper.results.statistics import ALPHA, paired_p
from sweeper.secrets import redacted_values
from sweeper.space.sections import NAME
from sweeper.storage.locks import file_lock
from sweeper.storage.settings import Stores

LOCK_SECONDS = 900.0  # longest wait for other promotions, which copy checkpoints


@dataclass(frozen=True)
class Entrant:
    """Hold the score of a trial's best evaluation and how it was measured, for the comparison in a promotion.

    trial_id   the trial's number in the ledger's database; of equal scores the lower number wins
    profile    the metric profile, which defines a right answer
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
        """Return a sort key. The best entrant has the lowest key."""
        return (-self.score if self.direction == "max" else self.score, self.trial_id, self.trial)


@dataclass(frozen=True)
class Promotion:
    """Hold the result of a promotion.

    promoted  True if the trial became champion and was not champion before
    reason    the reason for the decision, in one sentence
    version   the version of the champion after the promotion; `folder` is its checkpoint
    previous  the champion before the promotion
    p         the p-value of the paired test of trial and champion; None if it could not be made
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
        """Return the result as lines for the user."""
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

    `significant` also requires p < 0.05. `force` skips the comparison and is stored with the version. Machines with
    the same root folder promote one after the other.

    Raises ConfigError when data or metrics of the two differ, EnvironmentFailure when the checkpoint is missing or
    damaged or MLflow does not answer, DataFailure when `significant` is set and the paired test cannot be made.
    """
    job, entrant, checkpoint = job_name(trial), make_entrant(trial), trial.checkpoint(stores.root)
    content, registry = _existing_fingerprint(checkpoint), open_registry(stores)
    _check_run(trial, stores)
    with promotion_lock(stores.root / FOLDER, job):
        version = registry.champion(job)
        champion = _comparable_entrant(read_entrant(version.tags), trial) if version else None
        p = _p_against_champion(trial, version, registry) if version and champion != entrant else None
        decision = decide_promotion(entrant, champion, p, force=force, significant=significant)
        if version is None or decision.wins:
            tags = lineage_tags(trial, entrant, content, champion, p, forced=force)
            version = _register_champion(trial, checkpoint, tags, registry)
        elif champion == entrant:
            _install(checkpoint, stores.root / FOLDER / version.folder)
    folder = stores.root / FOLDER / version.folder
    return Promotion(job, entrant, decision.wins, decision.reason, version.number, folder, champion, p)


def _comparable_entrant(champion: Entrant, trial: Trial) -> Entrant:
    """Return the champion with the fingerprint that the trial's sweep has recorded, if that names the same data."""
    if not is_same_data(trial, champion.data_fingerprint):
        return champion
    return replace(champion, data_fingerprint=str(trial.ledger.attributes["data_fingerprint"]))


def decide_promotion(
    entrant: Entrant, champion: Entrant | None, p: float | None, *, force: bool = False, significant: bool = False
) -> Decision:
    """Decide if `entrant` replaces the champion, and give the reason.

    Raises ConfigError when the two cannot be compared, DataFailure when `significant` is set and `p` is None.
    """
    if champion is None:
        return Decision(True, f"the first champion, with {entrant.objective} {entrant.score:.4f}")
    if champion == entrant:
        return Decision(False, "is the champion already")
    if force:
        return Decision(True, f"replaces {champion.trial} ({champion.objective} {champion.score:.4f}) by force")
    _check_comparable(entrant, champion)
    test = "" if p is None else f" (paired test: p = {p:.2g})"
    if entrant.rank >= champion.rank:
        equal = entrant.score == champion.score
        relation = "equals the older" if equal else "does not reach"
        return Decision(False, _outcome_text(entrant, relation, champion, test))
    if significant and p is None:
        raise DataFailure(
            f"trial {entrant.trial}: no paired test against the champion {champion.trial}, because predictions are "
            f"missing, the data has changed, the scores recomputed from predictions are not the reported ones, or "
            f"{entrant.objective} is no score per question; leave out --significant"
        )
    if significant and p is not None and p >= ALPHA:
        return Decision(False, _outcome_text(entrant, "is not significantly better than", champion, test))
    relation = "equals, and is older than," if entrant.score == champion.score else "beats"
    return Decision(True, _outcome_text(entrant, relation, champion, test))


def _outcome_text(entrant: Entrant, relation: str, champion: Entrant, test: str) -> str:
    return f"{entrant.objective} {entrant.score:.4f} {relation} {champion.score:.4f} of {champion.trial}{test}"


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
    """Return the name of the job and its registered model. Raises ConfigError when it cannot name a folder."""
    name = get_job(trial.job).name
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"job {trial.job}: {name!r} cannot name a model; use A-Z a-z 0-9 . _ - in its Job")
    return name


def make_entrant(trial: Trial) -> Entrant:
    """Return the trial as an Entrant. Raises ConfigError when it has failed or has no score yet."""
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


def read_entrant(tags: Mapping[str, str]) -> Entrant:
    """Read the Entrant that `lineage_tags` wrote."""
    values: dict[str, Any] = {name: tags[name] for name in Entrant.__dataclass_fields__}
    return Entrant(**{**values, "trial_id": int(values["trial_id"]), "score": float(values["score"])})


def lineage_tags(
    trial: Trial, entrant: Entrant, content: str, previous: Entrant | None, p: float | None, *, forced: bool
) -> dict[str, str]:
    """Return the tags of a model version, which tell how to reproduce it and why it became champion."""
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
        **({"precision": record.used_precision} if record.used_precision else {}),
        **({"replaced": previous.trial} if previous else {}),
        **({} if p is None else {"p_value": str(p)}),
    }


def checkpoint_fingerprint(checkpoint: Path) -> str:
    """Return the SHA-256 of a checkpoint's manifest without training state. A copy has the same fingerprint."""
    text = json.dumps(answering_part(checkpoint), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def champion_folder_name(trial: Trial, content: str) -> str:
    """Return a readable folder name that contains a hash of the content, so that a folder never changes.

    The name cannot contain the version number, since MLflow needs the folder before it assigns the number.
    """
    return f"{trial.name.replace('/', '-')}-{content[:8]}"


@contextmanager
def promotion_lock(folder: Path, job: str) -> Iterator[None]:
    """Allow one promotion of a job at a time; the kernel releases the lock when the process dies.

    The lock is needed because MLflow cannot compare and set an alias in one step: the last writer would win.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as held:
        try:
            held.enter_context(file_lock(folder / f"{job}.lock", LOCK_SECONDS))
        except Timeout:
            raise EnvironmentFailure(
                f"champion of {job}: another promotion holds {folder / job}.lock for {LOCK_SECONDS:g} s; "
                "end that process"
            ) from None
        except OSError as error:  # for example, the lock file is a symbolic link, which FileLock refuses
            line = disk_error_line(error, "remove it", folder / f"{job}.lock")
            raise EnvironmentFailure(f"champion of {job}: {line}") from None
        yield


def _register_champion(trial: Trial, checkpoint: Path, tags: Mapping[str, str], registry: Registry) -> Version:
    """Copy the files first and set the alias last, so that an interruption leaves the old champion intact."""
    job = job_name(trial)
    folder = f"{job}/{champion_folder_name(trial, tags['manifest_sha256'])}"
    _install(checkpoint, registry.stores.root / FOLDER / folder)
    version = registry.register(job, folder, trial.record.run_id, tags)
    fault_injection.point("promotion.alias")
    registry.make_champion(version)
    return version


def _check_run(trial: Trial, stores: Stores) -> None:
    if stores.remote and not trial.record.run_id:
        raise EnvironmentFailure(
            f"trial {trial.name}: MLflow at {stores.address} has no run for its files; "
            f"run `sweeper sync {trial.ledger.name}` first"
        )


def _install(checkpoint: Path, folder: Path) -> None:
    if not damage(folder):
        return
    fault_injection.point("promotion.copy")
    try:
        copy_answering_part(checkpoint, folder)
    except (OSError, ValueError) as error:
        raise EnvironmentFailure(
            f"champion's folder {folder}: {error} ({free_space_text(folder.parent)}); nothing was promoted"
        ) from None


def _existing_fingerprint(checkpoint: Path) -> str:
    """Return the checkpoint's fingerprint. Raises EnvironmentFailure if a running sweep has deleted the checkpoint."""
    try:
        return checkpoint_fingerprint(checkpoint)
    except (OSError, ValueError):
        raise EnvironmentFailure(
            f"checkpoint {checkpoint}: was deleted, because its sweep found better trials; name the sweep's best trial"
        ) from None


def _p_against_champion(trial: Trial, version: Version, registry: Registry) -> float | None:
    """Return the p-value of the paired test between a trial and the champion.

    Returns None when predictions are missing, the data has changed, or recomputed scores are not the reported ones.
    """
    if not is_same_data(trial, version.tags["data_fingerprint"]):
        return None
    objective, champion = trial.ledger.objective, read_entrant(version.tags)
    try:
        data, given = validation_data(trial), load_json(registry.local_folder(version) / PREDICTIONS)
        own = verified_scores(trial, data, trial.predictions())
        other = question_scores(data, given, champion.trial, metric_profile(trial))
        if champion.profile == metric_profile(trial):  # else the two scores have different definitions
            check_reported(other, {champion.objective: champion.score}, champion.objective, champion.trial)
        return paired_p(own[objective], other[objective])
    except (Failure, KeyError, OSError, ValueError):
        return None

"""Find the trial that a user names as `SWEEP` (its best trial) or `SWEEP/NUMBER`, and its checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.checkpoint import PREDICTIONS, damage
from sweeper.errors import ConfigError, DataFailure, EnvironmentFailure, NoPredictions
from sweeper.ledger.database import LedgerStorage
from sweeper.ledger.ledger import Ledger, fully_created, load_ledger, sweep_names
from sweeper.ledger.ranking import best_first
from sweeper.ledger.record import TrialRecord
from sweeper.storage import checkpoint_store


def trials_of_job(storage: LedgerStorage | None, job: str) -> Iterator[TrialRecord]:
    """Yield the trials of all sweeps with this job; none without a ledger."""
    if storage is None:
        return
    for name in sweep_names(storage):
        if fully_created(storage, name) and (ledger := load_ledger(storage, name)).attributes.get("job") == job:
            yield from ledger.records()


@dataclass(frozen=True)
class Trial:
    """Hold a trial and its ledger, and find the trial's files."""

    ledger: Ledger
    record: TrialRecord

    @property
    def name(self) -> str:
        return f"{self.ledger.name}/{self.record.number}"

    @property
    def id(self) -> int:
        """Return the trial's id, unique in the whole database. Later trials have larger ids."""
        storage = self.ledger.storage
        study = storage.get_study_id_from_name(self.ledger.name)
        return storage.get_trial_id_from_study_id_trial_number(study, self.record.number)

    @property
    def job(self) -> str:
        return str(self.ledger.attributes["job"])

    @property
    def data(self) -> str:
        return str(self.ledger.attributes["data"])

    def checkpoint(self, root: Path) -> Path:
        """Return the folder of the best evaluation's checkpoint. One in a bucket is copied to the cache below `root`.

        Raises EnvironmentFailure when the checkpoint was deleted or is damaged.
        """
        address = self.record.checkpoint
        if not address or not checkpoint_store.still_stored([address]):
            raise EnvironmentFailure(
                f"trial {self.name}: its checkpoint is not kept; name a better trial, or keep more checkpoints"
            )
        return whole(checkpoint_store.local(address, root))

    def _predictions_address(self, checkpoint: str) -> str:
        """Return the address of the predictions: beside the checkpoint, or for a copy in its own trial folder."""
        places = self.ledger.places
        own = places.root / self.ledger.name / "trials" / f"{self.record.number:04d}" / PREDICTIONS
        beside = checkpoint_store.join_address(checkpoint_store.parent(checkpoint), PREDICTIONS)
        return beside if places.owns(checkpoint) or not own.is_file() else str(own)

    def predictions(self) -> list[dict[str, object]]:
        """Return the answers to the validation questions at the best evaluation, in the order of the data.

        Raises NoPredictions when the trial has none, DataFailure when they are damaged.
        """
        address = self.record.checkpoint
        content = checkpoint_store.read_address(self._predictions_address(address)) if address else None
        if content is None:
            raise NoPredictions(
                f"trial {self.name}: has left no {PREDICTIONS}; name one that has been evaluated and ended"
            )
        try:
            rows: list[dict[str, object]] = json.loads(content)
        except ValueError:
            raise DataFailure(
                f"trial {self.name}: its {PREDICTIONS} is damaged; name another trial, or run this one again"
            ) from None
        return rows


def find_trial(text: str, storage: LedgerStorage) -> Trial:
    """Return the trial that `text` names.

    >>> find_trial("qa_backbones/3", storage).record.number
    3

    Raises ConfigError when the sweep or the trial does not exist, or when no trial of the sweep has a value yet.
    """
    name, number = split(text)
    sweep, slash, rest = text.partition("/")
    ledger = load_ledger(storage, sweep if slash else name)
    if number is None and slash:
        raise ConfigError(f"trial {text}: {rest!r} is not the number of a trial; write for instance {sweep}/0")
    records = ledger.records()
    if number is None:
        ranked = best_first(records, ledger.direction)
        if not ranked:
            raise ConfigError(f"sweep {name}: no trial has ended with a value yet; run it first")
        return Trial(ledger, ranked[0])
    for record in records:
        if record.number == number:
            return Trial(ledger, record)
    known = ", ".join(str(record.number) for record in records) or "none"
    raise ConfigError(f"trial {text}: sweep {name} has no trial {number}; it has {known}")


def split(text: str) -> tuple[str, int | None]:
    """Split `SWEEP/NUMBER` into the sweep's name and the trial's number. The number of `SWEEP` is None.

    >>> split("qa_backbones/3")
    ('qa_backbones', 3)
    """
    match = re.fullmatch(r"(?P<name>[^/]+)/(?P<number>\d{1,9})", text)
    return (match["name"], int(match["number"])) if match else (text, None)


def whole(folder: Path) -> Path:
    """Return `folder` if its checkpoint is undamaged. Raises EnvironmentFailure otherwise."""
    if problem := damage(folder):
        raise EnvironmentFailure(f"checkpoint {problem}; name another trial's, or train this one again")
    return folder


def unreadable_sweep(storage: LedgerStorage) -> str | None:
    """Return the name of the first sweep whose trials cannot be read, with the error's kind; None if all can be."""
    for name in sweep_names(storage):
        try:
            load_ledger(storage, name).records()
        except Exception as error:
            return f"sweep {name} cannot be read ({type(error).__name__})"
    return None

"""From trained models to what leaves the house: a submission, or a folder that answers by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.answering import answers as answering
from jobs.answering import evaluation
from jobs.answering.answers import Answer
from jobs.checkpoint import identity
from jobs.dataset.data import Data, DataError, read_data
from sweeper.errors import ConfigError
from sweeper.ledger.lookup import split
from sweeper.ledger.ranking import best_first
from sweeper.release.lookup import find_checkpoint
from sweeper.storage import checkpoints
from sweeper.storage.settings import Stores

SELECTOR, READER, END_TO_END = "mc", "qa", "longformer"


@dataclass(frozen=True)
class Team:
    """Checkpoints that answer together: a selector and one reader or several, or one model that does both."""

    selector: Path | None = None
    readers: tuple[Path, ...] = ()
    end_to_end: Path | None = None

    def members(self) -> list[Path]:
        return [folder for folder in (self.selector, *self.readers, self.end_to_end) if folder]


@dataclass(frozen=True)
class Answers:
    """`weight` is the reader's in the sum of both scores, 0 for the plain pipeline and end to end; `note` says
    where it comes from."""

    rows: Sequence[Answer]
    weight: float
    note: str


def two_stage_team(selector: str, reader: str, ensemble: int, stores: Stores) -> Team:
    """The team of a selector and a reader, or of the `ensemble` best readers of one sweep.

    Raises ConfigError when there are not as many whose checkpoints were kept.
    """
    readers = [find_checkpoint(reader, stores)] if ensemble == 1 else best_readers(reader, ensemble, stores)
    return Team(selector=find_checkpoint(selector, stores), readers=tuple(readers))


def best_readers(sweep: str, count: int, stores: Stores) -> list[Path]:
    """Checkpoints of a sweep's best trials, best first."""
    from sweeper.ledger.database import existing_storage
    from sweeper.ledger.ledger import load_ledger
    from sweeper.ledger.lookup import Trial

    name, number = split(sweep)
    if number is not None or Path(name).is_dir() or "@" in name:
        raise ConfigError(f"--ensemble {count}: takes the best readers of a sweep; name it with --qa SWEEP")
    ledger = load_ledger(existing_storage(stores.ledger), name)
    ranked = best_first(ledger.records(), ledger.direction)
    there = checkpoints.still_stored(record.checkpoint for record in ranked)
    kept = [Trial(ledger, record) for record in ranked if record.checkpoint in there]
    if len(kept) < count:
        raise ConfigError(
            f"--ensemble {count}: sweep {name} has kept {len(kept)} checkpoints; ask for fewer, or run it again "
            f"with keep.checkpoints={count}"
        )
    return [trial.checkpoint(stores.root) for trial in kept[:count]]


def team_answers(team: Team, data: Data, cache: Path, weight: float | None = None) -> Answers:
    """The team's answers to the unlabelled questions of `data`. Without a `weight` one is fitted on the validation
    questions of the reader's own data, if that is still there.

    Raises CheckpointError or BackboneError for a checkpoint that cannot be used.
    """
    if team.end_to_end:
        model = answering.load_answering_model(team.end_to_end, END_TO_END, cache)
        return Answers(answering.end_to_end(model, data, data.test), 0.0, "end to end")
    selector, readers = two_stages(team, cache)
    chosen, told = (weight, f"weight {weight} as given") if weight is not None else fitted(team, selector, readers)
    return Answers(answering.pipeline(selector, readers, data, data.test, chosen), chosen, told)


def two_stages(team: Team, cache: Path) -> tuple[answering.Model, list[answering.Model]]:
    """The selector and the readers, loaded."""
    assert team.selector
    selector = answering.load_answering_model(team.selector, SELECTOR, cache)
    return selector, [answering.load_answering_model(folder, READER, cache) for folder in team.readers]


def fitted(team: Team, selector: answering.Model, readers: Sequence[answering.Model]) -> tuple[float, str]:
    """The weight with the most exact matches on the validation questions of the reader's own data, and a word on it;
    0 where these are no longer there."""
    made = identity(team.readers[0])
    try:
        data = read_data(made["data"])
    except DataError:
        return 0.0, f"plain pipeline, as the validation questions in {made['data']} are not there to fit a weight on"
    if data.fingerprint != made["data_fingerprint"]:
        return 0.0, f"plain pipeline, as {made['data']} has changed since the reader was trained on it"
    profile = str(made["params"].get("metric_profile", "strict"))
    weight = evaluation.fitted_weight(data, selector, readers, profile)
    helps = "soft two stages" if weight else "plain pipeline"
    return weight, f"{helps}: weight {weight:.2f} fitted on {len(data.valid)} validation questions"

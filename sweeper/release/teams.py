"""Answer questions with a team of trained models, for submissions and exports."""

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
from sweeper.release.lookup import checkpoint_folder, find_checkpoint
from sweeper.storage import checkpoint_store
from sweeper.storage.identity import places_of
from sweeper.storage.places import Places
from sweeper.storage.settings import Stores

SELECTOR, READER, END_TO_END = "mc", "qa", "longformer"


@dataclass(frozen=True)
class Team:
    """Hold the checkpoints that answer together: a selector and readers, one end-to-end model, or a selector alone.

    A selector alone answers multiple-choice questions.
    """

    selector: Path | None = None
    readers: tuple[Path, ...] = ()
    end_to_end: Path | None = None

    def members(self) -> list[Path]:
        return [folder for folder in (self.selector, *self.readers, self.end_to_end) if folder]


@dataclass(frozen=True)
class Answers:
    """Hold a team's answers.

    weight       weight of the reader's score in the sum of both scores; 0 if the selector alone chooses the paragraph,
                 and for an end-to-end model
    note         a phrase that tells where the weight comes from
    corrections  a line for each kind of answer that was corrected for a submission
    """

    rows: Sequence[Answer]
    weight: float
    note: str
    corrections: tuple[str, ...] = ()


def make_two_stage_team(selector: str, reader: str, ensemble: int, stores: Stores) -> Team:
    """Return the team of a selector and a reader, or of a selector and the `ensemble` best readers of a sweep.

    Raises ConfigError when the sweep kept fewer checkpoints.
    """
    readers = [find_checkpoint(reader, stores)] if ensemble == 1 else best_readers(reader, ensemble, stores)
    return Team(selector=find_checkpoint(selector, stores), readers=tuple(readers))


def best_readers(sweep: str, count: int, stores: Stores) -> list[Path]:
    """Return the checkpoints of a sweep's best trials, best first."""
    from sweeper.ledger.database import existing_storage
    from sweeper.ledger.ledger import load_ledger
    from sweeper.ledger.lookup import Trial

    name, number = split(sweep)
    if number is not None or checkpoint_folder(name) or "@" in name:
        raise ConfigError(f"--ensemble {count}: needs the best readers of a sweep; name one with --qa SWEEP")
    ledger = load_ledger(existing_storage(stores.ledger, places_of(stores)), name)
    ranked = best_first(ledger.records(), ledger.direction)
    stored = checkpoint_store.still_stored(record.checkpoint for record in ranked)
    kept = [Trial(ledger, record) for record in ranked if record.checkpoint in stored]
    if len(kept) < count:
        raise ConfigError(
            f"--ensemble {count}: sweep {name} has kept {len(kept)} checkpoints; ask for fewer, or run it again "
            f"with keep.checkpoints={count}"
        )
    return [trial.checkpoint(stores.root) for trial in kept[:count]]


def team_answers(
    team: Team, data: Data, cache: Path, weight: float | None = None, places: Places | None = None
) -> Answers:
    """Return the team's answers to the unlabelled questions of `data`.

    Without `weight`, the weight is fitted on the validation questions of the reader's data, if that data still
    exists; `places` finds it in a copied or moved project. Raises CheckpointError or BackboneError for a checkpoint
    that cannot be used.
    """
    if team.end_to_end:
        model = answering.load_answering_model(team.end_to_end, END_TO_END, cache)
        return Answers(answering.end_to_end(model, data, data.test), 0.0, "end to end")
    selector, readers = load_two_stages(team, cache)
    if not readers:
        return Answers(answering.picked_options(selector, data, data.test), 0.0, "the options that the selector picks")
    chosen, note = (
        (weight, f"weight {weight} as given")
        if weight is not None
        else weight_and_note(team, selector, readers, places)
    )
    return Answers(answering.pipeline(selector, readers, data, data.test, chosen), chosen, note)


def load_two_stages(team: Team, cache: Path) -> tuple[answering.Model, list[answering.Model]]:
    """Load the selector and the readers."""
    assert team.selector
    selector = answering.load_answering_model(team.selector, SELECTOR, cache)
    return selector, [answering.load_answering_model(folder, READER, cache) for folder in team.readers]


def weight_and_note(
    team: Team, selector: answering.Model, readers: Sequence[answering.Model], places: Places | None = None
) -> tuple[float, str]:
    """Return the weight with the most exact matches on the validation questions of the reader's data, and a note.

    The weight is 0 when this data is missing or has changed.
    """
    trained = identity(team.readers[0])
    location = places.data(trained["data"]) if places else trained["data"]
    try:
        data = read_data(location)
    except DataError:
        return (0.0, f"plain pipeline, as {location} has no validation questions to fit a weight on")
    if not data.matches(trained["data_fingerprint"]):
        return 0.0, f"plain pipeline, as {location} has changed since the reader was trained on it"
    profile = str(trained["params"].get("metric_profile", "strict"))
    weight = evaluation.fitted_weight(data, selector, readers, profile)
    method = "soft two stages" if weight else "plain pipeline"
    return weight, f"{method}: weight {weight:.2f} fitted on {len(data.valid)} validation questions"

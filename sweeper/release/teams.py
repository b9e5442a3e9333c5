"""From trained models to what leaves the house: a submission, or a folder that answers by itself."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jobs
from jobs import faults
from jobs.answering import answers as answering
from jobs.answering import evaluation, submission
from jobs.answering.answers import Answer
from jobs.answering.offline import TEAM
from jobs.checkpoint import PART, clear_scratch, copy_answering_part, identity, write_json
from jobs.dataset.data import Data, DataError, read, read_unlabelled
from sweeper.driver.repeats import leaders
from sweeper.errors import ConfigError, EnvironmentFailure, Failure
from sweeper.ledger.lookup import find_checkpoint, split
from sweeper.storage import checkpoints
from sweeper.storage.settings import Stores, room

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
    ranked = leaders(ledger.records(), ledger.direction)
    there = checkpoints.kept(record.checkpoint for record in ranked)
    kept = [Trial(ledger, record) for record in ranked if record.checkpoint in there]
    if len(kept) < count:
        raise ConfigError(
            f"--ensemble {count}: sweep {name} has kept {len(kept)} checkpoints; ask for fewer, or run it again "
            f"with keep.checkpoints={count}"
        )
    return [trial.checkpoint(stores.root) for trial in kept[:count]]


def answer(team: Team, data: Data, cache: Path, weight: float | None = None) -> Answers:
    """The team's answers to the unlabelled questions of `data`. Without a `weight` one is fitted on the validation
    questions of the reader's own data, if that is still there.

    Raises CheckpointError or BackboneError for a checkpoint that cannot be used.
    """
    if team.end_to_end:
        model = answering.load(team.end_to_end, END_TO_END, cache)
        return Answers(answering.end_to_end(model, data, data.test), 0.0, "end to end")
    selector, readers = two_stages(team, cache)
    chosen, told = (weight, f"weight {weight} as given") if weight is not None else fitted(team, selector, readers)
    return Answers(answering.pipeline(selector, readers, data, data.test, chosen), chosen, told)


def two_stages(team: Team, cache: Path) -> tuple[answering.Model, list[answering.Model]]:
    """The selector and the readers, loaded."""
    assert team.selector
    selector = answering.load(team.selector, SELECTOR, cache)
    return selector, [answering.load(folder, READER, cache) for folder in team.readers]


def fitted(team: Team, selector: answering.Model, readers: Sequence[answering.Model]) -> tuple[float, str]:
    """The weight with the most exact matches on the validation questions of the reader's own data, and a word on it;
    0 where these are no longer there."""
    made = identity(team.readers[0])
    try:
        data = read(made["data"])
    except DataError:
        return 0.0, f"plain pipeline, as the validation questions in {made['data']} are not there to fit a weight on"
    if data.fingerprint != made["data_fingerprint"]:
        return 0.0, f"plain pipeline, as {made['data']} has changed since the reader was trained on it"
    profile = str(made["params"].get("metric_profile", "strict"))
    weight = evaluation.fitted_weight(data, selector, readers, profile)
    helps = "soft two stages" if weight else "plain pipeline"
    return weight, f"{helps}: weight {weight:.2f} fitted on {len(data.valid)} validation questions"


def submit(team: Team, context: Path, test: Path, output: Path, stores: Stores, weight: float | None) -> Answers:
    """Answer the questions of `test` and write them to `output`, or write nothing.

    Raises Failure with a line for each answer that a contest would refuse.
    """
    check_place(output)
    data = read_unlabelled(context, test)
    answers = answer(team, data, stores.root / "features", weight)
    if problems := submission.problems(data, data.test, answers.rows):
        raise Failure([f"{output}: not written; {problem}" for problem in problems])
    with written(output):
        submission.write(output, submission.csv_text(answers.rows))
    return answers


@contextmanager
def written(output: Path) -> Iterator[None]:
    """Turns what the disk says of a place that is written to into an EnvironmentFailure of one line."""
    try:
        yield
    except OSError as error:
        free = room(output.absolute().parent)
        raise EnvironmentFailure(
            f"{output}: {error.strerror or error}; nothing was written ({free}); free the place or name another"
        ) from None


def record(team: Team, answers: Answers, output: Path, stores: Stores) -> None:
    """Note a submission in MLflow: the file, and which models made it. Raises EnvironmentFailure."""
    from sweeper.tracking.client import note

    made = {f"checkpoint.{place}": str(folder) for place, folder in enumerate(team.members())}
    tags = {**made, "sha256": hashlib.sha256(output.read_bytes()).hexdigest(), "answering": answers.note}
    note(stores, "submissions", output.name, tags, {"weight": answers.weight}, [output])


PROGRAM = """# Answers the questions in two files with the models beside this one; works offline.
#   python answer.py context.json test.json submission.csv
import sys
from pathlib import Path

from jobs.offline import main

sys.exit(main(sys.argv[1:], Path(__file__).resolve().parent))
"""
REQUIRED = (
    "torch",
    "transformers",
    "accelerate",
    "numpy",
    "scipy",
    "bm25s",
    "rapidfuzz",
    "filelock",
    "annotated-types",
)


def export(team: Team, output: Path, stores: Stores, weight: float | None = None) -> str:
    """Write a folder that answers questions without this project's stores: checkpoints without what only training
    needs, `answer.py`, the jobs it uses, pinned requirements, and SHA256SUMS of it all. Returns a word on the
    weight, which is fitted as `answer` does.

    Raises ConfigError when the folder exists and is not empty, EnvironmentFailure when the disk does not take it.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output}: is there and not empty; name a new folder")
    check_place(output)
    told = "end to end"
    if team.selector and weight is None:
        weight, told = fitted(team, *two_stages(team, stores.root / "features"))
    elif team.selector:
        told = f"weight {weight} as given"
    clear_scratch(output.absolute())
    with (
        written(output),
        TemporaryDirectory(prefix=f".{output.name}-", suffix=PART, dir=output.absolute().parent) as scratch,
    ):
        folder = Path(scratch) / output.name
        folder.mkdir()
        _fill(folder, team, weight or 0.0)
        faults.point("export.rename")
        folder.replace(output)  # whole or absent
    return told


def check_place(output: Path) -> None:
    """Before hours of work: that the folder to write in is there. Raises EnvironmentFailure."""
    if not output.absolute().parent.is_dir():
        raise EnvironmentFailure(f"{output}: its folder {output.parent} is not there; make it, or name another place")


def _fill(folder: Path, team: Team, weight: float) -> None:
    write_json(folder / TEAM, _copied(team, weight, folder))
    _copy_code(Path(jobs.__file__).parent, folder / "jobs")
    (folder / "answer.py").write_text(PROGRAM, encoding="utf-8")
    pins = "".join(f"{package}=={version(package).partition('+')[0]}\n" for package in REQUIRED)
    (folder / "requirements.txt").write_text(pins, encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = "".join(f"{_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")


def _copy_code(package: Path, target: Path) -> None:
    """Without the modes it was installed with: who may read an export is for its owner to say."""
    for path in package.rglob("*.py"):
        place = target / path.relative_to(package)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def _copied(team: Team, weight: float, output: Path) -> Mapping[str, Any]:
    """Copies the checkpoints; tells `answer.py` where they are."""
    if team.end_to_end:
        return {END_TO_END: copy_answering_part(team.end_to_end, output / END_TO_END).name}
    assert team.selector
    readers = [
        copy_answering_part(folder, output / f"{READER}-{place}").name for place, folder in enumerate(team.readers)
    ]
    selector = copy_answering_part(team.selector, output / SELECTOR).name
    return {SELECTOR: selector, READER: readers, "weight": weight}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Answer the questions of a contest and write the submission CSV."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from jobs.answering import submission
from jobs.dataset.data import read_unlabelled
from jobs.files import disk_errors
from sweeper.errors import EnvironmentFailure
from sweeper.release.teams import Answers, Team, team_answers
from sweeper.storage.identity import places_of
from sweeper.storage.settings import Stores

NOT_WRITTEN = "nothing was written; free disk space or name another place"


def submit_answers(
    team: Team, context: Path, test: Path, output: Path, stores: Stores, weight: float | None
) -> Answers:
    """Answer the questions of `test` and write the answers to `output`; return what was written.

    What a contest would refuse is corrected first, and `corrections` tells it.
    """
    check_output_folder(output)
    data = read_unlabelled(context, test)
    answers = team_answers(team, data, stores.root / "features", weight, places_of(stores))
    rows, corrections = submission.corrected_answers(data, data.test, answers.rows)
    with disk_errors(EnvironmentFailure, NOT_WRITTEN, output):
        submission.write_submission(output, submission.submission_csv(rows))
    return replace(answers, rows=rows, corrections=corrections)


def record_submission(team: Team, answers: Answers, output: Path, stores: Stores) -> None:
    """Store a submission in MLflow: the CSV file and the names of its checkpoints. Raises EnvironmentFailure."""
    from sweeper.tracking.client import log_single_run

    members = {f"checkpoint.{index}": str(folder) for index, folder in enumerate(team.members())}
    tags = {**members, "sha256": hashlib.sha256(output.read_bytes()).hexdigest(), "answering": answers.note}
    log_single_run(stores, "submissions", output.name, tags, {"weight": answers.weight}, [output])


def check_output_folder(output: Path) -> None:
    """Raise EnvironmentFailure when the output folder is missing. Called first, as answering may take hours."""
    if not output.absolute().parent.is_dir():
        raise EnvironmentFailure(f"{output}: folder {output.parent} does not exist; create it, or name another place")

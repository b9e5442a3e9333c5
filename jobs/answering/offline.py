"""Run the program of an exported folder: answer questions with the checkpoints in that folder, offline.

team.json names them: `{"mc": folder, "qa": [folders], "weight": 0.2}` or `{"longformer": folder}`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from jobs.answering import answers as answering
from jobs.answering import submission
from jobs.answering.answers import Answer
from jobs.backbone.source import BackboneError
from jobs.checkpoint import CheckpointError, damage, load_json
from jobs.dataset.data import Data, DataError, read_unlabelled
from jobs.files import disk_errors

TEAM = "team.json"
USAGE = "use: python answer.py context.json test.json submission.csv"


def main(arguments: Sequence[str], home: Path) -> int:
    """Write a submission for the questions in two files, and print what was corrected.

    Return 0, or print the mistakes and return an exit code.
    """
    if len(arguments) != 3:
        print(USAGE, file=sys.stderr)
        return 2
    context, test, output = map(Path, arguments)
    try:
        data = read_unlabelled(context, test)
        with TemporaryDirectory() as cache:
            answers = exported_answers(data, home, Path(cache))
        answers, corrections = submission.corrected_answers(data, data.test, answers)
        with disk_errors(OSError, "name another place", output):
            submission.write_submission(output, submission.submission_csv(answers))
    except DataError as error:
        print(error, file=sys.stderr)
        return 3
    except (OSError, CheckpointError, BackboneError) as error:
        print(error, file=sys.stderr)
        return 4
    for line in corrections:
        print(f"{output}: {line}", file=sys.stderr)
    return 0


def exported_answers(data: Data, home: Path, cache: Path) -> list[Answer]:
    """Answer with the checkpoints that team.json names. Raises CheckpointError when one is damaged."""
    team = load_json(home / TEAM)
    for folder in (team.get("longformer"), team.get("mc"), *team.get("qa", [])):
        if folder and (problem := damage(home / folder)):
            raise CheckpointError(f"{problem}; copy the exported folder again")
    if "longformer" in team:
        return answering.end_to_end(
            answering.load_answering_model(home / team["longformer"], "longformer", cache), data, data.test
        )
    selector = answering.load_answering_model(home / team["mc"], "mc", cache)
    readers = [answering.load_answering_model(home / folder, "qa", cache) for folder in team["qa"]]
    return answering.pipeline(selector, readers, data, data.test, team["weight"])

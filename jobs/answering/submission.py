"""Validate answers, write them as a contest's CSV file, and score such a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jobs import fault_injection
from jobs.answering.answers import Answer
from jobs.dataset.data import Data, DataError, Question, quoted, read_json, read_text, refuse
from jobs.files import atomic
from jobs.metrics import mean_scores

COLUMNS = ["id", "answer"]


def submission_problems(data: Data, rows: Sequence[Question], answers: Sequence[Answer]) -> list[str]:
    """Return a line for each mistake that makes these answers an invalid submission for `rows`.

    Mistakes are missing, repeated, reordered or unknown ids, empty answers, and answers that occur in none of the
    question's paragraphs.
    """
    found = []
    if [answer.id for answer in answers] != [row.id for row in rows]:
        found.append(f"{len(answers)} answers; their ids, or the order, differ from those of the {len(rows)} questions")
    by_id = {row.id: row for row in rows}
    for answer in answers:
        row = by_id.get(answer.id)
        if not answer.text.strip():
            found.append(f"id {answer.id!r}: empty answer")
        elif row and not any(answer.text in data.paragraphs[paragraph] for paragraph in row.paragraphs):
            found.append(f"id {answer.id!r}: {answer.text!r} occurs in none of the question's paragraphs")
    return found


def submission_csv(answers: Sequence[Answer]) -> str:
    """Return the CSV text: header `id,answer`, then one unmodified answer a line."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([answer.id, answer.text] for answer in answers)
    return file.getvalue()


def write_submission(path: Path, text: str) -> None:
    """Write the CSV file in one step: if anything fails, the old file stays. Raises OSError."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8", newline="")
        fault_injection.point("submission.rename")


def read_answers(path: Path) -> dict[str, str]:
    """Read the answers of a submission or a solution, by id.

    The file is a CSV file with the columns `id` and `answer` (others are ignored), or labelled questions in the
    assignment's JSON format, such as test_labels.json. Raises DataError with every mistake and its line.
    """
    if path.suffix == ".json":
        return _solution_labels(path)
    rows = _csv_rows(path)
    _, header = next(rows, (1, []))
    if not set(COLUMNS) <= set(header):
        refuse([f"{path}:1: the header is {quoted(','.join(header))}; it must have the columns id and answer"])
    places = [header.index(name) for name in COLUMNS]
    answers: dict[str, str] = {}
    mistakes = []
    for line, cells in rows:
        if len(cells) != len(header):
            mistakes.append(f"{path}:{line}: {len(cells)} columns; the header has {len(header)}")
            continue
        key, answer = (cells[place] for place in places)
        if key in answers:
            mistakes.append(f"{path}:{line}: id {quoted(key)} occurs twice; keep one")
        answers[key] = answer
    refuse(mistakes)
    return answers


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV file, each with the number of its last line. Blank lines are no rows."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):  # a spreadsheet writes rows of nothing but commas at the end
                yield reader.line_num, cells
    except csv.Error as error:
        refuse([f"{path}:{reader.line_num}: {error}; close the quotation mark before it"])


def _solution_labels(path: Path) -> dict[str, str]:
    rows = read_json(path)
    try:
        return {row["id"]: row["answer"]["text"] for row in rows}
    except (KeyError, TypeError):
        raise DataError([f"{path}: a list of questions with id and answer is expected, as in valid.json"]) from None


def score_submission(
    submission: Mapping[str, str], solution: Mapping[str, str], profile: str = "strict"
) -> dict[str, float]:
    """Return the mean `exact_match` and `f1`, 0 to 1, over the questions of the solution.

    >>> score_submission({"a": "湖"}, {"a": "湖"})
    {'exact_match': 1.0, 'f1': 1.0}

    Raises DataError when the ids differ.
    """
    missing = [key for key in solution if key not in submission]
    unknown = [key for key in submission if key not in solution]
    refuse([f"submission: id {quoted(key)} of the solution is missing" for key in missing])
    refuse([f"submission: id {quoted(key)} is not in the solution; remove it" for key in unknown])
    if not solution:
        refuse(["solution: holds no answers"])
    return mean_scores([submission[key] for key in solution], list(solution.values()), profile)

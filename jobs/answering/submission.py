"""Correct answers that a contest would refuse, write them as its CSV file, and score such a file."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from jobs import fault_injection
from jobs.answering.answers import Answer
from jobs.dataset.data import Data, DataError, Question, quoted, read_json, read_text, refuse
from jobs.features.blanks import has_text, opening, text_span
from jobs.features.windows import NO_SPAN_SCORE
from jobs.files import atomic
from jobs.metrics import mean_scores

COLUMNS = ["id", "answer"]


FALLBACK_CHARS = 30  # length of the longest answer where a model has given none, in characters
MAX_EXAMPLES = 3  # ids named for each kind of correction


def corrected_answers(
    data: Data, rows: Sequence[Question], answers: Sequence[Answer]
) -> tuple[list[Answer], tuple[str, ...]]:
    """Return one answer for each of `rows`, in their order, and a line for each kind of correction with its count.

    Of several answers to a question the first stays. Blanks at an answer's ends are removed. An answer that is empty,
    missing, or in none of the question's paragraphs is replaced; see `_replacement`. Line breaks inside an answer stay,
    as contests compare the paragraph's exact text.
    """
    given: dict[str, Answer] = {}
    for answer in answers:
        given.setdefault(answer.id, answer)
    wanted = [row.id for row in rows]
    checked = [_checked(data, row, given.get(row.id)) for row in rows]
    kinds = {
        "answered more than once, the first answer stays": _answered_again(answer.id for answer in answers),
        "not a question of this test, left out": [key for key in given if key not in set(wanted)],
    }
    for answer, kind in checked:
        if kind:
            kinds.setdefault(kind, []).append(answer.id)
    lines = [_correction_line(kind, ids) for kind, ids in kinds.items() if ids]
    if [key for key in given if key in set(wanted)] != [key for key in wanted if key in given]:
        lines.append("corrected: the answers were in another order than the questions")
    return [answer for answer, _ in checked], tuple(lines)


def _answered_again(ids: Iterable[str]) -> list[str]:
    return [key for key, count in Counter(ids).items() if count > 1]


def _correction_line(kind: str, ids: Sequence[str]) -> str:
    examples = ", ".join(quoted(key) for key in ids[:MAX_EXAMPLES])
    return f"corrected: {kind}: {len(ids)} ({examples}{', …' if len(ids) > MAX_EXAMPLES else ''})"


def _checked(data: Data, row: Question, answer: Answer | None) -> tuple[Answer, str]:
    """Return a valid answer to a question, and what was corrected; nothing if the answer was valid."""
    if not any(has_text(data.paragraphs[paragraph]) for paragraph in row.paragraphs):
        text = row.question[slice(*opening(row.question, FALLBACK_CHARS))] or row.question
        return Answer(row.id, row.paragraphs[0], 0, text, NO_SPAN_SCORE), "no paragraph has text, given the question"
    if answer is None:
        return _replacement(data, row, Answer(row.id, -1, 0, "", NO_SPAN_SCORE)), "no answer, given text of a paragraph"
    first, last = text_span(answer.text, 0, len(answer.text))
    if first == last:
        return _replacement(data, row, answer._replace(text="")), "empty answer, given text of a paragraph"
    cut = answer._replace(text=answer.text[first:last], start=answer.start + first)
    if not any(cut.text in data.paragraphs[paragraph] for paragraph in row.paragraphs):
        return _replacement(data, row, answer), "answer in none of the question's paragraphs, given text of one"
    return cut, "" if cut == answer else "white space at an answer's end, removed"


def _replacement(data: Data, row: Question, answer: Answer) -> Answer:
    """Return the best answer that needs no model, from a question's paragraphs of which at least one has text.

    It is the text at the answer's place. If that is not text of the question's paragraphs, it is the beginning of the
    answer's paragraph, or else of the one that has most of the question's characters.
    """
    asked = set(row.question)
    ranked = sorted(row.paragraphs, key=lambda one: (one != answer.paragraph, -len(asked & set(data.paragraphs[one]))))
    best = next(one for one in ranked if has_text(data.paragraphs[one]))
    text = data.paragraphs[best]
    begin, end = max(0, answer.start), min(len(text), max(0, answer.start) + len(answer.text))
    first, last = text_span(text, begin, end) if best == answer.paragraph else (0, 0)
    if first >= last:
        first, last = opening(text, FALLBACK_CHARS)
    return answer._replace(paragraph=best, start=first, text=text[first:last])


def submission_csv(answers: Sequence[Answer]) -> str:
    """Return the CSV text: header `id,answer`, then one unmodified answer a line.

    Lines end in a line feed. A cell with a comma, a quotation mark, a carriage return or a line feed stands in
    quotation marks.
    """
    return "".join(map(_csv_line, [COLUMNS, *([answer.id, answer.text] for answer in answers)]))


def _csv_line(cells: Sequence[str]) -> str:
    file = io.StringIO()
    # Python 3.11's writer quotes a carriage return only if it is in the line terminator.
    csv.writer(file, lineterminator="\r\n").writerow(cells)
    return file.getvalue().removesuffix("\r\n") + "\n"


def write_submission(path: Path, text: str) -> None:
    """Write the CSV file in one step, in UTF-8 without a byte order mark, which pandas would read into the header.

    If anything fails, the old file stays. Raises OSError.
    """
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
    refuse([f"{path}:1: the column {name} occurs twice; keep one" for name in COLUMNS if header.count(name) > 1])
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
    """Yield the rows of a CSV file, each with the number of its last line. Blank lines are no rows.

    Quotation marks must be closed and, inside a cell that has them around it, doubled: a reader that guesses takes the
    rest of the file into one cell, or drops marks of an answer.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):  # a spreadsheet writes rows of nothing but commas at the end
                yield reader.line_num, cells
    except csv.Error as error:
        refuse([f"{path}:{reader.line_num}: {error}; close the quotation mark before it, and double those in a cell"])


def _solution_labels(path: Path) -> dict[str, str]:
    rows = read_json(path)
    try:
        labels = [(row["id"], row["answer"]["text"]) for row in rows]
    except (KeyError, TypeError):
        raise DataError([f"{path}: a list of questions with id and answer is expected, as in valid.json"]) from None
    odd = [row for row, label in enumerate(labels) if not _are_texts(label)]
    refuse([f"{path}: row {row}: id and answer must be text" for row in odd])
    refuse([f"{path}: id {quoted(key)} occurs twice; keep one" for key in _answered_again(key for key, _ in labels)])
    return dict(labels)


def _are_texts(cells: Iterable[object]) -> bool:
    return all(isinstance(cell, str) for cell in cells)


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

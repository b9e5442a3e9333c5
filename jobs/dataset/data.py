"""Read, verify and fingerprint a data set in the assignment's format. Standard library only.

A data set is a folder with context.json (a list of paragraphs), train.json, valid.json and, optionally, test.json;
or the built-in `sample`. All mistakes are reported together.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import astuple, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from jobs.dataset.json_files import DataError, id_note, json_content, json_kind, quoted, read_json, read_text, refuse

# Modules of this project and of users import these from here.
__all__ = ["DataError", "quoted", "read_json", "read_text", "refuse"]

SAMPLE = "sample"
SPLITS = ("train", "valid", "test")
REFERENCES = "references.json"
LABELS = "test_labels.json"
ORIGIN = "origin.json"
OPTIONS = "options"  # the `kind` in origin.json of a data set of multiple-choice questions
CANDIDATES = range(2, 9)
EMPTY = "empty text"
MAX_TEXT_CHARS = 100_000  # limit for one text: counting bigrams in 3.4 million characters took 1.2 GB and 20 s


@dataclass(frozen=True)
class Question:
    """Holds one question with its candidate paragraphs and its label.

    `paragraphs` and `relevant` are indices into Data.paragraphs; `start` is the answer's first character in the
    relevant paragraph. An unlabelled question has no `relevant`, `answer` and `start`.
    """

    id: str
    question: str
    paragraphs: tuple[int, ...]
    relevant: int | None = None
    answer: str | None = None
    start: int | None = None


@dataclass(frozen=True)
class Data:
    """Holds a data set. `several` has all right answers of each question in references.json, by question id.

    `options` is True for multiple-choice questions: a question's paragraphs are its options, and its text stands in
    front of the question.
    """

    location: str
    paragraphs: tuple[str, ...]
    train: tuple[Question, ...]
    valid: tuple[Question, ...]
    test: tuple[Question, ...]
    several: Mapping[str, list[str]] = field(default_factory=dict)
    options: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256 of what trials train on and are scored on.

        That is the paragraphs in order, the training and validation questions in order with their candidates and
        labels, and what references.json adds to these answers. The folder, the JSON formatting, test questions and all
        other files do not count.
        """
        right = {row.id: {row.answer, *self.several.get(row.id, ())} for row in (*self.train, *self.valid)}
        several = {key: sorted(map(str, answers)) for key, answers in right.items() if len(answers) > 1}
        return self._sha256((), several)

    @cached_property
    def earlier_fingerprints(self) -> tuple[str, ...]:
        """Return the fingerprints by earlier definitions, which counted test questions and all of references.json."""
        return self._sha256(self.test, self.several), self._sha256((), self.several)

    def matches(self, fingerprint: str) -> bool:
        """Return True if the fingerprint is that of this data, by the present or an earlier definition."""
        return fingerprint == self.fingerprint or fingerprint in self.earlier_fingerprints

    def _sha256(self, test: Sequence[Question], several: Mapping[str, list[str]]) -> str:
        content: list[Any] = [self.paragraphs, *([astuple(q) for q in rows] for rows in (self.train, self.valid, test))]
        content += [dict(several)] if several else []
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_data(location: str) -> Data:
    """Read the data set in the folder `location`, or the built-in one for `sample`.

    >>> read_data("sample").train[0].id
    'sample-train-00001'

    Raises DataError with every mistake found.
    """
    if location == SAMPLE:
        return _sample()
    mistakes: list[str] = []
    data = _parse_data(location, _read_files(Path(location), mistakes), mistakes)
    refuse(mistakes)
    return data


def read_unlabelled(context: Path, questions: Path) -> Data:
    """Read questions to answer, as the split `test`, and their paragraphs; the other splits are empty.

    A paragraph may be empty, because nobody can change the files of a contest.

    Raises DataError with every mistake found.
    """
    mistakes: list[str] = []
    paragraphs = _paragraphs(str(context), json_content(context, mistakes), mistakes, may_be_empty=True)
    refuse(mistakes)
    rows = tuple(_questions(str(questions), json_content(questions, mistakes), paragraphs, False, mistakes))
    mistakes += _repeated_ids({str(questions): rows})
    if not rows and not mistakes:
        mistakes.append(f"{questions}: no questions; at least one is needed")
    refuse(mistakes)
    return Data(str(questions.parent), paragraphs, (), (), rows, options=has_options(context.parent))


def vocabulary(data: Data) -> list[str]:
    """Return the texts for the vocabulary of a scratch backbone: all texts except validation and test questions."""
    return [*data.paragraphs, *(row.question for row in data.train)]


def long_texts(data: Data) -> Sequence[str]:
    """Return the paragraphs. Add the training questions if the texts stand in front of them, as with options."""
    return vocabulary(data) if data.options else data.paragraphs


def labelled_questions(data: Data, split: str) -> tuple[Question, ...]:
    """Return the labelled questions of `train`, `valid` or `test`.

    If test.json has no labels, read them from test_labels.json beside it. Raises DataError when there are none.
    """
    rows: tuple[Question, ...] = getattr(data, split)
    if rows and all(row.answer is not None for row in rows):
        return rows
    path = Path(data.location) / LABELS
    if not path.is_file():
        refuse([f"{data.location}: {split} has no labelled questions, and there is no {LABELS}; choose another split"])
    mistakes: list[str] = []
    labels = tuple(_questions(str(path), read_json(path), data.paragraphs, True, mistakes))
    if [row.id for row in labels] != [row.id for row in rows]:
        mistakes.append(f"{path}: its ids, or their order, differ from those of test.json")
    refuse(mistakes)
    return labels


def references(data: Data, file: Path | None = None) -> dict[str, list[str]]:
    """Return all right answers by question id, as `jobs.metrics.mean_scores` expects them.

    They come from `file`, or by default from the data set's references.json: `{"id": ["日月潭", "潭"]}`, or objects
    with such a list under `references`. Any other labelled question has its own answer; other unlabelled questions
    are left out.

    Raises DataError with every mistake found.
    """
    rows = [*data.train, *data.valid, *data.test]
    own = {row.id: [row.answer] for row in rows if row.answer is not None}
    return {**own, **(_reference_lists(file, {row.id for row in rows}) if file else data.several)}


def accepted(data: Data, profile: str) -> dict[str, list[str]]:
    """Return the right answers under a metric profile, by question id.

    Under `strict`, only the answer of the question's own row is right, as in the assignment; under other profiles,
    every reference is.
    """
    if profile != "strict":
        return references(data)
    return {row.id: [row.answer] for row in (*data.train, *data.valid, *data.test) if row.answer is not None}


def _reference_lists(path: Path, ids: Set[str]) -> dict[str, list[str]]:
    content = read_json(path)
    if not isinstance(content, dict):
        refuse([f"{path}: holds {json_kind(content)}; an object is expected, with a list of answers for each id"])
    lists = {key: one.get("references", []) if isinstance(one, dict) else one for key, one in content.items()}
    unknown = [key for key in lists if key not in ids]
    mistakes = [f"{path}: id {quoted(key)} is not a question of this data set; remove it" for key in unknown]
    mistakes += [
        f"{path}: id {quoted(key)}: a list of answers is expected, none of them empty"
        for key, answers in lists.items()
        if not isinstance(answers, list) or not answers or any(_text_problem(answer) for answer in answers)
    ]
    refuse(mistakes)
    return lists


@cache
def _sample() -> Data:
    from jobs.dataset.sample import sample_files

    return _parse_data(SAMPLE, sample_files(), [])


def _read_files(folder: Path, mistakes: list[str]) -> dict[str, Any]:
    if not _is_folder(folder):
        wanted = f"a folder with context.json, train.json and valid.json, or the word {SAMPLE}"
        raise DataError([f"{folder}: no such folder; `data` is {wanted}"])
    names = ["context", "train", "valid"] + (["test"] if os.path.lexists(folder / "test.json") else [])
    return {name: json_content(folder / f"{name}.json", mistakes) for name in names}


def _is_folder(path: Path) -> bool:
    """Return True for a folder; False also when the name is too long or access is denied."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _parse_data(location: str, files: Mapping[str, Any], mistakes: list[str]) -> Data:
    def name(split: str) -> str:
        return f"{location}: {split}" if location == SAMPLE else str(Path(location) / f"{split}.json")

    paragraphs = _paragraphs(name("context"), files["context"], mistakes)
    questions = {
        split: tuple(_questions(name(split), files.get(split, []), paragraphs, split != "test", mistakes))
        for split in SPLITS
    }
    for split in ("train", "valid"):
        if not questions[split] and not mistakes:
            mistakes.append(f"{name(split)}: no questions; at least one is needed")
    mistakes += _repeated_ids({name(split): rows for split, rows in questions.items()})
    several, options = _several(location, questions, mistakes), location != SAMPLE and has_options(Path(location))
    return Data(location, paragraphs, **questions, several=several, options=options)


def has_options(folder: Path) -> bool:
    """Return True if `data convert` has recorded that the paragraphs are options. Ignores an origin.json of others."""
    path = folder / ORIGIN
    origin = json_content(path, []) if path.is_file() else None
    return isinstance(origin, dict) and origin.get("kind") == OPTIONS


def _several(location: str, questions: Mapping[str, Sequence[Question]], mistakes: list[str]) -> dict[str, list[str]]:
    path = Path(location) / REFERENCES
    if location == SAMPLE or not path.exists():
        return {}
    try:
        return _reference_lists(path, {row.id for rows in questions.values() for row in rows})
    except DataError as error:
        mistakes += error.lines
        return {}


def _paragraphs(name: str, content: Any, mistakes: list[str], may_be_empty: bool = False) -> tuple[str, ...]:
    if not isinstance(content, list):
        mistakes.append(f"{name}: holds {json_kind(content)}; a list of paragraph strings is expected")
        return ()
    if not content and not mistakes:
        mistakes.append(f"{name}: no paragraphs; at least {CANDIDATES.start} are needed")
    for row, text in enumerate(content):
        if (problem := _text_problem(text)) and not (may_be_empty and problem == EMPTY):
            mistakes.append(f"{name}: row {row}: {problem}")
    return tuple(content)


def _text_problem(text: Any) -> str | None:
    if not isinstance(text, str):
        return f"{json_kind(text)} where text is expected"
    if len(text) > MAX_TEXT_CHARS:
        return f"{len(text):,} characters; at most {MAX_TEXT_CHARS:,} are allowed; split it"
    if "\0" in text:
        return f"a NUL character at {text.index(chr(0))}; remove it"
    if not text.strip():
        return EMPTY
    if half := re.search("[\ud800-\udfff]", text):
        return f"half a surrogate pair at {half.start()}, which is no character; write the whole one"
    return None


def _questions(
    name: str, content: Any, paragraphs: Sequence[str], labelled: bool, mistakes: list[str]
) -> Iterator[Question]:
    if not isinstance(content, list):
        mistakes.append(f"{name}: holds {json_kind(content)}; a list of questions is expected")
        return
    for number, row in enumerate(content):
        problems = list(_row_problems(row, paragraphs, labelled))
        mistakes += [f"{name}: row {number}{id_note(row)}: {problem}" for problem in problems]
        if not problems:
            yield _parse_question(row)


def _parse_question(row: Mapping[str, Any]) -> Question:
    answer = row.get("answer") or {}
    return Question(
        row["id"],
        row["question"],
        tuple(row["paragraphs"]),
        row.get("relevant"),
        answer.get("text"),
        answer.get("start"),
    )


def _row_problems(row: Any, paragraphs: Sequence[str], labelled: bool) -> Iterator[str]:
    if not isinstance(row, dict):
        yield f"{json_kind(row)} where a question object is expected"
        return
    needed = ("id", "question", "paragraphs") + (("relevant", "answer") if labelled else ())
    if missing := [key for key in needed if key not in row]:
        yield f"{', '.join(missing)}: missing"
        return
    for key in ("id", "question"):
        if problem := _text_problem(row[key]):
            yield f"{key}: {problem}"
    candidates = list(_candidate_problems(row["paragraphs"], len(paragraphs)))
    yield from candidates
    shown = [key for key in ("relevant", "answer") if key in row]
    if len(labels := [key for key in shown if labelled or row[key] is not None]) == 1:
        yield f"{labels[0]}: is given alone; write both relevant and answer, or neither"
    elif labels and not candidates and paragraphs:
        yield from _label_problems(row, paragraphs)


def _candidate_problems(candidates: Any, count: int) -> Iterator[str]:
    if not isinstance(candidates, list) or not all(_is_int(index) for index in candidates):
        yield "paragraphs: a list of whole numbers is expected"
        return
    if len(candidates) not in CANDIDATES:
        yield f"paragraphs: {len(candidates)} of them; {CANDIDATES.start} to {CANDIDATES.stop - 1} are expected"
    for index in candidates if count else ():  # if context.json is empty, that is reported instead
        if not 0 <= index < count:
            yield f"paragraphs: {quoted(index)} is not in context.json, which has rows 0 to {count - 1}"
    if len(set(candidates)) < len(candidates):
        yield "paragraphs: the same paragraph twice"


def _label_problems(row: Mapping[str, Any], paragraphs: Sequence[str]) -> Iterator[str]:
    relevant, answer = row["relevant"], row["answer"]
    if not _is_int(relevant) or relevant not in row["paragraphs"]:
        yield f"relevant: {quoted(relevant)} is none of this question's paragraphs {row['paragraphs']}"
        return
    if not isinstance(answer, dict) or not isinstance(answer.get("text"), str) or not _is_int(answer.get("start")):
        yield 'answer: {"text": a string, "start": a whole number} is expected'
        return
    text, start, paragraph = answer["text"], answer["start"], paragraphs[relevant]
    if not text.strip():
        yield "answer: empty text"
    elif isinstance(paragraph, str) and (start < 0 or paragraph[start : start + len(text)] != text):
        place = f"start {quoted(start)} of paragraph {relevant}"
        yield f"answer: {quoted(text)} is not at {place}; {_where(text, paragraph, start)}"


def _where(text: str, paragraph: str, start: int) -> str:
    first = min(max(0, start), len(paragraph))
    nearest = (paragraph.rfind(text, 0, first + len(text)), paragraph.find(text, first))
    places = [at for at in nearest if at >= 0]
    if not places:
        return "it does not occur in that paragraph"
    return f"it starts at {min(places, key=lambda at: abs(at - start))} (counted in characters, from 0)"


def _repeated_ids(questions: Mapping[str, Sequence[Question]]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for name, rows in questions.items():
        for row in rows:
            if row.id in seen:
                yield f"{name}: id {quoted(row.id)} is also in {seen[row.id]}; use each id once"
            seen.setdefault(row.id, name)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

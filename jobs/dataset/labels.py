"""Verify that an answer occurs where a corpus says it does, and correct its place if only one is possible."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from jobs.dataset.corpora import Asked, Reference
from jobs.dataset.data import CANDIDATES, MAX_TEXT_CHARS
from jobs.dataset.shifts import Shift, find_shift
from jobs.features.blanks import has_text, text_span

PLACEHOLDER = re.compile(r"FAKE_ANSWER_\d+")  # stands in the published test files of CMRC 2018
UNLABELLED, OPTION = "unlabelled", "option"


class Labelled(NamedTuple):
    """Holds a question with the answer that was kept.

    `found` is `exact` when the answer is where the corpus says, `repaired (RULE)` when one rule of jobs.dataset.shifts
    gives the places of all answers of the paragraph, `repaired` when the answer occurs once, but elsewhere, `located`
    when it occurs once and the corpus gives no place, `option` when it is one of the options. A question that is kept
    without an answer is `unlabelled`; its answer is empty.
    """

    asked: Asked
    answer: str
    start: int
    found: str


def label_answers(rows: Sequence[Asked]) -> list[Labelled | str]:
    """Return each question with its first usable answer, or the reason why it has none.

    An answer at its stated place is preferred over a repaired one, and that one over an answer that occurs once. Blanks
    at an answer's ends are removed, as no model's answer has them.
    """
    stated: dict[str, list[Reference]] = {}
    for row in rows:
        if row.options is None:
            stated.setdefault(row.origin, []).extend(row.references)
    text = {row.origin: row.paragraph for row in rows}
    shifts = {origin: find_shift(text[origin], references) for origin, references in stated.items()}
    return [flaw_of_question(row) or _label_question(row, shifts.get(row.origin)) for row in rows]


def without_labels(rows: Sequence[Asked]) -> list[Labelled | str]:
    """Return each question as unlabelled, or the reason why it cannot be asked."""
    return [flaw_of_question(row) or Labelled(row, "", 0, UNLABELLED) for row in rows]


def only_placeholders(rows: Sequence[Asked], labels: Sequence[Labelled | str]) -> bool:
    """Return True if a test split has no answers: none is usable, or all are one text that is not always in place."""
    usable = [label for label in labels if isinstance(label, Labelled)]
    in_place = sum(label.found in ("exact", "located", OPTION) for label in usable)
    texts = {reference.text for row in rows for reference in row.references}
    return not usable or (len(texts) == 1 and len(rows) > 2 and in_place < len(rows))


def flaw_of_question(row: Asked) -> str | None:
    """Return why a question cannot be asked, or None. Its answers do not matter."""
    for text in (row.id, row.question, row.paragraph, row.asked_text()):
        if found := flaw(text):
            return found
    if row.impossible:
        return "unanswerable"
    return _flaw_of_options(row.options) if row.options is not None else None


def _flaw_of_options(options: Sequence[str]) -> str | None:
    if any(flaw(option) for option in options):
        return next(f"option: {found}" for option in options if (found := flaw(option)))
    if len(set(options)) < len(options):
        return "equal options"
    if len(options) < CANDIDATES.start:
        return f"fewer than {CANDIDATES.start} options"
    return f"more than {CANDIDATES.stop - 1} options" if len(options) >= CANDIDATES.stop else None


def flaw(text: str) -> str | None:
    """Return why a text cannot be an id, question, paragraph or answer, or None for a valid text.

    The reasons are short because they are counted. `jobs.dataset.data` refuses the same texts.
    """
    if not text.strip():
        return "empty text"
    if len(text) > MAX_TEXT_CHARS:
        return f"more than {MAX_TEXT_CHARS:,} characters"
    if "\0" in text:
        return "a NUL character"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "half a surrogate pair"
    return None


def _label_question(row: Asked, shift: Shift | None) -> Labelled | str:
    if row.options is not None:
        return _label_option(row, row.options)
    tried = [_find_answer(row.paragraph, reference, shift) for reference in row.references]
    for wanted in ("exact", *([f"repaired ({shift.kind})"] if shift else []), "repaired", "located"):
        for text, start, found in tried:
            if found == wanted:
                first, last = text_span(text, 0, len(text))
                return Labelled(row, text[first:last], start + first, found)
    return tried[0][2] if tried else f"no answer{row.hint}"


def _label_option(row: Asked, options: Sequence[str]) -> Labelled | str:
    texts = [reference.text for reference in row.references if reference.text]
    if not texts:
        return f"no answer{row.hint}"
    return next((Labelled(row, text, 0, OPTION) for text in texts if text in options), "answer not among its options")


def _find_answer(paragraph: str, reference: Reference, shift: Shift | None) -> tuple[str, int, str]:
    """Return the answer's text, its start and how it was found, or its text, -1 and the reason why it was not."""
    text, start = reference.text, reference.start
    if not has_text(text):
        return text, -1, "empty answer"
    if PLACEHOLDER.fullmatch(text.strip()):
        return text, -1, "placeholder for an answer"
    if shift and reference in shift.places:
        own, place = shift.places[reference]
        return own, place, "exact" if (own, place) == (text, start) else f"repaired ({shift.kind})"
    if start is not None and start >= 0 and paragraph.startswith(text, start):
        return text, start, "exact"
    first = paragraph.find(text)
    if first < 0:
        return text, -1, "answer not in its paragraph"
    if paragraph.find(text, first + 1) >= 0:
        return text, -1, "answer several times in its paragraph, and not said where"
    return text, first, "located" if start is None else "repaired"

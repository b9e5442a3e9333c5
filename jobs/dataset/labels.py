"""Verify that an answer occurs where a corpus says it does, and correct its place if only one is possible."""

from __future__ import annotations

from typing import NamedTuple

from jobs.dataset.corpora import Asked, Reference
from jobs.dataset.data import MAX_TEXT_CHARS


class Labelled(NamedTuple):
    """Holds a question with the answer that was kept.

    `found` is `exact` when the answer is where the corpus says, `repaired` when it occurs once, but elsewhere, and
    `located` when it occurs once and the corpus gives no place.
    """

    asked: Asked
    answer: str
    start: int
    found: str


def label_answer(row: Asked) -> Labelled | str:
    """Return the question with its first usable answer, or the reason why it has none.

    An answer at its stated place is preferred over an answer that occurs once in the paragraph.
    """
    for text in (row.id, row.question, row.paragraph):
        if found := flaw(text):
            return found
    tried = [_find_answer(row.paragraph, reference) for reference in row.references]
    for how in ("exact", "repaired", "located"):
        for reference, (start, found) in zip(row.references, tried, strict=True):
            if found == how:
                return Labelled(row, reference.text, start, found)
    return tried[0][1] if tried else "no answer"


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


def _find_answer(paragraph: str, reference: Reference) -> tuple[int, str]:
    """Return the answer's start and how it was found (`exact`, `repaired`, `located`), or -1 and the reason."""
    text, start = reference.text, reference.start
    if not text.strip():
        return -1, "empty answer"
    if start is not None and start >= 0 and paragraph.startswith(text, start):
        return start, "exact"
    first = paragraph.find(text)
    if first < 0:
        return -1, "answer not in its paragraph"
    if paragraph.find(text, first + 1) >= 0:
        return -1, "answer several times in its paragraph, and not said where"
    return first, "located" if start is None else "repaired"

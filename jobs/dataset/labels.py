"""Whether an answer stands where a corpus says it does, and what to do when not: repaired where only one place
is possible, never guessed.
"""

from __future__ import annotations

from typing import NamedTuple

from jobs.dataset.corpora import Asked, Reference
from jobs.dataset.data import LONGEST


class Labelled(NamedTuple):
    """A question with the answer that is kept. `found` is `exact` when it stands where the corpus says,
    `repaired` when it stands elsewhere, once, and `located` when it stands once and no place was given."""

    asked: Asked
    answer: str
    start: int
    found: str


def label_answer(row: Asked) -> Labelled | str:
    """The question with the first of its answers that stands where it is said to, or else of those that stand
    in the paragraph once; or the reason why there is none."""
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
    """Why a text cannot be an id, a question, a paragraph or an answer, or None. Counted by kind, so in few words;
    jobs.data refuses the same."""
    if not text.strip():
        return "empty text"
    if len(text) > LONGEST:
        return f"more than {LONGEST:,} characters"
    if "\0" in text:
        return "a NUL character"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "half a surrogate pair"
    return None


def _find_answer(paragraph: str, reference: Reference) -> tuple[int, str]:
    """Where an answer starts and how that was found, or -1 and why it was not."""
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

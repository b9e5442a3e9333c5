"""Find questions and paragraphs that occur in more than one split of a data set."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jobs.dataset.data import Data, Question, quoted


@dataclass(frozen=True)
class Overlap:
    """Counts what is in more than one split. White space and the width of characters make no difference.

    questions       texts of questions
    same_paragraph  those of them that are asked about the same paragraph in two splits
    paragraphs      texts of paragraphs, including distractors; of multiple-choice questions, texts in front of them
    example         one such question with its splits and ids; None if there is none
    """

    questions: int
    same_paragraph: int
    paragraphs: int
    example: str | None

    def lines(self) -> list[str]:
        """Return the counts, without those that are 0, and a warning if scores would be too good."""
        same = f", {self.same_paragraph:,} of them about the same paragraph" if self.same_paragraph else ""
        counts = [
            f"questions in more than one split: {self.questions:,}{same}; for example {self.example}",
            f"shared paragraphs: {self.paragraphs:,} are in more than one split",
        ]
        told = [line for line, number in zip(counts, (self.questions, self.paragraphs), strict=True) if number]
        return told + ([self.warning()] if self.warning() else [])

    def warning(self) -> str:
        """Return one line if a split holds what another has seen; else an empty text."""
        if not self.same_paragraph and not self.paragraphs:
            return ""
        return "warning: scores would be too good, because splits share texts; keep each text in one split"


def find_overlap(data: Data, splits: Mapping[str, Sequence[Question]]) -> Overlap:
    """Return what the splits have in common."""
    asked: dict[str, dict[str, list[Question]]] = defaultdict(lambda: defaultdict(list))
    for split, rows in splits.items():
        for row in rows:
            asked[_plain(row.question)][split].append(row)
    shared = [by_split for by_split in asked.values() if len(by_split) > 1]
    same = [by_split for by_split in shared if _common(_asked_paragraphs(data, rows) for rows in by_split.values())]
    paragraphs = [_split_texts(data, rows) for rows in splits.values()]
    example = next((_shared_example(by_split) for by_split in (*same, *shared)), None)
    return Overlap(len(shared), len(same), len(_common(paragraphs)), example)


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())


def _common(sets: Iterable[set[str]]) -> set[str]:
    """Return what is in more than one set."""
    times = Counter(text for texts in sets for text in texts)
    return {text for text, number in times.items() if number > 1}


def _split_texts(data: Data, rows: Iterable[Question]) -> set[str]:
    """Return the paragraphs of questions, or the texts in front of multiple-choice questions."""
    if data.options:
        return {_plain(row.question.rpartition("\n")[0]) for row in rows}
    return {_plain(data.paragraphs[index]) for index in {index for row in rows for index in row.paragraphs}}


def _asked_paragraphs(data: Data, rows: Iterable[Question]) -> set[str]:
    """Return the paragraphs that hold the answers, all of a question's paragraphs if it is unlabelled."""
    if data.options:
        return _split_texts(data, rows)
    numbers = {index for row in rows for index in (row.paragraphs if row.relevant is None else [row.relevant])}
    return {_plain(data.paragraphs[index]) for index in numbers}


def _shared_example(by_split: Mapping[str, Sequence[Question]]) -> str:
    places = " and ".join(f"{split} (id {quoted(rows[0].id)})" for split, rows in by_split.items())
    return f"{quoted(next(iter(by_split.values()))[0].question)} in {places}"

"""Measure a data set: sizes, lengths, repetitions, and how hard its distractor paragraphs are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset.bm25 import bm25_scores
from jobs.dataset.data import SPLITS, Data, Question, long_texts, read_data, vocabulary
from jobs.dataset.overlaps import Overlap, find_overlap

if TYPE_CHECKING:
    from jobs.features.coverage import Coverage
    from jobs.features.tokens import Tokens

LIMITS = (384, 512, 1024, 2048, 4096)  # usual input lengths in tokens, from BERT's to Longformer's
WHOLE_ANSWERS = (
    "every answer is a whole paragraph; if the paragraphs are options of multiple-choice questions,"
    ' write {"kind": "options"} into origin.json, so that jobs that read refuse them'
)

Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Lengths:
    smallest: int
    mean: float
    median: float
    p95: float
    largest: int

    @classmethod
    def of(cls, numbers: Iterable[int]) -> Lengths:
        values = np.fromiter(numbers, np.int64)
        if not len(values):
            return cls(0, 0.0, 0.0, 0.0, 0)
        median, p95 = np.percentile(values, [50, 95])
        return cls(int(values.min()), round(float(values.mean()), 2), float(median), float(p95), int(values.max()))

    def __str__(self) -> str:
        return f"mean {self.mean:,.1f}, median {self.median:,.0f}, 95 % up to {self.p95:,.0f}, largest {self.largest:,}"


@dataclass(frozen=True)
class TokenLengths:
    """Holds lengths in a tokenizer's tokens. Joined inputs include special tokens.

    relevant                a question with its relevant paragraph
    joined                  a question with all its paragraphs, with a separator between neighbours
    *_longer                for each limit in tokens, the share of inputs that are longer
    *_answer_ends_past      for each limit in tokens, the share of answers that end after it in the input
    answers_cutting_tokens  share of answers that a model cannot give exactly: they begin or end inside a token, with a
                            blank, or with text that the tokenizer drops
    coverage                what the tokenizer makes of the characters of `long_texts`
    """

    tokenizer: str
    paragraph: Lengths
    question: Lengths
    answer: Lengths
    relevant: Lengths
    joined: Lengths
    relevant_longer: dict[int, float]
    relevant_answer_ends_past: dict[int, float]
    joined_longer: dict[int, float]
    joined_answer_ends_past: dict[int, float]
    answers_cutting_tokens: float
    coverage: Coverage

    def lines(self) -> list[str]:
        return [
            f"tokens of {self.tokenizer}",
            f"  paragraph: {self.paragraph}",
            f"  question: {self.question}",
            f"  answer: {self.answer}; {self.answers_cutting_tokens:.1%} begin or end inside a token or a dropped text",
            f"  question and relevant paragraph: {self.relevant}",
            f"    longer than {_shares_text(self.relevant_longer)}",
            f"    answer ends past {_shares_text(self.relevant_answer_ends_past)}",
            f"  question and all its paragraphs: {self.joined}",
            f"    longer than {_shares_text(self.joined_longer)}",
            f"    answer ends past {_shares_text(self.joined_answer_ends_past)}",
            *(f"  {line}" for line in (*self.coverage.lines(), *self.coverage.warnings())),
        ]


@dataclass(frozen=True)
class Survey:
    """Holds the measurements of a data set. Shares are between 0 and 1, over labelled questions.

    candidates            number of questions by number of paragraphs
    unused_paragraphs     paragraphs that no question refers to
    repeated_paragraphs   rows of context.json with the text of an earlier row
    repeated_questions    questions with the text and the paragraphs of an earlier question
    shared_paragraphs     texts that are candidates in more than one split
    shared_questions      questions that are in more than one split
    overlap               these counts in detail, with an example
    options               True for multiple-choice questions, whose paragraphs are options
    whole_answers         share whose answer is its whole paragraph
    odd_ids               ids with control characters, or white space at an end
    answer_in_distractor  share whose answer also occurs in another of the question's paragraphs
    answer_repeated       share whose answer occurs more than once in its paragraph
    bm25_picks            by split, the share whose relevant paragraph BM25 ranks first
    """

    location: str
    fingerprint: str
    questions: dict[str, int]
    labelled: int
    paragraphs: int
    candidates: dict[int, int]
    paragraph_characters: Lengths
    question_characters: Lengths
    answer_characters: Lengths
    unused_paragraphs: int
    repeated_paragraphs: int
    repeated_questions: int
    shared_paragraphs: int
    odd_ids: int
    answer_in_distractor: float
    answer_repeated: float
    bm25_picks: dict[str, float]
    shared_questions: int
    overlap: Overlap
    options: bool
    whole_answers: float
    tokens: TokenLengths | None = None

    def lines(self) -> list[str]:
        """Return the measurements as lines of text."""
        return [
            f"{self.location}: {_numbers_text(self.questions)} questions on {self.paragraphs:,} paragraphs",
            f"fingerprint {self.fingerprint}",
            *(["multiple-choice questions: the paragraphs are options; only job mc trains on them"] * self.options),
            f"paragraphs of a question: {', '.join(f'{size} ({n:,})' for size, n in self.candidates.items())}",
            "characters",
            f"  paragraph: {self.paragraph_characters}",
            f"  question: {self.question_characters}",
            f"  answer: {self.answer_characters}",
            *(self.tokens.lines() if self.tokens else []),
            f"answer also occurs in a distractor: {self.answer_in_distractor:.1%}",
            f"answer occurs more than once in its paragraph: {self.answer_repeated:.1%}",
            f"relevant paragraph picked by BM25: {', '.join(f'{s} {p:.1%}' for s, p in self.bm25_picks.items())}",
            *(f"{name.replace('_', ' ')}: {number:,}" for name, number in self._oddities().items() if number),
            *self.overlap.lines(),
            *([WHOLE_ANSWERS] * (self.whole_answers == 1 and not self.options)),
        ]

    def _oddities(self) -> dict[str, int]:
        names = ("unused_paragraphs", "repeated_paragraphs", "repeated_questions", "odd_ids")
        return {name: getattr(self, name) for name in names}

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "warnings": list(filter(None, [self.overlap.warning()]))}


def survey(location: str, tokenizer: str | None = None) -> Survey:
    """Measure the data set at `location`, with lengths in tokens if `tokenizer` names a backbone.

    >>> survey("sample").candidates
    {4: 2432}

    Raises DataError with every mistake in the data, BackboneError when the tokenizer cannot be loaded.
    """
    data = read_data(location)
    splits = {split: rows for split in SPLITS if (rows := getattr(data, split))}
    rows = [row for own in splits.values() for row in own]
    labelled = [row for row in rows if row.relevant is not None]
    overlap = find_overlap(data, splits)
    return Survey(
        location=location,
        fingerprint=data.fingerprint,
        questions={split: len(own) for split, own in splits.items()},
        labelled=len(labelled),
        paragraphs=len(data.paragraphs),
        candidates=dict(sorted(Counter(len(row.paragraphs) for row in rows).items())),
        paragraph_characters=Lengths.of(map(len, data.paragraphs)),
        question_characters=Lengths.of(len(row.question) for row in rows),
        answer_characters=Lengths.of(len(row.answer or "") for row in labelled),
        unused_paragraphs=len(data.paragraphs) - len({index for row in rows for index in row.paragraphs}),
        repeated_paragraphs=len(data.paragraphs) - len(set(data.paragraphs)),
        repeated_questions=len(rows) - len({(row.question, _asked_texts(data, row)) for row in rows}),
        shared_paragraphs=overlap.paragraphs,
        odd_ids=sum(row.id != row.id.strip() or not row.id.isprintable() for row in rows),
        answer_in_distractor=_true_share(_in_distractor(data, row) for row in labelled),
        answer_repeated=_true_share(_repeated_answer(data, row) for row in labelled),
        bm25_picks=_bm25_picks(data, splits),
        shared_questions=overlap.questions,
        overlap=overlap,
        options=data.options,
        whole_answers=_true_share(row.answer == data.paragraphs[row.relevant or 0] for row in labelled),
        tokens=_token_lengths(data, rows, labelled, tokenizer) if tokenizer else None,
    )


def _asked_texts(data: Data, row: Question) -> frozenset[str]:
    """Return the relevant paragraph of a question, or all its paragraphs if the question is unlabelled."""
    return frozenset(
        data.paragraphs[index] for index in ([row.relevant] if row.relevant is not None else row.paragraphs)
    )


def _true_share(answers: Iterable[bool]) -> float:
    given = list(answers)
    return sum(given) / len(given) if given else 0.0


def _in_distractor(data: Data, row: Question) -> bool:
    answer = row.answer or ""
    return any(answer in data.paragraphs[index] for index in row.paragraphs if index != row.relevant)


def _repeated_answer(data: Data, row: Question) -> bool:
    answer, paragraph = row.answer or "", data.paragraphs[row.relevant or 0]
    return paragraph.find(answer, paragraph.find(answer) + 1) >= 0


def _bm25_picks(data: Data, splits: Mapping[str, Sequence[Question]]) -> dict[str, float]:
    rows = {split: [row for row in own if row.relevant is not None] for split, own in splits.items()}
    flat = [row for own in rows.values() for row in own]
    candidates = [[data.paragraphs[index] for index in row.paragraphs] for row in flat]
    scores = bm25_scores([row.question for row in flat], candidates, data.paragraphs)
    right = {row.id: row.paragraphs[own.argmax()] == row.relevant for row, own in zip(flat, scores, strict=True)}
    return {split: _true_share(right[row.id] for row in own) for split, own in rows.items() if own}


def _token_lengths(data: Data, rows: Sequence[Question], labelled: Sequence[Question], name: str) -> TokenLengths:
    from jobs.backbone.tokenizers import check_tokenizer, load_tokenizer
    from jobs.features.layout import pair_layout
    from jobs.features.tokens import tokenize
    from jobs.features.windows import Pair, unrepresentable

    tokenizer = load_tokenizer(name, vocabulary(data))
    paragraphs, questions = tokenize(tokenizer, data.paragraphs), tokenize(tokenizer, [row.question for row in rows])
    coverage = check_tokenizer(name, tokenizer, long_texts(data), None if data.options else paragraphs)
    layout = pair_layout(tokenizer)
    asked = dict(zip((row.id for row in rows), questions.lengths() + layout.special, strict=True))
    sizes = paragraphs.lengths()
    joined = [int(asked[row.id] + sizes[list(row.paragraphs)].sum()) + len(row.paragraphs) - 1 for row in rows]
    relevant = [int(asked[row.id] + sizes[row.relevant]) for row in labelled]
    spans = _answer_spans(paragraphs, labelled)
    behind = np.asarray([asked[row.id] for row in labelled], np.int64) - len(layout.after) + spans[:, 1] + 1
    pairs = [Pair(0, row.relevant or 0, row.start or 0, (row.start or 0) + len(row.answer or "")) for row in labelled]
    return TokenLengths(
        tokenizer=name,
        paragraph=Lengths.of(sizes),
        question=Lengths.of(questions.lengths()),
        answer=Lengths.of(spans[:, 1] - spans[:, 0] + 1),
        relevant=Lengths.of(relevant),
        joined=Lengths.of(joined),
        relevant_longer=_past(relevant),
        relevant_answer_ends_past=_past(behind),
        joined_longer=_past(joined),
        joined_answer_ends_past=_past(behind + _before_relevant(sizes, labelled)),
        answers_cutting_tokens=unrepresentable(paragraphs, pairs) / max(1, len(pairs)),
        coverage=coverage,
    )


def _answer_spans(paragraphs: Tokens, rows: Sequence[Question]) -> Ints:
    """Return the first and last token of each answer in its paragraph [rows, 2]; -1, -1 if no token overlaps it."""
    from jobs.features.tokens import token_span

    spans = [
        token_span(paragraphs, row.relevant or 0, row.start or 0, (row.start or 0) + len(row.answer or ""))
        for row in rows
    ]
    return np.asarray(spans, np.int64).reshape(-1, 2)


def _before_relevant(sizes: Ints, rows: Sequence[Question]) -> Ints:
    """Return the number of tokens before the relevant paragraph [rows], including separators."""
    return np.asarray(
        [sum(int(sizes[i]) + 1 for i in row.paragraphs[: row.paragraphs.index(row.relevant or 0)]) for row in rows],
        np.int64,
    )


def _past(lengths: Iterable[int] | Ints) -> dict[int, float]:
    values = np.asarray(list(lengths))
    return {limit: _true_share((values > limit).tolist()) for limit in LIMITS}


def _shares_text(table: Mapping[int, float]) -> str:
    return ", ".join(f"{limit:,}: {share:.1%}" for limit, share in table.items())


def _numbers_text(table: Mapping[str, int]) -> str:
    return " / ".join(f"{number:,} {name}" for name, number in table.items())

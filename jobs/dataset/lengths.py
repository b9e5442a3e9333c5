"""Estimate how many tokens the inputs of a training have, from the characters of the data. Imports no tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset.data import Data, Question

Ints = NDArray[np.integer[Any]]
LETTERS_PER_TOKEN = 4  # of words in Latin letters and of numbers; every other character is a token
SPECIAL_TOKENS = 3  # one in front of the question and one behind each of both texts
WORD = re.compile(r"[A-Za-z0-9]+")
BLANK = re.compile(r"\s+")


@dataclass(frozen=True)
class InputLengths:
    """Hold the tokens of each row that is trained on in an epoch, and of each row of an evaluation: [rows].

    rows  rows of an input, for example the candidates of a question
    """

    train: Ints
    valid: Ints
    rows: float = 1.0

    def inputs(self, lengths: Ints) -> int:
        """Return the number of inputs that have these rows."""
        return round(len(lengths) / self.rows)


def token_counts(texts: Iterable[str]) -> Ints:
    """Return the estimated number of tokens of each text.

    >>> token_counts(["台北101大樓"]).tolist()
    [5]
    """
    return np.array([_token_count(text) for text in texts], np.int64)


def _token_count(text: str) -> int:
    words = WORD.findall(text)
    others = len(text) - sum(map(len, words)) - sum(map(len, BLANK.findall(text)))
    return others + sum(-(-len(word) // LETTERS_PER_TOKEN) for word in words)


def window_lengths(before: Ints, text: Ints, longest: int, stride: int) -> Ints:
    """Return the lengths of all windows of some texts.

    before   tokens that each window has besides those of its text: [texts]
    text     tokens of each text: [texts]
    longest  most tokens in a window
    stride   tokens that neighbouring windows have in common
    """
    before = np.minimum(before, longest // 2)
    step = np.maximum(1, longest - before - stride)
    more = np.maximum(0, -(-(text - (longest - before)) // step))
    last = np.minimum(longest, before + text - more * step)
    return np.concatenate([np.full(int(more.sum()), longest), last])


def relevant_lengths(data: Data, longest: int, stride: int, unanswered_share: float) -> InputLengths:
    """Return the lengths of the windows of each question's relevant paragraph.

    unanswered_share  share of the windows without an answer that are trained on
    """
    paragraphs = token_counts(data.paragraphs)

    def of(rows: Sequence[Question]) -> Ints:
        chosen = paragraphs[[row.relevant or 0 for row in rows]]
        return window_lengths(_tokens_before(rows), chosen, longest, stride)

    train = of(data.train)
    dropped = int((1 - unanswered_share) * (len(train) - len(data.train)))
    return InputLengths(train[dropped:], of(data.valid))  # whole windows come first


def candidate_lengths(data: Data, longest: int) -> InputLengths:
    """Return the lengths of each question's candidates; all candidates of a question are as long as the longest."""
    paragraphs = token_counts(data.paragraphs)

    def of(rows: Sequence[Question]) -> Ints:
        most = np.array([paragraphs[list(row.paragraphs)].max() for row in rows], np.int64)
        return np.repeat(np.minimum(longest, _tokens_before(rows) + most), [len(row.paragraphs) for row in rows])

    train = of(data.train)
    return InputLengths(train, of(data.valid), len(train) / len(data.train))


def joined_lengths(data: Data, longest: int, stride: int) -> InputLengths:
    """Return the lengths of the windows of each question's joined paragraphs."""
    paragraphs = token_counts(data.paragraphs)

    def of(rows: Sequence[Question]) -> Ints:
        joined = np.array([(paragraphs[list(row.paragraphs)] + 1).sum() - 1 for row in rows], np.int64)
        return window_lengths(_tokens_before(rows), joined, longest, stride)

    return InputLengths(of(data.train), of(data.valid))


def _tokens_before(rows: Sequence[Question]) -> Ints:
    return token_counts(row.question for row in rows) + SPECIAL_TOKENS

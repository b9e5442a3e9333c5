"""From text to model input: tokens, windows over long paragraphs, labels, and the way back to characters.

Each distinct text is tokenized once; windows are ranges of its tokens, cut with numpy and put together
batch by batch. Tokens are kept on disk and memory-mapped, so that the next trial tokenizes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.features.spans import Spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast
from jobs.features.tokens import UNLABELLED, AnyInts, Ints, Tokens, token_span, token_spans


class Layout(NamedTuple):
    """The special tokens a tokenizer puts around a pair, and the token types of its parts."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, int, int, int, int]

    @property
    def special(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def around(self, question: Ints, context: Ints) -> tuple[NDArray[Any], NDArray[Any]]:
        """Ids and token types of a whole input."""
        parts = (self.before, question, self.between, context, self.after)
        return np.concatenate(parts), np.repeat(self.types, [len(part) for part in parts])


def pair_layout(tokenizer: PreTrainedTokenizerFast) -> Layout:
    """How this tokenizer joins a question and a paragraph, read off one pair it has joined itself."""
    probe = tokenizer("一", "一", return_token_type_ids=True)
    ids, types, sequences = probe["input_ids"], probe["token_type_ids"], probe.sequence_ids()
    first, second = sequences.index(0), sequences.index(1)
    last_first = len(ids) - 1 - sequences[::-1].index(0)
    last_second = len(ids) - 1 - sequences[::-1].index(1)
    before, between, after = ids[:first], ids[last_first + 1 : second], ids[last_second + 1 :]
    return Layout(
        tuple(before),
        tuple(between),
        tuple(after),
        (types[0], types[first], types[second - 1], types[second], types[-1]),
    )


class Pair(NamedTuple):
    """A question read against a paragraph, both by row; the answer's characters where it is known."""

    question: int
    paragraph: int
    start: int = UNLABELLED
    end: int = UNLABELLED


class Batch(NamedTuple):
    """Padded model input [windows, positions]."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]


def padded(sequences: Sequence[tuple[NDArray[Any], NDArray[Any]]], pad_id: int, multiple: int = 1) -> Batch:
    """One line for each (ids, token types); as long as the longest, or the next multiple of `multiple`."""
    longest = max(len(ids) for ids, _ in sequences)
    shape = (len(sequences), -(-longest // multiple) * multiple)
    batch = Batch(np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64))
    for line, (ids, types) in enumerate(sequences):
        batch.input_ids[line, : len(ids)] = ids
        batch.attention_mask[line, : len(ids)] = 1
        batch.token_type_ids[line, : len(ids)] = types
    return batch


@dataclass(frozen=True)
class Windows:
    """Overlapping windows over the paragraphs of pairs, in the order of the pairs.

    pair        [windows] the pair each belongs to
    first, last [windows] the range of the paragraph's tokens each holds; `last` is exclusive
    offset      [windows] the position of the first of these tokens in the window
    labels      [windows, 2] positions of the answer's first and last token; 0 and 0, which is [CLS],
                where the window does not hold the whole answer
    """

    questions: Tokens
    paragraphs: Tokens
    layout: Layout
    pad_id: int
    pairs: Ints
    pair: Ints
    first: Ints
    last: Ints
    offset: Ints
    labels: Ints

    def __len__(self) -> int:
        return len(self.pair)

    def lengths(self) -> Ints:
        """[windows] tokens in each, special ones included."""
        return self.offset + (self.last - self.first) + len(self.layout.after)

    def batch(self, rows: Sequence[int] | Ints) -> Batch:
        """The input of some windows, padded to the longest of them."""
        return padded([self._sequence(row) for row in rows], self.pad_id)

    def _sequence(self, row: int) -> tuple[NDArray[Any], NDArray[Any]]:
        question, paragraph, *_ = self.pairs[self.pair[row]]
        asked = self.offset[row] - len(self.layout.before) - len(self.layout.between)
        return self.layout.around(
            self.questions.part(question, 0, asked),
            self.paragraphs.part(paragraph, self.first[row], self.last[row]),
        )

    def allowed(self, width: int) -> NDArray[np.bool_]:
        """[windows, width] true where a position holds a token of the paragraph."""
        place = np.arange(width)
        return (place >= self.offset[:, None]) & (place < (self.offset + self.last - self.first)[:, None])

    def characters(self, rows: AnyInts, spans: Spans) -> Ints:
        """[rows, 2] the characters, in the paragraph, of one span in each of these windows; no characters
        where a window has no token of its paragraph, as of one made of nothing a tokenizer reads."""
        base = self.paragraphs.bounds[self.pairs[self.pair[rows], 1]] + self.first[rows] - self.offset[rows]
        held = self.last[rows] > self.first[rows]
        return self.paragraphs.characters(base + spans.first, base + spans.last, held)


def cut_windows(
    tokenizer: PreTrainedTokenizerFast,
    questions: Tokens,
    paragraphs: Tokens,
    pairs: Iterable[Pair],
    max_length: int,
    doc_stride: int,
) -> Windows:
    """Windows of at most `max_length` tokens, two neighbours sharing `doc_stride` tokens of the paragraph.

    A question takes at most half of a window. Raises ValueError when `doc_stride` leaves no room to move.
    """
    table = np.fromiter(chain.from_iterable(pairs), np.int32).reshape(-1, 4)
    layout = pair_layout(tokenizer)
    cuts = _window_cuts(
        layout, questions.lengths()[table[:, 0]], paragraphs.lengths()[table[:, 1]], max_length, doc_stride
    )
    labels = _window_labels(answer_tokens(paragraphs, table)[cuts.row], cuts)
    return Windows(questions, paragraphs, layout, tokenizer.pad_token_id, table, *cuts, labels)


class Cuts(NamedTuple):
    """Where windows lie: `row` is the question and text each belongs to, the others as in Windows."""

    row: Ints
    first: Ints
    last: Ints
    offset: Ints


def _window_cuts(layout: Layout, asked: Ints, total: Ints, max_length: int, doc_stride: int) -> Cuts:
    """Windows over texts of `total` tokens, behind questions of `asked` tokens."""
    kept = np.minimum(asked, (max_length - layout.special) // 2)
    room = max_length - layout.special - kept
    if (room <= doc_stride).any():
        raise ValueError(f"doc_stride {doc_stride} leaves no room for new tokens in windows of {max_length}")
    row, nth = expanded(1 + np.maximum(0, -(-(total - room) // (room - doc_stride))))
    first = nth * (room - doc_stride)[row]
    last = np.minimum(first + room[row], total[row])
    offset = (len(layout.before) + kept + len(layout.between))[row]
    return Cuts(*(values.astype(np.int32) for values in (row, first, last, offset)))


def expanded(counts: Ints) -> tuple[Ints, Ints]:
    """Every row as often as it counts, and which time it is: [2, 1] gives [0, 0, 1] and [0, 1, 0]."""
    row = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, nth.astype(np.int32)


def answer_tokens(paragraphs: Tokens, table: Ints) -> Ints:
    """[pairs, 2] first and last token of each answer, within its paragraph; -1 where there is none."""
    tokens = np.full((len(table), 2), UNLABELLED, np.int32)
    known = table[:, 2] != UNLABELLED
    ordered = paragraphs.ordered[table[:, 1]]
    quick = known & ordered
    tokens[quick] = token_spans(paragraphs, *table[quick, 1:].T)
    for row in np.flatnonzero(known & ~ordered):
        tokens[row] = token_span(paragraphs, *table[row, 1:])
    return tokens


def _window_labels(answer: Ints, cuts: Cuts) -> Ints:
    """[windows, 2] positions of each window's answer; 0 where there is none or it is not whole."""
    inside = (answer[:, 0] != UNLABELLED) & (answer[:, 0] >= cuts.first) & (answer[:, 1] < cuts.last)
    return np.where(inside[:, None], answer + (cuts.offset - cuts.first)[:, None], 0).astype(np.int32)


def unrepresentable(paragraphs: Tokens, pairs: Iterable[Pair]) -> int:
    """How many answers do not begin and end at a token's border, and so can never be given exactly."""
    table = np.fromiter(chain.from_iterable(pairs), np.int32).reshape(-1, 4)
    table = table[table[:, 2] != UNLABELLED]
    tokens = answer_tokens(paragraphs, table)
    found = tokens[:, 0] != UNLABELLED
    first, last = (tokens[found] + paragraphs.bounds[table[found, 1], None]).T
    exact = (paragraphs.chars[first, 0] == table[found, 2]) & (paragraphs.chars[last, 1] == table[found, 3])
    return int((~found).sum() + (~exact).sum())

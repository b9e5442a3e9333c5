"""From text to model input: tokens, windows over long paragraphs, labels, and the way back to characters.

Each distinct text is tokenized once; windows are ranges of its tokens, cut with numpy and put together
batch by batch. Tokens are kept on disk and memory-mapped, so that the next trial tokenizes nothing.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from jobs.spans import Spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Ints = NDArray[np.int32]
UNLABELLED = -1


@dataclass(frozen=True)
class Tokens:
    """Tokenized texts, one behind the other.

    ids     [tokens] vocabulary indices, without special tokens
    chars   [tokens, 2] each token's first character and the one behind its last, in its own text
    bounds  [texts + 1] where each text's tokens begin; the last entry is the number of tokens
    """

    ids: Ints
    chars: Ints
    bounds: Ints

    def lengths(self) -> Ints:
        return np.diff(self.bounds)


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tokens:
    """Tokens of `texts` with their characters. Spaces at a token's border do not count as part of it,
    since SentencePiece hands a word the space before it."""
    encodings = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False)
    lengths = [len(ids) for ids in encodings["input_ids"]]
    chars = [
        _trimmed(text, first, last)
        for text, offsets in zip(texts, encodings["offset_mapping"], strict=True)
        for first, last in offsets
    ]
    return Tokens(
        np.fromiter((i for ids in encodings["input_ids"] for i in ids), np.int32, sum(lengths)),
        np.asarray(chars, np.int32).reshape(-1, 2),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
    )


def _trimmed(text: str, first: int, last: int) -> tuple[int, int]:
    while first < last and text[first].isspace():
        first += 1
    while first < last and text[last - 1].isspace():
        last -= 1
    return first, last


def cached_tokens(folder: Path, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tokens:
    """`tokenize`, made once per (tokenizer, texts) under `folder` and memory-mapped by all who ask.

    The lock lets one of several trials that start together do the work; the folder is renamed into
    place when it is whole, so that a half-written one is never read.
    """
    entry = folder / _key(tokenizer, texts)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{entry}.lock"):
        if not entry.exists():
            _store(entry, tokenize(tokenizer, texts))
    return Tokens(*(np.load(entry / f"{name}.npy", mmap_mode="r") for name in ("ids", "chars", "bounds")))


def _key(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> str:
    digest = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    digest.update(json.dumps(texts).encode())
    return digest.hexdigest()[:32]


def _store(entry: Path, tokens: Tokens) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=".tokens-", dir=entry.parent))
    for name in ("ids", "chars", "bounds"):
        np.save(scratch / f"{name}.npy", getattr(tokens, name))
    scratch.rename(entry)


class Layout(NamedTuple):
    """The special tokens a tokenizer puts around a pair, and the token types of its parts."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, int, int, int, int]

    @property
    def special(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


def pair_layout(tokenizer: PreTrainedTokenizerFast) -> Layout:
    """How this tokenizer joins a question and a paragraph, read off one pair it has joined itself."""
    probe = tokenizer("一", "一", return_token_type_ids=True)
    ids, types, sequences = probe["input_ids"], probe["token_type_ids"], probe.sequence_ids()
    first, second = sequences.index(0), sequences.index(1)
    last_first = len(ids) - 1 - sequences[::-1].index(0)
    last_second = len(ids) - 1 - sequences[::-1].index(1)
    before, between, after = ids[:first], ids[last_first + 1 : second], ids[last_second + 1 :]
    return Layout(
        tuple(before), tuple(between), tuple(after), (types[0], types[first], types[second - 1], types[second], types[-1])
    )


class Pair(NamedTuple):
    """A question read against a paragraph, both by row; the answer's characters where it is known."""

    question: int
    paragraph: int
    start: int = UNLABELLED
    end: int = UNLABELLED


class Batch(NamedTuple):
    """Padded model input [windows, positions] and where each window's paragraph lies in it."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]


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
        shape = (len(rows), int(self.lengths()[rows].max()))
        batch = Batch(np.full(shape, self.pad_id, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64))
        for line, row in enumerate(rows):
            ids, types = self._sequence(row)
            batch.input_ids[line, : len(ids)] = ids
            batch.attention_mask[line, : len(ids)] = 1
            batch.token_type_ids[line, : len(ids)] = types
        return batch

    def _sequence(self, row: int) -> tuple[NDArray[Any], NDArray[Any]]:
        question, paragraph, *_ = self.pairs[self.pair[row]]
        asked = self.offset[row] - len(self.layout.before) - len(self.layout.between)
        q, p = self.questions.bounds[question], self.paragraphs.bounds[paragraph]
        parts = (
            self.layout.before,
            self.questions.ids[q : q + asked],
            self.layout.between,
            self.paragraphs.ids[p + self.first[row] : p + self.last[row]],
            self.layout.after,
        )
        return np.concatenate(parts), np.repeat(self.layout.types, [len(part) for part in parts])

    def allowed(self, width: int) -> NDArray[np.bool_]:
        """[windows, width] true where a position holds a token of the paragraph."""
        place = np.arange(width)
        return (place >= self.offset[:, None]) & (place < (self.offset + self.last - self.first)[:, None])

    def characters(self, rows: Ints, spans: Spans) -> Ints:
        """[rows, 2] the characters, in the paragraph, of one span in each of these windows; no characters
        where a window has no token of its paragraph, as of one made of nothing a tokenizer reads."""
        base = self.paragraphs.bounds[self.pairs[self.pair[rows], 1]] + self.first[rows] - self.offset[rows]
        held = self.last[rows] > self.first[rows]
        first, last = np.where(held, base + spans.first, 0), np.where(held, base + spans.last, 0)
        return np.stack([self.paragraphs.chars[first, 0], self.paragraphs.chars[last, 1]], axis=1) * held[:, None]


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
    table = np.asarray(list(pairs), np.int32).reshape(-1, 4)
    layout = pair_layout(tokenizer)
    asked = np.minimum(questions.lengths()[table[:, 0]], (max_length - layout.special) // 2)
    room = max_length - layout.special - asked
    total = paragraphs.lengths()[table[:, 1]]
    if (room <= doc_stride).any():
        raise ValueError(f"doc_stride {doc_stride} leaves no room for new tokens in windows of {max_length}")
    counts = 1 + np.maximum(0, -(-(total - room) // (room - doc_stride)))
    pair = np.repeat(np.arange(len(table)), counts)
    nth = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = nth * (room - doc_stride)[pair]
    last = np.minimum(first + room[pair], total[pair])
    offset = (len(layout.before) + asked + len(layout.between))[pair]
    labels = _labels(_answer_tokens(paragraphs, table)[pair], first, last, offset)
    ints = (values.astype(np.int32) for values in (pair, first, last, offset, labels))
    return Windows(questions, paragraphs, layout, tokenizer.pad_token_id, table, *ints)


def _answer_tokens(paragraphs: Tokens, table: Ints) -> Ints:
    """[pairs, 2] first and last token of each answer, within its paragraph; -1 where there is none."""
    tokens = np.full((len(table), 2), UNLABELLED, np.int32)
    for row, (_, paragraph, start, end) in enumerate(table):
        if start != UNLABELLED:
            tokens[row] = token_span(paragraphs, paragraph, start, end)
    return tokens


def token_span(tokens: Tokens, text: int, start: int, end: int) -> tuple[int, int]:
    """First and last token that share a character with [start, end) of a text; (-1, -1) if none does."""
    chars = tokens.chars[tokens.bounds[text] : tokens.bounds[text + 1]]
    touched = np.flatnonzero((chars[:, 0] < end) & (chars[:, 1] > start))
    return (int(touched[0]), int(touched[-1])) if len(touched) else (UNLABELLED, UNLABELLED)


def _labels(answer: Ints, first: Ints, last: Ints, offset: Ints) -> Ints:
    inside = (answer[:, 0] != UNLABELLED) & (answer[:, 0] >= first) & (answer[:, 1] < last)
    return np.where(inside[:, None], answer - first[:, None] + offset[:, None], 0)


def unrepresentable(paragraphs: Tokens, pairs: Iterable[Pair]) -> int:
    """How many answers do not begin and end at a token's border, and so can never be given exactly."""
    table = np.asarray(list(pairs), np.int32).reshape(-1, 4)
    table = table[table[:, 2] != UNLABELLED]
    tokens = _answer_tokens(paragraphs, table)
    found = tokens[:, 0] != UNLABELLED
    first, last = (tokens[found] + paragraphs.bounds[table[found, 1], None]).T
    exact = (paragraphs.chars[first, 0] == table[found, 2]) & (paragraphs.chars[last, 1] == table[found, 3])
    return int((~found).sum() + (~exact).sum())

"""From text to model input: tokens, windows over long paragraphs, labels, and the way back to characters.

Each distinct text is tokenized once; windows are ranges of its tokens, cut with numpy and put together
batch by batch. Tokens are kept on disk and memory-mapped, so that the next trial tokenizes nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from jobs.features.spans import Spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Ints = NDArray[np.int32]
AnyInts = NDArray[np.integer[Any]]
UNLABELLED = -1


@dataclass(frozen=True)
class Tokens:
    """Tokenized texts, one behind the other.

    ids     [tokens] vocabulary indices, without special tokens
    chars   [tokens, 2] each token's first character and the one behind its last, in its own text
    bounds  [texts + 1] where each text's tokens begin; the last entry is the number of tokens
    ordered [texts] whether no token of it begins or ends before its neighbour ahead does
    """

    ids: Ints
    chars: Ints
    bounds: Ints
    ordered: NDArray[np.bool_]

    def lengths(self) -> Ints:
        return np.diff(self.bounds)

    def part(self, text: int, first: int, last: int) -> Ints:
        """Ids of a text's tokens `first` to `last`, exclusive."""
        begin = self.bounds[text]
        return self.ids[begin + first : begin + last]

    def characters(self, first: AnyInts, last: AnyInts, present: NDArray[np.bool_]) -> Ints:
        """[spans, 2] from the first character of token `first` to the one behind token `last`; 0 and 0 where
        a span is not `present`. Tokens are counted over all texts, characters in their own."""
        first, last = np.where(present, first, 0), np.where(present, last, 0)
        spans = np.stack([self.chars[first, 0], self.chars[last, 1]], axis=1)
        return np.where(present[:, None], spans, 0).astype(np.int32)


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tokens:
    """Tokens of `texts` with their characters. Spaces at a token's border do not count as part of it,
    since SentencePiece hands a word the space before it."""
    encodings = _backend(tokenizer).encode_batch(list(texts), add_special_tokens=False)
    bounds = np.cumsum([0, *map(len, encodings)]).astype(np.int32)
    ids = np.fromiter(chain.from_iterable(one.ids for one in encodings), np.int32, bounds[-1])
    places = chain.from_iterable(one.offsets for one in encodings)
    chars = np.fromiter(chain.from_iterable(places), np.int32, 2 * bounds[-1]).reshape(-1, 2)
    _trim(texts, chars, bounds)
    return Tokens(ids, chars, bounds, _ordered(chars, bounds))


def _backend(tokenizer: PreTrainedTokenizerFast) -> Any:
    """What tokenizes, without the lengths it was last used with. It is asked itself, since its wrapper makes
    Python lists of all it knows."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def _trim(texts: Sequence[str], chars: Ints, bounds: Ints) -> None:
    """Leave spaces out at both ends of every token. Only tokens with a space at an end are looked at one by one."""
    starts = np.cumsum([0, *map(len, texts)])
    letters = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    spaces = np.isin(letters, [letter for letter in np.unique(letters) if chr(letter).isspace()])
    text = np.repeat(np.arange(len(texts)), np.diff(bounds))
    holds = np.flatnonzero(chars[:, 0] < chars[:, 1])
    first, last = (starts[text[holds], None] + chars[holds]).T
    for token in holds[spaces[first] | spaces[last - 1]]:
        chars[token] = _trimmed(texts[text[token]], *chars[token].tolist())


def _trimmed(text: str, first: int, last: int) -> tuple[int, int]:
    while first < last and text[first].isspace():
        first += 1
    while first < last and text[last - 1].isspace():
        last -= 1
    return first, last


def _ordered(chars: Ints, bounds: Ints) -> NDArray[np.bool_]:
    back = np.flatnonzero((np.diff(chars, axis=0) < 0).any(axis=1)) + 1
    text = np.searchsorted(bounds, back, side="right") - 1
    ordered = np.ones(len(bounds) - 1, bool)
    ordered[text[back != bounds[text]]] = False
    return ordered


CHECKSUMS = "checksums.json"


def cached_tokens(folder: Path, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tokens:
    """`tokenize`, made once per (tokenizer, texts) under `folder` and memory-mapped by all who ask.

    The lock lets one of several trials that start together do the work; the folder is renamed into place when
    it is whole, so that a half-written one is never read. One that was damaged since is made again.
    """
    entry = folder / _key(tokenizer, tuple(texts))
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{entry}.lock"):
        if entry.exists():
            try:
                return _opened(entry)
            except (OSError, ValueError, KeyError, TypeError) as error:
                logging.getLogger(__name__).warning("%s: damaged, made again (%s)", entry, error)
        _store(entry, tokenize(tokenizer, texts))
        return _opened(entry)


def _key(tokenizer: PreTrainedTokenizerFast, texts: tuple[str, ...]) -> str:
    return hashlib.sha256(f"{_backend(tokenizer).to_str()} {_digest(texts)}".encode()).hexdigest()[:32]


@lru_cache(maxsize=8)  # training and evaluation questions share paragraphs
def _digest(texts: tuple[str, ...]) -> str:
    digest = hashlib.sha256(np.array([len(text) for text in texts], np.int64).tobytes())
    digest.update("".join(texts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


NAMES = tuple(field.name for field in fields(Tokens))
SETTLED = 2.0  # seconds after which a file that is changed once more shows another time, on any file system


def _opened(entry: Path) -> Tokens:
    """`_load`, once a process for as long as the files look the same; another process looks for itself."""
    looks = tuple(_look(entry / name) for name in (*(f"{name}.npy" for name in NAMES), CHECKSUMS))
    settled = time.time() - max(changed for *_, changed in looks) / 1e9 > SETTLED
    return _remembered(entry, looks) if settled else _load(entry)


Look = tuple[int, int, int]


def _look(file: Path) -> Look:
    """Inode, size, and the time of its last change, which no program can set back."""
    found = file.stat()
    return found.st_ino, found.st_size, found.st_ctime_ns


@lru_cache(maxsize=8)
def _remembered(entry: Path, looks: tuple[Look, ...]) -> Tokens:
    return _load(entry)


def _load(entry: Path) -> Tokens:
    """Raises OSError, ValueError, KeyError or TypeError for a folder that is not as it was written."""
    expected = json.loads((entry / CHECKSUMS).read_text(encoding="utf-8"))
    for name in NAMES:
        if _checksum(entry / f"{name}.npy") != expected[name]:
            raise ValueError(f"{name}.npy is not as it was written")
    return Tokens(**{name: np.load(entry / f"{name}.npy", mmap_mode="r") for name in NAMES})


def _checksum(file: Path) -> int:
    return zlib.crc32(np.memmap(file, np.uint8, "r").data)


def _store(entry: Path, tokens: Tokens) -> None:
    """Call it with the entry's lock held: what a killed process left half-written lies where the next one writes."""
    scratch = entry.with_suffix(".incomplete")
    for folder in (scratch, entry):
        shutil.rmtree(folder, ignore_errors=True)
    scratch.mkdir()
    for name in NAMES:
        np.save(scratch / f"{name}.npy", getattr(tokens, name))
    checksums = {name: _checksum(scratch / f"{name}.npy") for name in NAMES}
    (scratch / CHECKSUMS).write_text(json.dumps(checksums), encoding="utf-8")
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
    cuts = _cuts(layout, questions.lengths()[table[:, 0]], paragraphs.lengths()[table[:, 1]], max_length, doc_stride)
    labels = _labels(_answer_tokens(paragraphs, table)[cuts.row], cuts)
    return Windows(questions, paragraphs, layout, tokenizer.pad_token_id, table, *cuts, labels)


class Cuts(NamedTuple):
    """Where windows lie: `row` is the question and text each belongs to, the others as in Windows."""

    row: Ints
    first: Ints
    last: Ints
    offset: Ints


def _cuts(layout: Layout, asked: Ints, total: Ints, max_length: int, doc_stride: int) -> Cuts:
    """Windows over texts of `total` tokens, behind questions of `asked` tokens."""
    kept = np.minimum(asked, (max_length - layout.special) // 2)
    room = max_length - layout.special - kept
    if (room <= doc_stride).any():
        raise ValueError(f"doc_stride {doc_stride} leaves no room for new tokens in windows of {max_length}")
    row, nth = _expanded(1 + np.maximum(0, -(-(total - room) // (room - doc_stride))))
    first = nth * (room - doc_stride)[row]
    last = np.minimum(first + room[row], total[row])
    offset = (len(layout.before) + kept + len(layout.between))[row]
    return Cuts(*(values.astype(np.int32) for values in (row, first, last, offset)))


def _expanded(counts: Ints) -> tuple[Ints, Ints]:
    """Every row as often as it counts, and which time it is: [2, 1] gives [0, 0, 1] and [0, 1, 0]."""
    row = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, nth.astype(np.int32)


def _answer_tokens(paragraphs: Tokens, table: Ints) -> Ints:
    """[pairs, 2] first and last token of each answer, within its paragraph; -1 where there is none."""
    tokens = np.full((len(table), 2), UNLABELLED, np.int32)
    known = table[:, 2] != UNLABELLED
    ordered = paragraphs.ordered[table[:, 1]]
    quick = known & ordered
    tokens[quick] = _token_spans(paragraphs, *table[quick, 1:].T)
    for row in np.flatnonzero(known & ~ordered):
        tokens[row] = token_span(paragraphs, *table[row, 1:])
    return tokens


def _token_spans(tokens: Tokens, text: Ints, start: Ints, end: Ints) -> Ints:
    """`token_span` of many spans, in texts whose tokens are ordered: by halving the range of tokens each time."""
    begin, behind = tokens.bounds[text], tokens.bounds[text + 1]
    first = _halved(begin, behind, lambda at: tokens.chars[at, 1] <= start)
    last = _halved(begin, behind, lambda at: tokens.chars[at, 0] < end) - 1
    spans = np.stack([first - begin, last - begin], axis=1)
    return np.where((first <= last)[:, None], spans, UNLABELLED).astype(np.int32)


def _halved(low: Ints, high: Ints, before: Callable[[Ints], NDArray[np.bool_]]) -> Ints:
    """The first place of each range [low, high) that is not `before` what is looked for; `high` if all are."""
    while (low < high).any():
        middle = (low + high) // 2
        # A range that is down to nothing stays as it is, and may lie behind the last token.
        ahead = (low < high) & before(np.minimum(middle, high - 1).clip(min=0))
        low, high = np.where(ahead, middle + 1, low), np.where(ahead | (low >= high), high, middle)
    return low


def token_span(tokens: Tokens, text: int, start: int, end: int) -> tuple[int, int]:
    """First and last token that share a character with [start, end) of a text; (-1, -1) if none does."""
    chars = tokens.chars[tokens.bounds[text] : tokens.bounds[text + 1]]
    touched = np.flatnonzero((chars[:, 0] < end) & (chars[:, 1] > start))
    return (int(touched[0]), int(touched[-1])) if len(touched) else (UNLABELLED, UNLABELLED)


def _labels(answer: Ints, cuts: Cuts) -> Ints:
    """[windows, 2] positions of each window's answer; 0 where there is none or it is not whole."""
    inside = (answer[:, 0] != UNLABELLED) & (answer[:, 0] >= cuts.first) & (answer[:, 1] < cuts.last)
    return np.where(inside[:, None], answer + (cuts.offset - cuts.first)[:, None], 0).astype(np.int32)


def unrepresentable(paragraphs: Tokens, pairs: Iterable[Pair]) -> int:
    """How many answers do not begin and end at a token's border, and so can never be given exactly."""
    table = np.fromiter(chain.from_iterable(pairs), np.int32).reshape(-1, 4)
    table = table[table[:, 2] != UNLABELLED]
    tokens = _answer_tokens(paragraphs, table)
    found = tokens[:, 0] != UNLABELLED
    first, last = (tokens[found] + paragraphs.bounds[table[found, 1], None]).T
    exact = (paragraphs.chars[first, 0] == table[found, 2]) & (paragraphs.chars[last, 1] == table[found, 3])
    return int((~found).sum() + (~exact).sum())


class Group(NamedTuple):
    """A question read against several paragraphs as one text, all by row; the answer's characters in the
    paragraph `relevant` where they are known."""

    question: int
    paragraphs: tuple[int, ...]
    relevant: int = UNLABELLED
    start: int = UNLABELLED
    end: int = UNLABELLED


class Parts(NamedTuple):
    """What windows hold of paragraphs, by window and within it in reading order.

    window      [parts] the window each is a part of
    paragraph   [parts] the row of its paragraph
    first, last [parts] the range of the paragraph's tokens; `last` is exclusive
    offset      [parts] the position of the first of these tokens in the window
    """

    window: Ints
    paragraph: Ints
    first: Ints
    last: Ints
    offset: Ints

    def allowed(self) -> NDArray[np.bool_]:
        """[parts, longest part] true where a part has a token."""
        lengths = self.last - self.first
        return np.arange(max(1, lengths.max()))[None, :] < lengths[:, None]

    def scores(self, windows: NDArray[Any]) -> NDArray[Any]:
        """[parts, longest part] each part's own scores, out of its window's. Beyond a part's end they mean nothing."""
        place = self.offset[:, None] + np.arange(self.allowed().shape[1])
        found: NDArray[Any] = windows[self.window[:, None], np.minimum(place, windows.shape[1] - 1)]
        return found


@dataclass(frozen=True)
class JoinedWindows:
    """Overlapping windows over all paragraphs of a question, read one behind the other with a separator
    token between neighbours; in the order of the groups.

    group       [windows] the group each belongs to
    first, last [windows] the range of the joined text's tokens each holds; `last` is exclusive
    offset      [windows] the position of the first of these tokens in the window
    labels      [windows, 2] as in Windows
    asked       [groups] the row of each group's question
    """

    questions: Tokens
    paragraphs: Tokens
    layout: Layout
    pad_id: int
    separator: int
    asked: Ints
    group: Ints
    first: Ints
    last: Ints
    offset: Ints
    labels: Ints
    parts: Parts

    def __len__(self) -> int:
        return len(self.group)

    def lengths(self) -> Ints:
        """[windows] tokens in each, special ones included."""
        return self.offset + (self.last - self.first) + len(self.layout.after)

    def batch(self, rows: Sequence[int] | Ints, multiple: int) -> Batch:
        """The input of some windows, padded to the next multiple of `multiple` from the longest on."""
        return padded([self._sequence(row) for row in rows], self.pad_id, multiple)

    def _sequence(self, row: int) -> tuple[NDArray[Any], NDArray[Any]]:
        kept = self.offset[row] - len(self.layout.before) - len(self.layout.between)
        return self.layout.around(self.questions.part(self.asked[self.group[row]], 0, kept), self._context(row))

    def _context(self, row: int) -> Ints:
        """Separators all along, and the paragraphs' tokens laid over them."""
        ids = np.full(self.last[row] - self.first[row], self.separator, np.int32)
        mine = slice(*np.searchsorted(self.parts.window, [row, row + 1]))
        for _, paragraph, first, last, offset in zip(*(values[mine] for values in self.parts), strict=True):
            place = offset - self.offset[row]
            ids[place : place + last - first] = self.paragraphs.part(paragraph, first, last)
        return ids

    def characters(self, parts: AnyInts, spans: Spans) -> Ints:
        """[parts, 2] the characters, in its paragraph, of one span in each of these parts, whose positions
        count from the part's first token; no characters where a part has no token."""
        base = self.paragraphs.bounds[self.parts.paragraph[parts]] + self.parts.first[parts]
        held = self.parts.last[parts] > self.parts.first[parts]
        return self.paragraphs.characters(base + spans.first, base + spans.last, held)


class Members(NamedTuple):
    """The paragraphs of all groups, one group behind the other; `base` is the place of a paragraph's first
    token in its group's joined text, `begin` [groups] each group's first member, `size` [groups] how many."""

    paragraph: Ints
    base: Ints
    begin: Ints
    size: Ints


def cut_joined_windows(
    tokenizer: PreTrainedTokenizerFast,
    questions: Tokens,
    paragraphs: Tokens,
    groups: Sequence[Group],
    max_length: int,
    doc_stride: int,
) -> JoinedWindows:
    """Windows of at most `max_length` tokens over each group's joined paragraphs; else as `cut_windows`."""
    layout = pair_layout(tokenizer)
    members = _members(paragraphs, groups)
    asked = np.asarray([group.question for group in groups], np.int32)
    final = members.begin + members.size - 1
    total = members.base[final] + paragraphs.lengths()[members.paragraph[final]]
    cuts = _cuts(layout, questions.lengths()[asked], total, max_length, doc_stride)
    labels = _labels(_joined_answers(paragraphs, groups, members)[cuts.row], cuts)
    parts = _parts(paragraphs, members, cuts)
    return JoinedWindows(
        questions,
        paragraphs,
        layout,
        tokenizer.pad_token_id,
        tokenizer.sep_token_id,
        asked,
        *cuts,
        labels,
        parts,
    )


def _members(paragraphs: Tokens, groups: Sequence[Group]) -> Members:
    paragraph = np.asarray([row for group in groups for row in group.paragraphs], np.int32)
    size = np.asarray([len(group.paragraphs) for group in groups], np.int32)
    begin = np.cumsum(size) - size
    steps = paragraphs.lengths()[paragraph] + 1  # with the separator that follows
    ahead = np.cumsum(steps) - steps
    return Members(paragraph, ahead - np.repeat(ahead[begin], size), begin, size)


def _joined_answers(paragraphs: Tokens, groups: Sequence[Group], members: Members) -> Ints:
    """[groups, 2] first and last token of each answer, within the joined text; -1 where there is none."""
    pairs = [Pair(group.question, group.relevant, group.start, group.end) for group in groups]
    tokens = _answer_tokens(paragraphs, np.asarray(pairs, np.int32).reshape(-1, 4))
    for row, group in enumerate(groups):
        if tokens[row, 0] != UNLABELLED:
            tokens[row] += members.base[members.begin[row] + group.paragraphs.index(group.relevant)]
    return tokens


def _parts(paragraphs: Tokens, members: Members, cuts: Cuts) -> Parts:
    """Where windows and paragraphs meet. Parts without a token stay if they touch, so that no window is without."""
    window, nth = _expanded(members.size[cuts.row])
    member = members.begin[cuts.row][window] + nth
    base = members.base[member]
    first = np.maximum(cuts.first[window], base)
    last = np.minimum(cuts.last[window], base + paragraphs.lengths()[members.paragraph[member]])
    offset = cuts.offset[window] + first - cuts.first[window]
    touch = first <= last
    parts = (window, members.paragraph[member], first - base, last - base, offset)
    return Parts(*(values[touch].astype(np.int32) for values in parts))

"""Tokenize each distinct text once and store the tokens on disk, so that every trial maps the same files."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from jobs.files import atomic

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
    return Tokens(ids, chars, bounds, _positions_ascend(chars, bounds))


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


def _positions_ascend(chars: Ints, bounds: Ints) -> NDArray[np.bool_]:
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
    entry = folder / _cache_key(tokenizer, tuple(texts))
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{entry}.lock"):
        if entry.exists():
            try:
                return _opened(entry)
            except (OSError, ValueError, KeyError, TypeError) as error:
                logging.getLogger(__name__).warning("%s: damaged, made again (%s)", entry, error)
        _store(entry, tokenize(tokenizer, texts))
        return _opened(entry)


def _cache_key(tokenizer: PreTrainedTokenizerFast, texts: tuple[str, ...]) -> str:
    return hashlib.sha256(f"{_backend(tokenizer).to_str()} {_texts_digest(texts)}".encode()).hexdigest()[:32]


@lru_cache(maxsize=8)  # training and evaluation questions share paragraphs
def _texts_digest(texts: tuple[str, ...]) -> str:
    digest = hashlib.sha256(np.array([len(text) for text in texts], np.int64).tobytes())
    digest.update("".join(texts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


NAMES = tuple(field.name for field in fields(Tokens))
SETTLED = 2.0  # seconds after which a file that is changed once more shows another time, on any file system


def _opened(entry: Path) -> Tokens:
    """`_load_entry`, once a process for as long as the files look the same; another process looks for itself."""
    looks = tuple(_file_state(entry / name) for name in (*(f"{name}.npy" for name in NAMES), CHECKSUMS))
    settled = time.time() - max(changed for *_, changed in looks) / 1e9 > SETTLED
    return _remembered(entry, looks) if settled else _load_entry(entry)


Look = tuple[int, int, int]


def _file_state(file: Path) -> Look:
    """Inode, size, and the time of its last change, which no program can set back."""
    found = file.stat()
    return found.st_ino, found.st_size, found.st_ctime_ns


@lru_cache(maxsize=8)
def _remembered(entry: Path, looks: tuple[Look, ...]) -> Tokens:
    return _load_entry(entry)


def _load_entry(entry: Path) -> Tokens:
    """Raises OSError, ValueError, KeyError or TypeError for a folder that is not as it was written."""
    expected = json.loads((entry / CHECKSUMS).read_text(encoding="utf-8"))
    for name in NAMES:
        if _checksum(entry / f"{name}.npy") != expected[name]:
            raise ValueError(f"{name}.npy is not as it was written")
    return Tokens(**{name: np.load(entry / f"{name}.npy", mmap_mode="r") for name in NAMES})


def _checksum(file: Path) -> int:
    return zlib.crc32(np.memmap(file, np.uint8, "r").data)


def _store(entry: Path, tokens: Tokens) -> None:
    """Write tokens to the folder `entry` in one step. The caller must hold the entry's lock."""
    with atomic(entry, replace=True) as part:
        part.mkdir()
        for name in NAMES:
            np.save(part / f"{name}.npy", getattr(tokens, name))
        checksums = {name: _checksum(part / f"{name}.npy") for name in NAMES}
        (part / CHECKSUMS).write_text(json.dumps(checksums), encoding="utf-8")


def token_spans(tokens: Tokens, text: Ints, start: Ints, end: Ints) -> Ints:
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

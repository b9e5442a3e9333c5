"""Tokenize texts and store the tokens on disk, so that all trials memory-map the same files."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from jobs.features.blanks import is_blank, text_span
from jobs.files import atomic

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Ints = NDArray[np.int32]
AnyInts = NDArray[np.integer[Any]]
UNLABELLED = -1


@dataclass(frozen=True)
class Tokens:
    """Hold the tokens of many texts in flat arrays, one text after the other.

    ids     [tokens] vocabulary indices, without special tokens
    chars   [tokens, 2] each token's range of characters in its own text, without blanks at both ends; the end is
            exclusive. The range is empty where a token has no text: it is blank, or was put in by the tokenizer
    bounds  [texts + 1] the number of each text's first token; the last entry is the number of all tokens
    ordered [texts] true if starts and ends of the text's tokens never decrease
    """

    ids: Ints
    chars: Ints
    bounds: Ints
    ordered: NDArray[np.bool_]

    def lengths(self) -> Ints:
        """Return [texts]: the number of tokens in each."""
        return np.diff(self.bounds)

    def part(self, text: int, first: int, last: int) -> Ints:
        """Return the ids of a text's tokens in the range [first, last)."""
        begin = self.bounds[text]
        return self.ids[begin + first : begin + last]

    def have_text(self) -> NDArray[np.bool_]:
        """Return [tokens]: true where a token has text. Only such a token may begin or end an answer."""
        found: NDArray[np.bool_] = self.chars[:, 0] < self.chars[:, 1]
        return found

    def characters(self, first: AnyInts, last: AnyInts, present: NDArray[np.bool_]) -> Ints:
        """Return [spans, 2]: the characters of the spans from token `first` to token `last`, both inclusive.

        `first` and `last` count the tokens of all texts together. The characters count within one text; their end is
        exclusive. A span gets 0 and 0 where `present` is false. If a tokenizer puts characters in another order, the
        last token may lie before the first; the span then covers both.
        """
        spans = np.zeros((len(present), 2), np.int32)
        begin, end = self.chars[first[present]], self.chars[last[present]]
        spans[present, 0] = np.minimum(begin[:, 0], end[:, 0])
        spans[present, 1] = np.maximum(begin[:, 1], end[:, 1])
        return spans


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], trim: bool = True) -> Tokens:
    """Tokenize `texts` and record the characters of each token.

    Blanks at a token's ends are not counted as its characters: SentencePiece joins a word with the space before it.
    They are if `trim` is false.
    """
    encodings = _encodings(_backend(tokenizer), texts)
    bounds = np.cumsum([0, *map(len, encodings)]).astype(np.int32)
    ids = np.fromiter(chain.from_iterable(one.ids for one in encodings), np.int32, bounds[-1])
    _hide_frames(tokenizer, ids)
    places = chain.from_iterable(one.offsets for one in encodings)
    chars = np.fromiter(chain.from_iterable(places), np.int32, 2 * bounds[-1]).reshape(-1, 2)
    if trim:
        _trim(texts, chars, bounds)
    return Tokens(ids, chars, bounds, _positions_ascend(chars, bounds))


def _backend(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return the tokenizer's Rust object with truncation and padding switched off.

    The Python wrapper is slower: it converts every field of the result to lists.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def _encodings(backend: Any, texts: Sequence[str]) -> list[Any]:
    """Encode texts without the tokenizer's own trimming of places.

    tokenizers 0.23 takes a letter away with each space that a byte-level tokenizer puts before a word, unless it is the
    text's first (ByteLevel and RobertaProcessing, `trim_offsets`): "ĠSun" gets the characters of "un".
    """
    own, backend.post_processor = backend.post_processor, None
    try:
        encodings: list[Any] = backend.encode_batch(list(texts), add_special_tokens=False)
    finally:
        backend.post_processor = own
    return encodings


def _hide_frames(tokenizer: PreTrainedTokenizerFast, ids: Ints) -> None:
    """Make unknown tokens of the tokens that frame an input, in place: a text that mentions "[SEP]" must not split it.

    Other special tokens stay, as some vocabularies have marks of the language among them.
    """
    unknown = tokenizer.unk_token_id
    frames = {getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "cls", "sep", "pad", "mask")}
    if unknown is not None:
        ids[np.isin(ids, list(frames - {None, unknown}))] = unknown


def _trim(texts: Sequence[str], chars: Ints, bounds: Ints) -> None:
    """Remove blanks at both ends of every token from `chars`, in place."""
    starts = np.cumsum([0, *map(len, texts)])
    letters = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    blanks = np.isin(letters, [letter for letter in np.unique(letters) if is_blank(chr(letter))])
    text = np.repeat(np.arange(len(texts)), np.diff(bounds))
    nonempty = np.flatnonzero(chars[:, 0] < chars[:, 1])
    first, last = (starts[text[nonempty], None] + chars[nonempty]).T
    for token in nonempty[blanks[first] | blanks[last - 1]]:
        chars[token] = text_span(texts[text[token]], *chars[token].tolist())


def _positions_ascend(chars: Ints, bounds: Ints) -> NDArray[np.bool_]:
    back = np.flatnonzero((np.diff(chars, axis=0) < 0).any(axis=1)) + 1
    text = np.searchsorted(bounds, back, side="right") - 1
    ordered = np.ones(len(bounds) - 1, bool)
    ordered[text[back != bounds[text]]] = False
    return ordered


CHECKSUMS = "checksums.json"
RULES = 2  # counts the definitions of `chars`, so that an entry by an earlier one is not read


def cached_tokens(folder: Path, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tokens:
    """Return the tokens of `texts`, memory-mapped from an entry under `folder`; tokenize them if there is no entry.

    The entry's name is a hash of tokenizer and texts. If several trials start together, the first takes a lock and
    tokenizes while the others wait. The entry gets its name only when it is complete. A damaged entry is replaced, with
    a warning.
    """
    entry = folder / _cache_key(tokenizer, tuple(texts))
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{entry}.lock"):
        if entry.exists():
            try:
                return _open_entry(entry)
            except (OSError, ValueError, KeyError, TypeError) as error:
                logging.getLogger(__name__).warning(
                    "%s: stored tokens are damaged (%s); tokenizing the texts again", entry, error
                )
        _store(entry, tokenize(tokenizer, texts))
        return _open_entry(entry)


def _cache_key(tokenizer: PreTrainedTokenizerFast, texts: tuple[str, ...]) -> str:
    return hashlib.sha256(f"{RULES} {_description(tokenizer)} {_texts_digest(texts)}".encode()).hexdigest()[:32]


def _description(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return a text that differs between tokenizers that cut texts differently."""
    backend = _backend(tokenizer)
    try:
        return str(backend.to_str())
    except Exception as error:
        # tokenizers 0.23 raises plain `Exception` for a part written in Python, such as RoFormer's, which cuts words
        # with rjieba's dictionary.
        if type(error) is not Exception:
            raise
        versions = {name: _installed(name) for name in ("transformers", "rjieba")}
        parts = (type(tokenizer).__name__, versions, sorted(backend.get_vocab().items()), backend.normalizer)
        return " ".join(map(str, parts))


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=8)  # training and validation ask for the hash of the same paragraphs
def _texts_digest(texts: tuple[str, ...]) -> str:
    digest = hashlib.sha256(np.array([len(text) for text in texts], np.int64).tobytes())
    digest.update("".join(texts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


NAMES = tuple(field.name for field in fields(Tokens))
SETTLED_SECONDS = 2.0  # two changes at least this far apart get different change times on every file system


def _open_entry(entry: Path) -> Tokens:
    """Load an entry, and verify its checksums unless this process verified the same unchanged files before."""
    states = tuple(_file_state(entry / name) for name in (*(f"{name}.npy" for name in NAMES), CHECKSUMS))
    settled = time.time() - max(changed for *_, changed in states) / 1e9 > SETTLED_SECONDS
    return _verified_entry(entry, states) if settled else _load_entry(entry)


FileState = tuple[int, int, int]


def _file_state(file: Path) -> FileState:
    """Return the file's inode, size and ctime in nanoseconds; a program cannot set ctime back."""
    found = file.stat()
    return found.st_ino, found.st_size, found.st_ctime_ns


@lru_cache(maxsize=8)
def _verified_entry(entry: Path, states: tuple[FileState, ...]) -> Tokens:
    return _load_entry(entry)


def _load_entry(entry: Path) -> Tokens:
    """Load an entry and verify its checksums. Raises OSError, ValueError, KeyError or TypeError if it is damaged."""
    expected = json.loads((entry / CHECKSUMS).read_text(encoding="utf-8"))
    for name in NAMES:
        if _checksum(entry / f"{name}.npy") != expected[name]:
            raise ValueError(f"{name}.npy has another checksum than when it was written")
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
    """Return [spans, 2]: `token_span` of many spans by binary search, in texts whose tokens are `ordered`.

    Tokens without text count too; a span that begins or ends with one needs `token_span`.
    """
    if not len(tokens.ids):
        return np.full((len(text), 2), UNLABELLED, np.int32)
    begin, behind = tokens.bounds[text], tokens.bounds[text + 1]
    first = _binary_search(begin, behind, lambda at: tokens.chars[at, 1] <= start)
    last = _binary_search(begin, behind, lambda at: tokens.chars[at, 0] < end) - 1
    spans = np.stack([first - begin, last - begin], axis=1)
    return np.where((first <= last)[:, None], spans, UNLABELLED).astype(np.int32)


def _binary_search(low: Ints, high: Ints, before: Callable[[Ints], NDArray[np.bool_]]) -> Ints:
    """Return the first position in each range [low, high) for which `before` is false; `high` if there is none."""
    while (low < high).any():
        middle = (low + high) // 2
        # Empty ranges stay unchanged. Their position may lie behind the last token, so it is clipped.
        ahead = (low < high) & before(np.minimum(middle, high - 1).clip(min=0))
        low, high = np.where(ahead, middle + 1, low), np.where(ahead | (low >= high), high, middle)
    return low


def token_span(tokens: Tokens, text: int, start: int, end: int) -> tuple[int, int]:
    """Return the first and last token with text that overlap the characters [start, end) of a text.

    Both are -1 if none does.
    """
    chars = tokens.chars[tokens.bounds[text] : tokens.bounds[text + 1]]
    touched = np.flatnonzero((chars[:, 0] < end) & (chars[:, 1] > start) & (chars[:, 0] < chars[:, 1]))
    return (int(touched[0]), int(touched[-1])) if len(touched) else (UNLABELLED, UNLABELLED)

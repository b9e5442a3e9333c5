"""Measure how well a tokenizer represents texts: unknown, dropped and split characters, and missing special tokens."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jobs.features.blanks import is_blank
from jobs.features.tokens import Tokens, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Chinese BERTs know more than 99 % of the characters of news and encyclopedias, and above 95 % of rare scripts.
WARNED_SHARE = 0.05
# A model that does not see half of the text cannot answer from it: the vocabulary is another language's, or not found.
REFUSED_SHARE = 0.5
# Chinese vocabularies need at most one token for a character. Byte-level ones without Chinese pieces need three.
WARNED_TOKENS_PER_CHARACTER = 2.5
# A tokenizer with fewer pieces than this share of the model's embeddings has probably not found its vocabulary file.
WARNED_PIECES_SHARE = 0.5
EXAMPLES = 5
PROBE = "一"


@dataclass(frozen=True)
class Coverage:
    """Holds what a tokenizer makes of some texts. White space counts neither as characters nor as dropped.

    pieces              size of the tokenizer's vocabulary
    model_pieces        size of the model's vocabulary; None if it is not known
    characters, tokens  in all texts
    unknown_tokens      tokens that stand for something outside the vocabulary
    unknown_characters  characters in unknown tokens; a run of unknown characters can be one token
    dropped_characters  characters in no token
    unknown_examples    the most frequent of them, likewise dropped_examples
    missing             those of padding, separator and classification that the tokenizer lacks or does not add
    """

    pieces: int
    model_pieces: int | None
    characters: int
    tokens: int
    unknown_tokens: int
    unknown_characters: int
    dropped_characters: int
    unknown_examples: tuple[str, ...]
    dropped_examples: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def unknown_share(self) -> float:
        """Return the share of unknown tokens."""
        return self.unknown_tokens / max(1, self.tokens)

    @property
    def unread_share(self) -> float:
        """Return the share of characters that a model does not see: unknown or dropped ones."""
        return (self.unknown_characters + self.dropped_characters) / max(1, self.characters)

    @property
    def tokens_per_character(self) -> float:
        return self.tokens / max(1, self.characters)

    def refusal(self) -> str | None:
        """Return why no model can learn from these tokens, with the cure, in one line; None if one can."""
        if max(self.unknown_share, self.unread_share) > REFUSED_SHARE:
            return (
                f"its tokenizer of {self.pieces:,} pieces reads {1 - self.unread_share:.1%} of the characters of the "
                f"data ({self._unread_text()}); choose a backbone with a vocabulary of the data's language, or "
                "name the right tokenizer_class in its tokenizer_config.json"
            )
        if "padding" in self.missing:
            return "its tokenizer has no padding token; name a pad_token in its tokenizer_config.json"
        return None

    def warnings(self) -> list[str]:
        """Return one line for each property that makes scores lower than they need to be."""
        lines = []
        if self.unread_share > WARNED_SHARE:
            lines.append(
                f"its tokenizer does not read {self.unread_share:.1%} of the characters: {self._unread_text()}"
            )
        if self.tokens_per_character > WARNED_TOKENS_PER_CHARACTER:
            lines.append(
                f"its tokenizer makes {self.tokens_per_character:.1f} tokens of a character, so inputs are long; "
                "a Chinese vocabulary makes less than one"
            )
        if self.model_pieces and self.pieces < WARNED_PIECES_SHARE * self.model_pieces:
            lines.append(f"its tokenizer has {self.pieces:,} pieces and its model {self.model_pieces:,}")
        if "separator" in self.missing:
            lines.append("its tokenizer puts no separator between question and paragraph")
        return lines

    def lines(self) -> list[str]:
        """Return the numbers as lines of text."""
        return [
            f"unknown: {self.unknown_share:.2%} of the tokens{_shown_text(self.unknown_examples)}",
            f"dropped: {self.dropped_characters:,} characters{_shown_text(self.dropped_examples)}",
            f"tokens of a character: {self.tokens_per_character:.2f}",
            *(f"no {name} token" for name in self.missing),
        ]

    def _unread_text(self) -> str:
        return (
            f"{self.unknown_characters:,} unknown{_shown_text(self.unknown_examples)}, "
            f"{self.dropped_characters:,} dropped{_shown_text(self.dropped_examples)}"
        )


def _shown_text(examples: Iterable[str]) -> str:
    shown = " ".join(map(_shown_character, examples))
    return f", such as {shown}" if shown else ""


def _shown_character(character: str) -> str:
    """Return the character, or its number if it would not be seen by itself: controls, marks, unassigned ones."""
    return f"U+{ord(character):04X}" if unicodedata.category(character)[0] in "CMZ" else character


def measure_coverage(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], tokens: Tokens | None = None, pieces: int | None = None
) -> Coverage:
    """Return what `tokenizer` makes of `texts`.

    tokens  the texts' tokens, if they are known already
    pieces  the size of the model's vocabulary, if it is known
    """
    tokens = tokens or tokenize(tokenizer, texts)
    letters, visible = _letters(texts)
    unknown = _is_unknown(tokenizer, tokens)
    # Tokens do not count invisible characters at their ends, but a tokenizer that has them there does not drop them.
    invisible = any(is_blank(chr(letter)) for letter in np.unique(letters[visible]))
    places = tokenize(tokenizer, texts, trim=False) if invisible else tokens
    read = _covered(texts, places, np.ones(len(tokens.ids), bool))
    known = _covered(texts, places, ~unknown)
    return Coverage(
        pieces=len(tokenizer),
        model_pieces=pieces,
        characters=int(visible.sum()),
        tokens=len(tokens.ids),
        unknown_tokens=int(unknown.sum()),
        unknown_characters=int((visible & read & ~known).sum()),
        dropped_characters=int((visible & ~read).sum()),
        unknown_examples=_frequent(letters[visible & read & ~known]),
        dropped_examples=_frequent(letters[visible & ~read]),
        missing=_missing_tokens(tokenizer),
    )


def _letters(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """Return the characters of all texts, and which of them are not white space."""
    letters = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    return letters, ~np.isin(letters, [letter for letter in np.unique(letters) if chr(letter).isspace()])


def _is_unknown(tokenizer: PreTrainedTokenizerFast, tokens: Tokens) -> NDArray[np.bool_]:
    if tokenizer.unk_token_id is None:
        return np.zeros(len(tokens.ids), bool)
    unknown: NDArray[np.bool_] = np.asarray(tokens.ids) == tokenizer.unk_token_id
    return unknown


def _covered(texts: Sequence[str], tokens: Tokens, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which characters of all texts lie in one of the chosen tokens."""
    starts = np.cumsum([0, *map(len, texts)])
    text = np.repeat(np.arange(len(texts)), tokens.lengths())
    places = (starts[text, None] + tokens.chars)[chosen]
    change = np.zeros(starts[-1] + 1, np.int64)
    np.add.at(change, places[:, 0], 1)
    np.add.at(change, places[:, 1], -1)
    return change.cumsum()[:-1] > 0


def _frequent(letters: NDArray[np.uint32]) -> tuple[str, ...]:
    return tuple(chr(letter) for letter, _ in Counter(letters.tolist()).most_common(EXAMPLES))


def _missing_tokens(tokenizer: PreTrainedTokenizerFast) -> tuple[str, ...]:
    """Return which of the padding, separator and classification tokens the tokenizer lacks or does not add to a pair.

    XLNet adds its classification token at the end, other encoders at the start.
    """
    missing = ["padding"] if tokenizer.pad_token_id is None else []
    texts = tokenizer(PROBE, PROBE).sequence_ids()
    if 0 not in texts or 1 not in texts:  # the tokenizer drops the probe; its characters are counted as dropped
        return tuple(missing)
    last = len(texts) - 1 - texts[::-1].index(1)
    if None not in texts[texts.index(0) : texts.index(1)]:
        missing.append("separator")
    if not texts.index(0) and len(texts) - 1 - last < 2:
        missing.append("classification")
    return tuple(missing)

"""Find the special tokens that a tokenizer puts around a pair of texts, and between paragraphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.features.tokens import Ints

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class PairLayout(NamedTuple):
    """Hold the special tokens that a tokenizer puts before, between and after a pair of texts.

    `types` are the token types of: before, the question, between, the paragraph, after.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, int, int, int, int]

    @property
    def special(self) -> int:
        """Count the special tokens."""
        return len(self.before) + len(self.between) + len(self.after)

    def join(self, question: Ints, context: Ints) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the token ids and token types of a model input made of both texts."""
        parts = (self.before, question, self.between, context, self.after)
        return np.concatenate(parts), np.repeat(self.types, [len(part) for part in parts])


PROBES = "一a1。"  # single characters, of which every tokenizer makes a token of at least one


def pair_layout(tokenizer: PreTrainedTokenizerFast) -> PairLayout:
    """Return this tokenizer's PairLayout, found by tokenizing one pair of short texts."""
    text = next((text for text in PROBES if tokenizer.tokenize(text)), PROBES[0])
    probe = tokenizer(text, text, return_token_type_ids=True)
    ids, types, sequences = probe["input_ids"], probe["token_type_ids"], probe.sequence_ids()
    first, second = sequences.index(0), sequences.index(1)
    last_first = len(ids) - 1 - sequences[::-1].index(0)
    last_second = len(ids) - 1 - sequences[::-1].index(1)
    before, between, after = ids[:first], ids[last_first + 1 : second], ids[last_second + 1 :]
    return PairLayout(
        tuple(before),
        tuple(between),
        tuple(after),
        (types[0], types[first], types[second - 1], types[second], types[-1]),
    )


def separator_of(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the token between two paragraphs: the separator, or the end of a text where there is none, as in T5.

    Raises ValueError if the tokenizer has neither.
    """
    for token in (tokenizer.sep_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ValueError("the tokenizer has neither a separator nor a token for the end of a text; choose another backbone")

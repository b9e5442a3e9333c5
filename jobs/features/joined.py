"""Cut all paragraphs of a question, joined into one text, into windows with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.features.spans import Spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast
from jobs.features.tokens import UNLABELLED, AnyInts, Ints, Tokens
from jobs.features.windows import (
    Batch,
    Cuts,
    Layout,
    Pair,
    _window_cuts,
    _window_labels,
    answer_tokens,
    expanded,
    padded,
    pair_layout,
)


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
    cuts = _window_cuts(layout, questions.lengths()[asked], total, max_length, doc_stride)
    labels = _window_labels(_joined_answers(paragraphs, groups, members)[cuts.row], cuts)
    parts = _window_parts(paragraphs, members, cuts)
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
    tokens = answer_tokens(paragraphs, np.asarray(pairs, np.int32).reshape(-1, 4))
    for row, group in enumerate(groups):
        if tokens[row, 0] != UNLABELLED:
            tokens[row] += members.base[members.begin[row] + group.paragraphs.index(group.relevant)]
    return tokens


def _window_parts(paragraphs: Tokens, members: Members, cuts: Cuts) -> Parts:
    """Where windows and paragraphs meet. Parts without a token stay if they touch, so that no window is without."""
    window, nth = expanded(members.size[cuts.row])
    member = members.begin[cuts.row][window] + nth
    base = members.base[member]
    first = np.maximum(cuts.first[window], base)
    last = np.minimum(cuts.last[window], base + paragraphs.lengths()[members.paragraph[member]])
    offset = cuts.offset[window] + first - cuts.first[window]
    touch = first <= last
    parts = (window, members.paragraph[member], first - base, last - base, offset)
    return Parts(*(values[touch].astype(np.int32) for values in parts))

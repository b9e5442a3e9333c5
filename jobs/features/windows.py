"""Cut questions and their paragraphs into windows with labels, and turn scores for windows back into answers.

A window refers to a range of stored tokens instead of copying them. Its token ids are put together only when a batch
needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from jobs.features.blanks import has_text, opening
from jobs.features.layout import PairLayout, pair_layout, separator_of
from jobs.features.spans import Spans, best_spans, best_windows
from jobs.features.tokens import UNLABELLED, AnyInts, Ints, Tokens, token_span, token_spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Pair(NamedTuple):
    """Name a question and one paragraph to read it against, both by row number.

    `start` and `end` are the answer's characters in the paragraph, `end` exclusive; -1 where the answer is unknown.
    """

    question: int
    paragraph: int
    start: int = UNLABELLED
    end: int = UNLABELLED


class Group(NamedTuple):
    """Name a question and several paragraphs to read as one joined text, all by row number.

    `start` and `end` are the answer's characters in the paragraph `relevant`, `end` exclusive; all three are -1 where
    the answer is unknown.
    """

    question: int
    paragraphs: tuple[int, ...]
    relevant: int = UNLABELLED
    start: int = UNLABELLED
    end: int = UNLABELLED


class InputBatch(NamedTuple):
    """Hold the padded model input of some windows: four arrays [windows, positions].

    `global_attention_mask` is 1 for the tokens in front of the paragraph: [CLS], the question and the separators.
    Models with sliding windows, such as a Longformer, let these tokens attend to all others.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    global_attention_mask: NDArray[np.int64]


def padded(sequences: Sequence[tuple[NDArray[Any], NDArray[Any], int]], pad_id: int, multiple: int = 1) -> InputBatch:
    """Pad (ids, token types, tokens in front of the paragraph) of each window to the longest length.

    The length is rounded up to a multiple of `multiple`.
    """
    longest = max(len(ids) for ids, _, _ in sequences)
    shape = (len(sequences), -(-longest // multiple) * multiple)
    batch = InputBatch(np.full(shape, pad_id, np.int64), *(np.zeros(shape, np.int64) for _ in range(3)))
    for line, (ids, types, before) in enumerate(sequences):
        batch.input_ids[line, : len(ids)] = ids
        batch.attention_mask[line, : len(ids)] = 1
        batch.token_type_ids[line, : len(ids)] = types
        batch.global_attention_mask[line, :before] = 1
    return batch


class Segments(NamedTuple):
    """Hold the pieces of paragraphs that lie in windows, sorted by window and by position within it.

    window      [segments] the window that contains the piece
    paragraph   [segments] the row of its paragraph
    first, last [segments] the range of the paragraph's tokens; `last` is exclusive
    offset      [segments] the position in the window of the first of these tokens
    """

    window: Ints
    paragraph: Ints
    first: Ints
    last: Ints
    offset: Ints

    def present(self) -> NDArray[np.bool_]:
        """Return [segments, longest segment]: true at each position that holds a token of the segment."""
        lengths = self.last - self.first
        return np.arange(max(1, lengths.max(initial=0))) < lengths[:, None]

    def scores(self, windows: NDArray[Any], width: int) -> NDArray[Any]:
        """Take the scores of each segment out of its window's scores.

        `windows` is [windows, positions]. Returns [segments, width]; ignore the values behind a segment's end.
        """
        missing = max(0, self.offset.max(initial=0) + width - windows.shape[1])
        wide = np.pad(windows, ((0, 0), (0, missing)))
        found: NDArray[Any] = sliding_window_view(wide, width, axis=1)[self.window, self.offset]
        return found


@dataclass(frozen=True)
class Windows:
    """Hold overlapping windows over the paragraphs of each group, in the order of the groups.

    A group is a question with one or more paragraphs. Its paragraphs are read as one text with a separator token
    between neighbours.

    asked       [groups] the row of each group's question
    group       [windows] the group that the window belongs to
    first, last [windows] the range of the joined text's tokens in the window; `last` is exclusive
    offset      [windows] the position in the window of the first of these tokens
    labels      [windows, 2] the positions of the answer's first and last token; 0 and 0, which is [CLS], where the
                window does not contain the whole answer
    segments    the pieces of paragraphs in the windows
    keep_end    of a question that is too long, keep the end
    """

    questions: Tokens
    paragraphs: Tokens
    layout: PairLayout
    pad_id: int
    separator: int
    asked: Ints
    group: Ints
    first: Ints
    last: Ints
    offset: Ints
    labels: Ints
    segments: Segments
    keep_end: bool = False

    def __len__(self) -> int:
        return len(self.group)

    def lengths(self) -> Ints:
        """Return [windows]: the number of tokens in each, special tokens included."""
        return self.offset + (self.last - self.first) + len(self.layout.after)

    def batch(self, rows: Sequence[int] | Ints, multiple: int = 1) -> InputBatch:
        """Return the model input of some windows, padded to the longest, rounded up to a multiple of `multiple`."""
        return padded([self._sequence(row) for row in rows], self.pad_id, multiple)

    def _sequence(self, row: int) -> tuple[NDArray[Any], NDArray[Any], int]:
        before = int(self.offset[row])
        kept = before - len(self.layout.before) - len(self.layout.between)
        asked = self.asked[self.group[row]]
        begin = int(np.diff(self.questions.bounds[asked : asked + 2])[0]) - kept if self.keep_end else 0
        question = self.questions.part(asked, begin, begin + kept)
        return *self.layout.join(question, self._context(row)), before

    def _context(self, row: int) -> Ints:
        """Return the token ids of the joined paragraphs that window `row` covers."""
        ids = np.full(self.last[row] - self.first[row], self.separator, np.int32)
        own = slice(*np.searchsorted(self.segments.window, [row, row + 1]))
        for _, paragraph, first, last, offset in zip(*(values[own] for values in self.segments), strict=True):
            place = offset - self.offset[row]
            ids[place : place + last - first] = self.paragraphs.part(paragraph, first, last)
        return ids

    def characters(self, segments: AnyInts, spans: Spans) -> Ints:
        """Return [spans, 2]: the characters of one span in each of these `segments`, counted within its paragraph.

        Positions of `spans` count from the segment's first token. The end is exclusive. Both are 0 where a segment
        has no span, which has no finite score.
        """
        base = self._base(segments)
        return self.paragraphs.characters(base + spans.first, base + spans.last, np.isfinite(spans.scores))

    def allowed(self) -> NDArray[np.bool_]:
        """Return [segments, longest segment]: true at each position whose token may begin or end an answer."""
        present = self.segments.present()
        at = self._base(slice(None))[:, None] + np.arange(present.shape[1])
        present[present] = self.paragraphs.have_text()[at[present]]
        return present

    def _base(self, segments: AnyInts | slice) -> Ints:
        """Return the number of the first token of each of these segments, among the tokens of all paragraphs."""
        bounds, parts = self.paragraphs.bounds, self.segments
        return bounds[parts.paragraph[segments]] + parts.first[segments]


def cut_windows(
    tokenizer: PreTrainedTokenizerFast,
    questions: Tokens,
    paragraphs: Tokens,
    pairs: Iterable[Pair],
    max_length: int,
    doc_stride: int,
    keep_end: bool = False,
) -> Windows:
    """Cut each pair into windows of at most `max_length` tokens; neighbours share `doc_stride` paragraph tokens.

    Each pair is a group of one paragraph. A question may take half a window, and what a short paragraph leaves free; a
    longer question is truncated: its end is cut off, or with `keep_end` its beginning.
    Raises ValueError when `doc_stride` is so large that a window would add no new token.
    """
    table = pair_table(pairs)
    members = _members(paragraphs, table[:, 1], np.ones(len(table), np.int32))
    answers = answer_tokens(paragraphs, table)
    cut = _cut_members(tokenizer, questions, paragraphs, table[:, 0], members, answers, max_length, doc_stride)
    return replace(cut, keep_end=keep_end)


def cut_joined_windows(
    tokenizer: PreTrainedTokenizerFast,
    questions: Tokens,
    paragraphs: Tokens,
    groups: Sequence[Group],
    max_length: int,
    doc_stride: int,
) -> Windows:
    """Cut each group's joined paragraphs into windows, as `cut_windows` does with single paragraphs."""
    table = pair_table(Pair(group.question, group.relevant, group.start, group.end) for group in groups)
    joined = np.asarray([row for group in groups for row in group.paragraphs], np.int32)
    members = _members(paragraphs, joined, np.asarray([len(group.paragraphs) for group in groups], np.int32))
    answers = answer_tokens(paragraphs, table)
    for row, group in enumerate(groups):
        if answers[row, 0] != UNLABELLED:
            answers[row] += members.base[members.begin[row] + group.paragraphs.index(group.relevant)]
    return _cut_members(tokenizer, questions, paragraphs, table[:, 0], members, answers, max_length, doc_stride)


class Members(NamedTuple):
    """Hold the paragraphs of all groups, one group after the other.

    paragraph [members] the row of the paragraph
    base      [members] the position of its first token in its group's joined text
    begin     [groups] the first member of each group
    size      [groups] the number of its members
    """

    paragraph: Ints
    base: Ints
    begin: Ints
    size: Ints


def _members(paragraphs: Tokens, paragraph: Ints, size: Ints) -> Members:
    begin = np.cumsum(size) - size
    steps = paragraphs.lengths()[paragraph] + 1  # one separator follows each paragraph
    ahead = np.cumsum(steps) - steps
    return Members(paragraph, ahead - np.repeat(ahead[begin], size), begin, size)


def _cut_members(
    tokenizer: PreTrainedTokenizerFast,
    questions: Tokens,
    paragraphs: Tokens,
    asked: Ints,
    members: Members,
    answers: Ints,
    max_length: int,
    doc_stride: int,
) -> Windows:
    """Cut the joined text of each group into windows.

    `asked` [groups] are the questions' rows. `answers` [groups, 2] are token positions in the joined text, -1 where
    the answer is unknown.
    """
    layout = pair_layout(tokenizer)
    final = members.begin + members.size - 1
    total = members.base[final] + paragraphs.lengths()[members.paragraph[final]]
    cuts = _window_cuts(layout, questions.lengths()[asked], total, max_length, doc_stride)
    return Windows(
        questions,
        paragraphs,
        layout,
        tokenizer.pad_token_id,
        separator_of(tokenizer),
        asked,
        *cuts,
        _window_labels(answers[cuts.group], cuts),
        _window_segments(paragraphs, members, cuts),
    )


class Cuts(NamedTuple):
    """Hold the place of each window, in the fields that `Windows` describes."""

    group: Ints
    first: Ints
    last: Ints
    offset: Ints


def _window_cuts(layout: PairLayout, asked: Ints, total: Ints, max_length: int, doc_stride: int) -> Cuts:
    """Compute the windows' places, given the tokens of each joined text (`total`) and of each question (`asked`)."""
    room = max_length - layout.special
    kept = np.minimum(asked, np.maximum(room // 2, room - np.maximum(total, doc_stride + 1)))
    capacity = room - kept
    if (capacity <= doc_stride).any():
        raise ValueError(f"doc_stride {doc_stride} leaves no room for new tokens in windows of {max_length}")
    group, nth = _repeated(1 + np.maximum(0, -(-(total - capacity) // (capacity - doc_stride))))
    first = nth * (capacity - doc_stride)[group]
    last = np.minimum(first + capacity[group], total[group])
    offset = (len(layout.before) + kept + len(layout.between))[group]
    return Cuts(*(values.astype(np.int32) for values in (group, first, last, offset)))


def _repeated(counts: Ints) -> tuple[Ints, Ints]:
    """Repeat each row number as often as its count says, and number the repetitions.

    >>> [values.tolist() for values in _repeated(np.array([2, 1]))]
    [[0, 0, 1], [0, 1, 0]]
    """
    row = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, nth.astype(np.int32)


def _window_labels(answers: Ints, cuts: Cuts) -> Ints:
    """Return [windows, 2]: positions of the answer's first and last token; 0 and 0 if the window lacks a part of it."""
    inside = (answers[:, 0] != UNLABELLED) & (answers[:, 0] >= cuts.first) & (answers[:, 1] < cuts.last)
    return np.where(inside[:, None], answers + (cuts.offset - cuts.first)[:, None], 0).astype(np.int32)


def _window_segments(paragraphs: Tokens, members: Members, cuts: Cuts) -> Segments:
    """Return the intersections of windows with paragraphs.

    Empty intersections at a paragraph's border are kept, so that each window has at least one segment.
    """
    window, nth = _repeated(members.size[cuts.group])
    member = members.begin[cuts.group][window] + nth
    base = members.base[member]
    first = np.maximum(cuts.first[window], base)
    last = np.minimum(cuts.last[window], base + paragraphs.lengths()[members.paragraph[member]])
    offset = cuts.offset[window] + first - cuts.first[window]
    touch = first <= last
    segments = (window, members.paragraph[member], first - base, last - base, offset)
    return Segments(*(values[touch].astype(np.int32) for values in segments))


NO_SPAN_SCORE = -1e9  # below every span's score, and finite, so that weighted sums of scores stay numbers


def best_answers(
    windows: Windows, texts: Sequence[str], logits: tuple[Any, Any], max_answer_length: int
) -> list[dict[str, Any]]:
    """Return the best answer of each group: paragraph (its row), answer, start (a character) and score.

    The span with the highest start + end logit in any window of the group wins. It lies within one paragraph, begins
    and ends with a token that has text, and has at most `max_answer_length` tokens. `logits` are two arrays
    [windows, positions]; `texts` are all paragraphs. See `answer_without_span` for groups that have no such span.
    """
    allowed = windows.allowed()
    start, end = (windows.segments.scores(scores, allowed.shape[1]) for scores in logits)
    spans = best_spans(start, end, allowed, max_answer_length)
    chosen = best_windows(spans.scores, windows.group[windows.segments.window])
    best = Spans(spans.scores[chosen], spans.first[chosen], spans.last[chosen])
    answers = [
        {"paragraph": row, "answer": texts[row][first:last], "start": first, "score": score}
        for row, (first, last), score in zip(
            windows.segments.paragraph[chosen].tolist(),
            windows.characters(chosen, best).tolist(),
            best.scores.tolist(),
            strict=True,
        )
    ]
    for group in np.flatnonzero(~np.isfinite(best.scores)).tolist():
        own = windows.group[windows.segments.window] == group
        answers[group] = answer_without_span(texts, windows.segments.paragraph[own].tolist(), max_answer_length)
    return answers


def answer_without_span(texts: Sequence[str], paragraphs: Sequence[int], most: int) -> dict[str, Any]:
    """Return the answer of a group in which no token has text, or no score is a number.

    A tokenizer may drop every letter of a paragraph. The answer is the beginning, at most `most` characters, of the
    first of these paragraphs that has text; it is empty if none has.
    """
    row = next((row for row in paragraphs if has_text(texts[row])), paragraphs[0])
    first, last = opening(texts[row], most)
    return {"paragraph": row, "answer": texts[row][first:last], "start": first, "score": NO_SPAN_SCORE}


def pair_table(pairs: Iterable[Pair]) -> Ints:
    """Return the pairs as an array [pairs, 4]."""
    return np.fromiter(chain.from_iterable(pairs), np.int32).reshape(-1, 4)


def answer_tokens(paragraphs: Tokens, table: Ints) -> Ints:
    """Return [pairs, 2]: the first and last token of each answer in its paragraph; -1 where there is none.

    These are the first and last token with text that overlap the answer. A reader learns them also where they do not
    give the answer's exact characters (see `unrepresentable`): they are the nearest that it can mark.
    """
    tokens = np.full((len(table), 2), UNLABELLED, np.int32)
    known = table[:, 2] != UNLABELLED
    ordered = paragraphs.ordered[table[:, 1]]
    quick = known & ordered
    tokens[quick] = token_spans(paragraphs, *table[quick, 1:].T)
    for row in np.flatnonzero(known & ~(ordered & _ends_have_text(paragraphs, table[:, 1], tokens))):
        tokens[row] = token_span(paragraphs, *table[row, 1:])
    return tokens


def _ends_have_text(paragraphs: Tokens, text: Ints, tokens: Ints) -> NDArray[np.bool_]:
    """Return [spans]: true where the first and the last token of a span in its text have text, or it has no token."""
    found = tokens[:, 0] != UNLABELLED
    at = paragraphs.bounds[text[found], None] + tokens[found]
    have_text: NDArray[np.bool_] = ~found
    have_text[found] = (paragraphs.chars[at, 0] < paragraphs.chars[at, 1]).all(axis=1)
    return have_text


def unrepresentable(paragraphs: Tokens, pairs: Iterable[Pair]) -> int:
    """Count the answers that no model can give exactly.

    They begin or end inside a token, with a blank, or with a character that the tokenizer drops; or they have no token.
    Training uses them all the same: the label is the nearest tokens, or [CLS] where there is none, as the model does
    not see such an answer.
    """
    table = pair_table(pairs)
    table = table[table[:, 2] != UNLABELLED]
    tokens = answer_tokens(paragraphs, table)
    first, last = (tokens + paragraphs.bounds[table[:, 1], None]).T
    exact = paragraphs.characters(first, last, tokens[:, 0] != UNLABELLED) == table[:, 2:]
    return int((~exact.all(axis=1)).sum())

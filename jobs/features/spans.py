"""From start and end scores to the best span: exact, vectorised, O(length). Numpy arrays in and out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Places = NDArray[np.bool_]

PIECE = 2**16  # scores worked on at a time: 256 KiB in float32, so that what is in between stays in the cache


class Spans(NamedTuple):
    """One span a row: its score and its first and last position, both inclusive."""

    scores: Floats
    first: Ints
    last: Ints


def best_spans(start: Floats, end: Floats, allowed: Places, max_tokens: int) -> Spans:
    """The span with the highest start + end score in every window, at most `max_tokens` long.

    All three arrays are [windows, positions]; only `allowed` positions take part, and each window must
    have one. Of equals the span that ends first wins, then the one that starts first.

    Every end is joined with the greatest start among the `max_tokens` positions up to it. Taking the best
    of all pairs is what BERT's authors do (Devlin et al. 2019, section 4.2), without a list of candidates
    that can miss it.
    """
    rows = max(1, PIECE // start.shape[1])
    pieces = (slice(at, at + rows) for at in range(0, max(1, len(start)), rows))
    found = [_best_of_all(start[piece], end[piece], allowed[piece], max_tokens) for piece in pieces]
    return Spans(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _best_of_all(start: Floats, end: Floats, allowed: Places, max_tokens: int) -> Spans:
    width = min(max_tokens, start.shape[1])
    # Several times as quick as filling by a mask: the lesser of a score and its limit is the score, or -inf.
    limit = (allowed.astype(start.dtype) - start.dtype.type(0.5)) * start.dtype.type(np.inf)
    # A gap of -inf ahead of each row, so that rows can be worked on as one line: none sees its neighbour's scores.
    starts = np.full((len(start), width - 1 + start.shape[1]), -np.inf, start.dtype)
    np.minimum(start, limit, out=starts[:, width - 1 :])
    totals = _greatest_up_to(starts.ravel(), width).reshape(starts.shape)[:, width - 1 :] + end
    np.minimum(totals, limit, out=totals)
    window, last = np.arange(len(start)), totals.argmax(axis=1)
    candidates = starts[window[:, None], last[:, None] + np.arange(width)]
    return Spans(totals[window, last], last - (width - 1) + candidates.argmax(axis=1), last)


def _greatest_up_to(scores: Floats, width: int) -> Floats:
    """The greatest of the `width` scores up to each place of a line that begins with `width` - 1 times -inf, in passes
    over all of it: each pass at most doubles how many scores the one before has looked at."""
    greatest, seen = scores, 1
    spares = [np.empty_like(scores), np.empty_like(scores)] if width > 1 else []
    for spare in spares:
        spare[: width - 1] = -np.inf
    while seen < width:
        step = min(seen, width - seen)
        np.maximum(greatest[step:], greatest[:-step], out=spares[0][step:])
        greatest, seen = spares[0], seen + step
        spares.reverse()
    return greatest


def best_windows(scores: Floats, groups: Ints) -> Ints:
    """Row of the highest score within each run of equal `groups` (sorted); the first one of equals.

    >>> best_windows(np.array([1.0, 3.0, 2.0]), np.array([0, 0, 1]))
    array([1, 2])
    """
    order = np.lexsort((np.arange(len(scores)), -scores, groups))
    return order[np.flatnonzero(np.diff(groups[order], prepend=groups[order[0]] - 1))]

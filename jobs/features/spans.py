"""Search the best answer span given start and end scores, exactly and in time linear in the number of scores."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Mask = NDArray[np.bool_]

CHUNK_SCORES = 2**16  # scores processed at once: 256 KiB in float32, so that intermediate arrays fit into the CPU cache


class Spans(NamedTuple):
    """Hold one span per row: its score and its first and last position, both inclusive."""

    scores: Floats
    first: Ints
    last: Ints


def best_spans(start: Floats, end: Floats, allowed: Mask, max_tokens: int) -> Spans:
    """Return the span with the highest start + end score in each window, at most `max_tokens` long.

    All three arrays are [windows, positions]. Spans begin and end at positions where `allowed` is true; a window
    without one gets a score of -inf. Of spans with equal scores the one that ends first wins, then the one that starts
    first.

    Each end is combined with the greatest start among the `max_tokens` positions up to it. BERT's authors search all
    pairs too (Devlin et al. 2019, section 4.2), while a list of the n best starts and ends can miss the best pair.
    """
    step = max(1, CHUNK_SCORES // start.shape[1])
    pieces = (slice(at, at + step) for at in range(0, max(1, len(start)), step))
    found = [_best_in_rows(start[piece], end[piece], allowed[piece], max_tokens) for piece in pieces]
    return Spans(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _best_in_rows(start: Floats, end: Floats, allowed: Mask, max_tokens: int) -> Spans:
    width = min(max_tokens, start.shape[1])
    # `limit` is +inf where a span may begin or end and -inf elsewhere. Taking the minimum of score and limit is several
    # times as fast as boolean indexing.
    limit = (allowed.astype(start.dtype) - start.dtype.type(0.5)) * start.dtype.type(np.inf)
    # Pad each row with -inf in front, so that all rows can be processed as one line without mixing their scores.
    starts = np.full((len(start), width - 1 + start.shape[1]), -np.inf, start.dtype)
    np.minimum(start, limit, out=starts[:, width - 1 :])
    totals = _greatest_up_to(starts.ravel(), width).reshape(starts.shape)[:, width - 1 :] + end
    np.minimum(totals, limit, out=totals)
    window, last = np.arange(len(start)), totals.argmax(axis=1)
    candidates = starts[window[:, None], last[:, None] + np.arange(width)]
    return Spans(totals[window, last], last - (width - 1) + candidates.argmax(axis=1), last)


def _greatest_up_to(scores: Floats, width: int) -> Floats:
    """Return, for each position, the maximum of the `width` scores that end there.

    `scores` begins with `width` - 1 times -inf. Each pass over the line at most doubles the number of scores covered.
    """
    greatest, covered = scores, 1
    buffers = [np.empty_like(scores), np.empty_like(scores)] if width > 1 else []
    for buffer in buffers:
        buffer[: width - 1] = -np.inf
    while covered < width:
        step = min(covered, width - covered)
        np.maximum(greatest[step:], greatest[:-step], out=buffers[0][step:])
        greatest, covered = buffers[0], covered + step
        buffers.reverse()
    return greatest


def best_windows(scores: Floats, groups: Ints) -> Ints:
    """Return the row of the highest score in each group; the first row of equal scores. `groups` is sorted.

    >>> best_windows(np.array([1.0, 3.0, 2.0]), np.array([0, 0, 1]))
    array([1, 2])
    """
    order = np.lexsort((np.arange(len(scores)), -scores, groups))
    return order[np.flatnonzero(np.diff(groups[order], prepend=groups[order[0]] - 1))]

"""From start and end scores to the best span: exact, vectorised, O(length). Numpy arrays in and out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


class Spans(NamedTuple):
    """One span a row: its score and its first and last position, both inclusive."""

    scores: Floats
    first: Ints
    last: Ints


def best_spans(start: Floats, end: Floats, allowed: NDArray[np.bool_], max_tokens: int) -> Spans:
    """The span with the highest start + end score in every window, at most `max_tokens` long.

    All three arrays are [windows, positions]; only `allowed` positions take part, and each window must
    have one. Of equals the span that ends first wins, then the one that starts first.

    Every end is joined with the greatest start among the `max_tokens` positions up to it, which a sliding
    maximum gives for all ends at once (van Herk 1992). Taking the best of all pairs is what BERT's
    authors do (Devlin et al. 2019, section 4.2), without a list of candidates that can miss it.
    """
    start = np.where(allowed, start, -np.inf)
    end = np.where(allowed, end, -np.inf)
    length = min(max_tokens, start.shape[1])
    reach = maximum_filter1d(start, size=length, axis=1, mode="constant", cval=-np.inf, origin=(length - 1) // 2)
    totals = reach + end
    last = totals.argmax(axis=1)
    behind = np.arange(length - 1, -1, -1)
    candidates = last[:, None] - behind
    starts = np.where(candidates >= 0, np.take_along_axis(start, np.maximum(candidates, 0), axis=1), -np.inf)
    first = last - behind[starts.argmax(axis=1)]
    return Spans(totals[np.arange(len(last)), last], first, last)


def best_windows(scores: Floats, groups: Ints) -> Ints:
    """Row of the highest score within each run of equal `groups` (sorted); the first one of equals.

    >>> best_windows(np.array([1.0, 3.0, 2.0]), np.array([0, 0, 1]))
    array([1, 2])
    """
    order = np.lexsort((np.arange(len(scores)), -scores, groups))
    return order[np.flatnonzero(np.diff(groups[order], prepend=groups[order[0]] - 1))]

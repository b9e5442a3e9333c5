"""Search the largest batch that fits into a device's memory. Pure functions: `fits` tries a batch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple


class TrainingSize(NamedTuple):
    """Hold the rows that a device trains on at once. With `recompute`, activations are computed again."""

    rows: int
    recompute: bool = False


def divisors(part: int, most: int) -> list[int]:
    """Return the divisors of `part` up to `most`, the largest first.

    >>> divisors(24, 16)
    [12, 8, 6, 4, 3, 2, 1]
    """
    return [size for size in range(min(most, part), 0, -1) if part % size == 0]


def halves(most: int) -> list[int]:
    """Return `most`, its half and so on down to 1.

    >>> halves(24)
    [24, 12, 6, 3, 1]
    """
    return [most >> shift for shift in range(most.bit_length())]


def largest_fitting(sizes: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """Return the largest of the sizes that fits, None if none does. `sizes` begin with the largest.

    The largest is tried first. If it does not fit, each further call halves the sizes that are left.
    """
    if not sizes or fits(sizes[0]):
        return next(iter(sizes), None)
    at = bisect_left(sizes, True, lo=1, key=fits)
    return sizes[at] if at < len(sizes) else None


def largest_training_size(
    sizes: Sequence[int],
    ways: Sequence[bool],
    fits: Callable[[bool, int], bool],
    ran_out: Callable[[bool], int | None] = lambda _: None,
) -> TrainingSize | None:
    """Return the largest training size that fits, in the first of the ways in which one does; None if none does.

    sizes    numbers of rows, the largest first
    ways     values of `recompute` to try, in their order
    fits     tries a number of rows in a way
    ran_out  returns the number of rows that ran out of memory before in this way, None if unknown. It and larger ones
             are not tried, but the smallest is tried in the last way in any case
    """
    for recompute in ways:
        limit = ran_out(recompute)
        left = [size for size in sizes if limit is None or size < limit]
        if not left and recompute == ways[-1]:
            left = list(sizes[-1:])
        if rows := largest_fitting(left, partial(fits, recompute)):
            return TrainingSize(rows, recompute)
    return None


def least(found: Iterable[TrainingSize]) -> TrainingSize:
    """Return the training size that fits all workers, given the largest one of each."""
    rows, recompute = zip(*found, strict=True)
    return TrainingSize(min(rows), any(recompute))

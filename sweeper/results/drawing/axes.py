"""Choose what an axis shows: its range, and ticks whose labels are right, different, and apart from each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from jobs.job import Direction
from sweeper.results.drawing.names import text_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

SHOWN_DISTANCES = 4  # the range reaches this many times the median's distance from the best value
FAR_DISTANCES = 8  # all values are shown unless one is farther from the best than this many distances
PADDING = 0.08  # free space at both ends of an axis, as a share of it
LABEL_SPACE = 8.0  # points between two labels, and between a label and its axis
PLAIN_CHARS = 7  # longer numbers are written with an exponent if that is shorter
MOST_DIGITS = 16


@dataclass(frozen=True)
class ValueRange:
    """Hold the values that an axis shows. `cut` is True if there are worse ones, which are drawn at its edge."""

    low: float
    high: float
    cut: bool = False

    def clamp(self, value: float) -> float:
        """Return the value, or the nearest one that is shown."""
        return min(max(value, self.low), self.high)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def padded(self) -> tuple[float, float]:
        """Return the ends of an axis with free space around the range, which may be a single value."""
        size = (self.high - self.low) or abs(self.high) or 1.0
        return self.low - PADDING * size, self.high + PADDING * size


def shown_range(values: Sequence[float], direction: Direction) -> ValueRange:
    """Return the range of an axis for these finite values, at least one, so that the better half fills it.

    Values that are far worse than the median are left out.

    >>> shown_range([0.953, 0.951, 0.92, 0.02], "max")
    ValueRange(low=0.8849999999999999, high=0.953, cut=True)
    """
    ordered = sorted(values, reverse=direction == "max")
    best, median, worst = ordered[0], ordered[len(ordered) // 2], ordered[-1]
    distance = median - best
    if not distance or abs(worst - best) <= FAR_DISTANCES * abs(distance):
        return ValueRange(min(values), max(values))
    end = best + SHOWN_DISTANCES * distance
    return ValueRange(min(best, end), max(best, end), cut=True)


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Return labels with as many digits as tell the ticks apart exactly.

    >>> tick_texts([0.8, 0.85, 0.9]), tick_texts([2e-5, 2.5e-5]), tick_texts([0.0, 2e9])
    (['0.80', '0.85', '0.90'], ['2.0e-5', '2.5e-5'], ['0', '2e9'])
    """
    gaps = [abs(upper - lower) for lower, upper in pairwise(ticks) if upper != lower]
    allowed = min(gaps, default=max(map(abs, ticks), default=0.0)) / 100
    fixed, exponents = (_exact_texts(ticks, write, allowed) for write in (_plain_number, _scientific))
    longest, short = (max(map(len, texts), default=0) for texts in (fixed, exponents))
    return fixed if longest <= short + 1 or (longest <= PLAIN_CHARS and max(map(abs, ticks)) >= 1) else exponents


def _exact_texts(ticks: Sequence[float], write: Callable[[float, int], str], allowed: float) -> list[str]:
    """Return the ticks as text with as few digits as keep each error within `allowed`."""
    for digits in range(MOST_DIGITS):
        texts = [write(tick, digits) for tick in ticks]
        if all(abs(float(text) - tick) <= allowed for text, tick in zip(texts, ticks, strict=True)):
            break
    return texts


def _plain_number(value: float, digits: int) -> str:
    return f"{value + 0.0:.{digits}f}"  # adding zero makes -0.0 to 0.0


def _scientific(value: float, digits: int) -> str:
    mantissa, _, exponent = f"{value:.{digits}e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if value else "0"


def value_ticks(low: float, high: float) -> list[float]:
    """Return about five round values from `low` to `high`."""
    from matplotlib.ticker import MaxNLocator

    return [
        float(tick)
        for tick in MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        if low <= tick <= high
    ]


def log_ticks(low: float, high: float) -> list[float]:
    """Return round values on a logarithmic axis: powers of ten, or 1-2-5, or evenly spaced ones in a narrow range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5)):
        ticks = [float(f"{step}e{power}") for power in powers for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 3:
            return inside
    return value_ticks(low, high)


def epoch_ticks(low: float, high: float) -> list[float]:
    """Return whole epochs from `low` to `high`, or parts of epochs if there are fewer than two whole ones."""
    from matplotlib.ticker import MaxNLocator

    if low == high:
        return [low]
    ticks = MaxNLocator(nbins=7, integer=True, min_n_ticks=1).tick_values(low, high)
    whole = [float(tick) for tick in ticks if low <= tick <= high and float(tick).is_integer()]
    return whole if len(whole) > 1 else value_ticks(low, high)


def spaced(ticks: Sequence[float], place: Callable[[float], float]) -> list[float]:
    """Return every tick, or every second, third, … one, so that their labels do not touch.

    place  returns the position of a tick in points
    """
    for stride in range(1, len(ticks)):
        kept = ticks[::stride]
        edges = [(place(tick), text_points(text) / 2) for tick, text in zip(kept, tick_texts(kept), strict=True)]
        if all(right - left >= half + other + LABEL_SPACE for (left, half), (right, other) in pairwise(edges)):
            return list(kept)
    return list(ticks[:1])


def set_values(axes: Axes, shown: ValueRange) -> None:
    """Set the vertical axis to a range, and move its left end so that the labels fit into the figure."""
    axes.set_ylim(*shown.padded())
    ticks = value_ticks(*axes.get_ylim())
    texts = tick_texts(ticks)
    axes.set_yticks(ticks, texts)
    left = (max(map(text_points, texts), default=0.0) + LABEL_SPACE) / _width_points(axes.figure)
    axes.figure.subplots_adjust(left=max(left, axes.figure.subplotpars.left))


def set_ticks(axes: Axes, ticks: Sequence[float]) -> None:
    """Label the horizontal axis, after its range is set, with as many of the ticks as have room."""
    width = axes.get_position().width * _width_points(axes.figure)
    share = axes.transData - axes.transAxes

    def place(tick: float) -> float:
        return float(share.transform((tick, axes.get_ylim()[0]))[0]) * width

    kept = spaced(ticks, place)
    axes.set_xticks(kept, tick_texts(kept))
    axes.set_xticks([], minor=True)


def _width_points(figure: Figure | SubFigure) -> float:
    return float(figure.bbox.width / figure.dpi * 72)

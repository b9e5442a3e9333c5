from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.results.drawing import axes
from sweeper.results.drawing.names import text_points

NUMBERS = st.floats(-1e9, 1e9).filter(lambda value: value == 0 or abs(value) > 1e-9)


def test_a_few_bad_trials_do_not_press_the_good_ones_into_one_line() -> None:
    shown = axes.shown_range([0.953, 0.945, 0.927, 0.919, 0.919, 0.875, 0.188, 0.052], "max")
    assert shown.cut
    assert 0.8 < shown.low < 0.875
    assert shown.high == 0.953
    mirrored = axes.shown_range([0.047, 0.055, 0.073, 0.081, 0.081, 0.125, 0.812, 0.948], "min")
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - shown.high, 1 - shown.low))


@pytest.mark.parametrize(
    "values", [[0.1, 0.2, 0.3], [0.5], [0.5, 0.5, 0.5], [0.0], [-3.0, -1.0], [1e9, 2e9], [0.9, 0.1]]
)
def test_values_that_are_alike_are_all_shown(values: list[float]) -> None:
    assert axes.shown_range(values, "max") == axes.ValueRange(min(values), max(values))


@given(st.lists(NUMBERS, min_size=1, max_size=30), st.sampled_from(["max", "min"]))
def test_the_best_value_and_at_least_half_of_all_are_shown(values: list[float], direction: axes.Direction) -> None:
    shown = axes.shown_range(values, direction)
    assert shown.holds(max(values) if direction == "max" else min(values))
    assert sum(map(shown.holds, values)) >= len(values) / 2
    low, high = shown.padded()
    assert low < shown.low
    assert shown.high < high


@given(NUMBERS, st.floats(1e-6, 1e6))
def test_labels_of_an_axis_differ_and_are_right(low: float, share: float) -> None:
    ticks = axes.value_ticks(low, low + share * (abs(low) or 1.0))
    texts = axes.tick_texts(ticks)
    assert len(set(texts)) == len(ticks)
    for text, tick in zip(texts, ticks, strict=True):
        assert float(text) == pytest.approx(tick, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("ticks", "texts"),
    [
        ([0.8, 0.85, 0.9], ["0.80", "0.85", "0.90"]),
        ([2e-5, 2.2e-5], ["2.0e-5", "2.2e-5"]),
        ([1e-5, 1e-4, 1e-3], ["1e-5", "1e-4", "1e-3"]),
        ([-0.0, 5e9], ["0", "5e9"]),
        ([-120.0, -110.0], ["-120", "-110"]),
        ([0.8000001, 0.8000002], ["0.8000001", "0.8000002"]),
        ([3.0], ["3"]),
        ([0.0], ["0"]),
        ([], []),
    ],
)
def test_labels_are_as_short_as_can_be(ticks: list[float], texts: list[str]) -> None:
    assert axes.tick_texts(ticks) == texts


@given(st.floats(1e-8, 0.5), st.floats(1 + 1e-6, 1e5))
def test_a_logarithmic_axis_has_labels_that_neither_repeat_nor_touch(low: float, ratio: float) -> None:
    high = low * ratio
    ticks = axes.log_ticks(low, high)
    assert all(low <= tick <= high for tick in ticks)

    def place(tick: float) -> float:
        return 200 * math.log(tick / low) / math.log(ratio)

    kept = axes.spaced(ticks, place)
    texts = axes.tick_texts(kept)
    assert kept
    assert len(set(texts)) == len(texts)
    for (left, text), (right, other) in pairwise(zip(map(place, kept), texts, strict=True)):
        assert right - left > (text_points(text) + text_points(other)) / 2


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(1, 1, [1]), (1, 4, [1, 2, 3, 4]), (0.25, 0.75, None), (0.5, 3.0, [1, 2, 3]), (1, 200, None)],
)
def test_epochs_are_whole_where_there_are_several(low: float, high: float, ticks: list[float] | None) -> None:
    found = axes.epoch_ticks(low, high)
    assert 1 <= len(found) <= 8
    assert ticks is None or found == ticks
    assert all(low <= tick <= high for tick in found)

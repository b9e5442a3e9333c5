from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jobs.features import spans
from jobs.features.spans import best_spans, best_windows


def row(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


def everywhere(scores: np.ndarray) -> np.ndarray:
    return np.ones(scores.shape, dtype=bool)


def test_the_end_is_never_before_the_start() -> None:
    start, end = row(0, 0, 9), row(9, 0, 1)
    found = best_spans(start, end, everywhere(start), 3)
    assert (found.first[0], found.last[0], found.scores[0]) == (2, 2, 10)


def test_a_span_is_at_most_as_long_as_allowed() -> None:
    start, end = row(5, 0, 3, 0), row(0, 0, 0, 5)
    assert best_spans(start, end, everywhere(start), 4).first[0] == 0
    assert best_spans(start, end, everywhere(start), 3).first[0] == 2
    assert best_spans(start, end, everywhere(start), 1).first[0] == 0


def test_positions_outside_the_paragraph_take_no_part() -> None:
    start, end = row(99, 1, 0, 99), row(99, 0, 2, 99)
    found = best_spans(start, end, np.array([[False, True, True, False]]), 10)
    assert (found.first[0], found.last[0], found.scores[0]) == (1, 2, 3)


def test_of_equals_the_first_span_wins() -> None:
    start = end = row(1, 1, 1)
    found = best_spans(start, end, everywhere(start), 3)
    assert (found.first[0], found.last[0]) == (0, 0)


def test_the_best_window_of_each_question() -> None:
    assert best_windows(np.array([1.0, 3.0, 3.0, -2.0]), np.array([0, 0, 0, 5])).tolist() == [1, 3]


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 12)))
    values = st.integers(-3, 3).map(float)  # few values, so that ties happen
    start, end = (draw(arrays(np.float64, shape, elements=values)) for _ in "se")
    allowed = draw(arrays(np.bool_, shape))
    allowed[:, draw(st.integers(0, shape[1] - 1))] = True
    return start, end, allowed, draw(st.integers(1, 15))


@given(scored())
def test_the_same_as_looking_at_every_pair(case: tuple[np.ndarray, np.ndarray, np.ndarray, int]) -> None:
    start, end, allowed, most = case
    found = best_spans(start, end, allowed, most)
    for n in range(len(start)):
        places = [i for i in range(start.shape[1]) if allowed[n, i]]
        pairs = [(-(start[n, i] + end[n, j]), j, i) for i in places for j in places if i <= j < i + most]
        score, last, first = min(pairs)
        assert (-found.scores[n], found.last[n], found.first[n]) == (score, last, first)


@given(scored(), st.integers(1, 9))
def test_many_windows_worked_on_in_pieces_are_the_same_one_by_one(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, int], piece: int
) -> None:
    start, end, allowed, most = case
    alone = [best_spans(start[[n]], end[[n]], allowed[[n]], most) for n in range(len(start))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "CHUNK_SCORES", piece)
        together = best_spans(start, end, allowed, most)
    for column, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert column.tolist() == np.concatenate(parts).tolist()

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.metrics import exact_match, f1, mean_scores

# Overlap, lengths and F1 = 2 · overlap / (lengths) worked out by hand.
GOLDEN = [
    ("1970年代後", "1970年代", 0.0, 2 * 6 / 13),
    ("1970年代", "1970年代", 1.0, 1.0),
    ("「日月潭」", "日月潭", 0.0, 2 * 3 / 8),  # full-width brackets count
    ("１９７０", "1970", 0.0, 0.0),  # full-width digits are other characters
    ("台台灣", "台灣灣", 0.0, 2 * 2 / 6),  # each character as often as it occurs
    ("", "台灣", 0.0, 0.0),
    ("a  b", "a b", 0.0, 2 * 3 / 7),  # a space is a character
    ("🎉", "🎉", 1.0, 1.0),
]


@pytest.mark.parametrize(("prediction", "reference", "em", "score"), GOLDEN)
def test_hand_computed_scores(prediction: str, reference: str, em: float, score: float) -> None:
    assert exact_match(prediction, reference) == em
    assert f1(prediction, reference) == pytest.approx(score)


def test_means_are_over_questions() -> None:
    assert mean_scores(["台灣", "台"], ["台灣", "台灣"]) == {"exact_match": 0.5, "f1": pytest.approx((1 + 2 / 3) / 2)}


def test_every_prediction_needs_its_reference() -> None:
    with pytest.raises(ValueError, match="zip"):
        mean_scores(["台灣"], [])


@given(st.text(), st.text())
def test_f1_is_symmetric_and_one_only_for_the_same_characters(left: str, right: str) -> None:
    assert f1(left, right) == f1(right, left)
    assert 0 <= f1(left, right) <= 1
    assert (f1(left, right) == 1) == (bool(left) and sorted(left) == sorted(right))

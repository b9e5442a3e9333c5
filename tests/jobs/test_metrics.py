from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.metrics import PROFILES, best_score, cmrc_units, drcd_normal, longest_run, mean_scores

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


@pytest.mark.parametrize(("prediction", "reference", "em", "expected"), GOLDEN)
def test_hand_computed_scores(prediction: str, reference: str, em: float, expected: float) -> None:
    assert best_score(prediction, [reference]) == pytest.approx((em, expected))


# Lower-cased, ASCII punctuation and 《》？，。、；： away, articles away; then a bag of characters.
DRCD = [
    ("《日月潭》。", ["日月潭"], 1.0, 1.0),  # marks gone: 日月潭 = 日月潭
    ("「日月潭」", ["日月潭"], 0.0, 2 * 3 / (5 + 3)),  # 「」 are none of the eight and stay
    ("日月潭！", ["日月潭"], 0.0, 2 * 3 / (4 + 3)),  # nor is ！
    ("1,234", ["1234"], 1.0, 1.0),  # an ASCII comma is punctuation: 1234 = 1234
    ("12.5%", ["125"], 1.0, 1.0),  # so are . and %
    ("The Wall", ["wall"], 1.0, 1.0),  # lower-cased, article away
    ("Theatre", ["atre"], 0.0, 2 * 4 / (7 + 4)),  # `the` inside a word is no article
    ("New  York", ["new york"], 1.0, 1.0),  # two spaces become one
    ("New York", ["newyork"], 0.0, 2 * 7 / (8 + 7)),  # but one space counts as a character
    ("台北市", ["臺北市", "台北"], 0.0, 2 * 2 / (3 + 2)),  # 北市: 4/6 = 0.667; 台北: 4/5 = 0.8; the best counts
    ("台北", ["臺北市", "台北。"], 1.0, 1.0),  # the second reference
    ("，。", ["、"], 1.0, 0.0),  # nothing is left of either: equal, with nothing in common
]

# Lower-cased, the script's marks away; then the longest stretch of equal units.
CMRC = [
    ("《日月潭》", ["日月潭"], 1.0, 1.0),  # marks gone
    ("「日月潭」", ["日月潭"], 1.0, 1.0),  # 「」 are in this list
    ("日月潭……", ["日月潭"], 0.0, 2 * 3 / (4 + 3)),  # an ellipsis is not; …… is one unit, since no space parts it
    ("日月潭,", ["日月潭"], 0.0, 2 * 3 / (4 + 3)),  # nor is an ASCII comma
    ("1970年代後", ["1970年代"], 0.0, 2 * 3 / (4 + 3)),  # units 1970 年 代 後 and 1970 年 代
    ("1971年", ["1970年"], 0.0, 2 * 1 / (2 + 2)),  # a number is one unit: 年 alone in common
    ("光荣和ω-force", ["光榮和Ω-Force"], 0.0, 2 * 2 / (4 + 4)),  # 光 荣 和 ωforce; the run 和 ωforce
    ("東京大學", ["東京都大學"], 0.0, 2 * 2 / (4 + 5)),  # 東京 or 大學, not both: a stretch, no subsequence
    ("日本的東京", ["東京日本"], 0.0, 2 * 2 / (5 + 4)),  # order counts, unlike in a bag: 日本 or 東京
    ("iPhone 9.3版", ["iphone 9.3"], 0.0, 2 * 2 / (3 + 2)),  # iphone 9.3 版
    ("Wall-E", ["wall e"], 0.0, 0.0),  # the hyphen goes before words are cut: walle against wall, e
    ("台北市", ["臺北市", "台北"], 0.0, 2 * 2 / (3 + 2)),  # 北市: 4/6; 台北: 4/5
    ("高雄", ["台北", "「高雄」"], 1.0, 1.0),  # the second reference
    ("", ["高雄"], 0.0, 0.0),
    ("·", ["、"], 1.0, 0.0),  # nothing is left of either: equal, with nothing in common
    ("Schindler's", ["schindler"], 0.0, 2 * 1 / (2 + 1)),  # schindler 's
]


@pytest.mark.parametrize(("prediction", "references", "em", "expected"), DRCD)
def test_hand_computed_scores_as_drcd_counts(
    prediction: str, references: list[str], em: float, expected: float
) -> None:
    assert best_score(prediction, references, "drcd") == pytest.approx((em, expected))


@pytest.mark.parametrize(("prediction", "references", "em", "expected"), CMRC)
def test_hand_computed_scores_as_cmrc_2018_counts(
    prediction: str, references: list[str], em: float, expected: float
) -> None:
    assert best_score(prediction, references, "cmrc2018") == pytest.approx((em, expected))


UNITS = [
    ("在ios 9.3版，", ["在", "ios", "9.3", "版", "，"]),
    ("1,024人", ["1,024", "人"]),
    ("a, b", ["a", ",", "b"]),
    ("u.s.", ["u.s", "."]),
    ("50%", ["50", "%"]),
    ("(at&t)", ["(", "at", "&", "t", ")"]),
    ("2600—2800", ["2600", "—", "2800"]),
    ("o'neill's 書", ["o'neill", "'s", "書"]),
    ("等等...", ["等", "等", "..."]),
    ("カナ㐀", ["カナ㐀"]),  # kana and rare characters lie outside the range the script takes for Chinese
    ("１２年", ["１２", "年"]),
    ("🎉湖", ["🎉", "湖"]),
]


@pytest.mark.parametrize(("text", "units"), UNITS)
def test_cmrc_2018_counts_characters_words_and_numbers(text: str, units: list[str]) -> None:
    assert cmrc_units(text) == units


def test_means_are_over_questions() -> None:
    assert mean_scores(["台灣", "台"], ["台灣", "台灣"]) == {"exact_match": 0.5, "f1": pytest.approx((1 + 2 / 3) / 2)}


def test_means_take_several_references_and_a_profile() -> None:
    means = mean_scores(["《台灣》", "高雄"], [["台北", "台灣"], "台北"], "drcd")
    assert means == {"exact_match": 0.5, "f1": 0.5}
    assert mean_scores(["《台灣》", "高雄"], [["台北", "台灣"], "台北"])["exact_match"] == 0


def test_every_prediction_needs_its_reference() -> None:
    with pytest.raises(ValueError, match="zip"):
        mean_scores(["台灣"], [])
    with pytest.raises(ValueError, match="empty"):
        best_score("台灣", [])


def test_an_unknown_profile_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown metric profile 'CMRC'; did you mean 'cmrc2018'"):
        best_score("台灣", ["台灣"], "CMRC")


@given(st.text(), st.text())
def test_f1_is_symmetric_and_one_only_for_the_same_characters(left: str, right: str) -> None:
    f1 = best_score(left, [right]).f1
    assert f1 == best_score(right, [left]).f1
    assert 0 <= f1 <= 1
    assert (f1 == 1) == (bool(left) and sorted(left) == sorted(right))


TEXT = st.text(st.sampled_from("台北市，。 the1.,'sA"), max_size=12)


@given(TEXT, TEXT, st.sampled_from(sorted(PROFILES)))
def test_every_profile_is_symmetric_and_gives_an_equal_answer_its_full_score(
    left: str, right: str, profile: str
) -> None:
    em, one = best_score(left, [right], profile)
    assert (em, one) == best_score(right, [left], profile)
    assert 0 <= one <= 1
    if em and PROFILES[profile].units(PROFILES[profile].normalise(left)):
        assert one == 1


@given(TEXT, st.lists(TEXT, min_size=1, max_size=3), st.sampled_from(sorted(PROFILES)))
def test_more_references_never_lower_a_score(prediction: str, references: list[str], profile: str) -> None:
    few, all_of_them = best_score(prediction, references[:1], profile), best_score(prediction, references, profile)
    assert all_of_them.em >= few.em
    assert all_of_them.f1 >= few.f1


@given(TEXT)
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert drcd_normal(drcd_normal(text)) == drcd_normal(text)


@given(TEXT)
def test_cmrc_units_lose_nothing_but_space(text: str) -> None:
    assert "".join(cmrc_units(text)) == "".join(text.split())


@given(st.lists(st.sampled_from("ab"), max_size=8), st.lists(st.sampled_from("ab"), max_size=8))
def test_the_longest_run_is_the_longest_of_all_stretches(left: list[str], right: list[str]) -> None:
    def stretches(units: list[str]) -> set[str]:
        return {"".join(units[i:j]) for i in range(len(units) + 1) for j in range(i, len(units) + 1)}

    assert longest_run(left, right) == max(map(len, stretches(left) & stretches(right)))


def test_two_annotators_of_drcd_agree_as_far_as_is_known(shared: Path) -> None:
    """DRCD's authors give an F1 of 93.3 for people on the test set (Shao et al. 2018, arXiv 1806.00920); this is
    over development and test sets, one annotator's answer scored against the other's."""
    meta = json.loads((shared / "data/drcd/meta.json").read_text(encoding="utf-8"))
    answers = [row["references"] for row in meta.values()]
    pairs = [both[-1] for both in answers], [both[0] for both in answers]
    assert mean_scores(*pairs)["exact_match"] == pytest.approx(0.792, abs=5e-4)
    assert mean_scores(*pairs, "drcd") == {
        "exact_match": pytest.approx(0.801, abs=5e-4),
        "f1": pytest.approx(0.930, abs=1e-3),
    }

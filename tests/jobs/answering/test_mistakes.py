from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.answering.mistakes import (
    KINDS,
    LENGTHS,
    SELECTOR_KINDS,
    TYPES,
    Verdict,
    answer_type,
    count_kinds,
    length_class,
    occurrences,
    shared,
    verdicts,
)
from jobs.dataset.data import Data, DataError, Question, read_data, references
from jobs.metrics import mean_scores

#             0123456789012345678901234567890
PARAGRAPH = "臺北市在北方,人口2646204人😀😀,舊名臺北府,今名臺北市。"
OTHER = "高雄市在南方,人口2728137人,港口在臺北市以南。"
LABEL = {"臺北市": 0, "2646204": 9, "😀😀": 17, "舊名臺北府": 20}


def verdict(answer: str, given: str, start: int, paragraph: int = 0, **changes: Any) -> Verdict:
    """Of one question whose answer is labelled at LABEL; `paragraph` is where the given answer stands."""
    question = Question("q", "?", (0, 1), 0, answer, LABEL[answer])
    data = Data("here", (PARAGRAPH, OTHER), (), (question,), ())
    prediction = {"id": "q", "answer": given, "start": start, "paragraph": paragraph, "score": 0.0}
    return verdicts(data, [prediction], {"q": [answer]} | changes.pop("references", {}), **changes)[0]


def test_the_golden_places_are_what_they_say() -> None:
    assert all(PARAGRAPH.startswith(answer, start) for answer, start in LABEL.items())


@pytest.mark.parametrize(
    ("answer", "given", "start", "kind", "extra"),
    [
        ("2646204", "2646204", 9, "exact", 0),
        ("2646204", "2646204人", 9, "boundary", 1),
        ("2646204", "人口2646204人", 7, "boundary", 3),
        ("2646204", "46204", 11, "boundary", -2),
        ("2646204", "人口26", 7, "overlap", 0),
        ("2646204", "北方", 4, "disjoint", 0),
        ("2646204", "", 9, "empty", 0),
        ("2646204", " \u3000", 9, "empty", 0),
        ("😀😀", "😀", 17, "boundary", -1),
        ("😀😀", "人😀", 16, "overlap", 0),
        ("臺北市", "臺北市", 0, "exact", 0),
        ("臺北市", "臺北市", 28, "elsewhere", 0),
        ("臺北市", "今名臺北市", 26, "boundary", 2),
        ("臺北市", "北市。", 29, "overlap", 0),
        ("臺北市", "臺北府", 22, "disjoint", 0),
        ("舊名臺北府", "臺北府", 22, "boundary", -2),
    ],
)
def test_each_answer_is_of_the_kind_worked_out_by_hand(
    answer: str, given: str, start: int, kind: str, extra: int
) -> None:
    found = verdict(answer, given, start)
    assert PARAGRAPH.startswith(given, start) or not given.strip()
    assert (found.kind, found.extra) == (kind, extra)


def test_full_width_digits_are_other_characters_than_narrow_ones() -> None:
    text = "共２,０００人"
    question = Question("q", "?", (0, 1), 0, "２,０００", 1)
    data = Data("here", (text, OTHER), (), (question,), ())

    def kind(given: str, start: int) -> tuple[str, int]:
        found = verdicts(data, [{"id": "q", "answer": given, "start": start}], {"q": ["２,０００"]})[0]
        return found.kind, found.extra

    assert kind("２,０００", 1) == ("exact", 0)
    assert kind("２,０００人", 1) == ("boundary", 1)
    assert kind("０００", 3) == ("boundary", -2)


def test_the_wrong_paragraph_is_wrong_wherever_the_span_lies() -> None:
    assert verdict("2646204", "2728137", 9, paragraph=1).kind == "wrong paragraph"
    assert verdict("2646204", "", 0, paragraph=1).kind == "empty"


def test_the_same_text_in_another_paragraph_counts_as_right_and_is_said_to_stand_elsewhere() -> None:
    found = verdict("臺北市", "臺北市", 20, paragraph=1)
    assert (found.kind, found.right) == ("elsewhere", True)


def test_what_counts_as_right_is_what_the_metric_profile_says() -> None:
    assert verdict("臺北市", "臺北市,", 0).kind == "boundary"
    assert verdict("臺北市", "臺北市,", 0, profile="drcd").kind == "exact"


def test_every_reference_counts_and_is_a_place_to_be_near() -> None:
    both = {"q": ["舊名臺北府", "臺北府"]}
    assert verdict("舊名臺北府", "臺北府", 22, references=both).kind == "exact"
    nearer = verdict("舊名臺北府", "臺北府,", 22, references=both)
    assert (nearer.kind, nearer.extra) == ("boundary", 1)


def test_a_selector_is_right_or_in_the_wrong_paragraph() -> None:
    question = Question("q", "?", (0, 1), 0, "臺北市", 0)
    data = Data("here", (PARAGRAPH, OTHER), (), (question, replace(question, id="r")), ())
    picks = [{"id": "q", "paragraph": 0, "scores": [2.0, 1.0]}, {"id": "r", "paragraph": 1, "scores": [1.0, 2.0]}]
    right, wrong = verdicts(data, picks, {"q": ["臺北市"], "r": ["臺北市"]})
    assert (right.kind, right.right, wrong.kind, wrong.right) == ("right paragraph", True, "wrong paragraph", False)
    assert (wrong.wanted, wrong.given) == (PARAGRAPH, OTHER)
    assert count_kinds([right, wrong], SELECTOR_KINDS) == {"right paragraph": 1, "wrong paragraph": 1}


def test_answers_to_other_questions_are_refused() -> None:
    with pytest.raises(DataError, match="not those the trial answered"):
        verdicts(read_data("sample"), [{"id": "q", "answer": "", "start": 0}], {})


SAMPLE = read_data("sample")
REFERENCES = references(SAMPLE)


@given(st.data())
def test_every_answer_is_of_one_kind_and_the_right_ones_are_the_exact_matches(data: st.DataObject) -> None:
    few = replace(SAMPLE, valid=SAMPLE.valid[:6])
    predictions: list[dict[str, Any]] = []
    for row in few.valid:
        paragraph = data.draw(st.sampled_from(row.paragraphs))
        text = few.paragraphs[paragraph]
        near = st.integers(-3, 3).map(lambda shift, row=row: max(0, (row.start or 0) + shift))
        start = data.draw(near | st.integers(0, len(text) - 1))
        last = start + data.draw(st.integers(0, 9))
        predictions.append({"id": row.id, "paragraph": paragraph, "answer": text[start:last], "start": start})
    found = verdicts(few, predictions, REFERENCES)
    assert sum(count_kinds(found).values()) == len(found) == 6
    assert set(count_kinds(found)) <= set(KINDS)
    assert all((verdict.extra != 0) == (verdict.kind == "boundary") for verdict in found)
    assert all(verdict.type in TYPES and verdict.length in LENGTHS for verdict in found)
    scores = mean_scores([one["answer"] for one in predictions], [REFERENCES[row.id] for row in few.valid])
    assert scores["exact_match"] * 6 == pytest.approx(sum(verdict.right for verdict in found))


@given(st.text("ab", max_size=12), st.text("ab", min_size=1, max_size=3))
def test_occurrences_are_all_places_of_a_text(paragraph: str, text: str) -> None:
    assert [place.first for place in occurrences(text, paragraph)] == [
        at for at in range(len(paragraph)) if paragraph[at : at + len(text)] == text
    ]
    assert all(shared(place, place) == len(text) for place in occurrences(text, paragraph))


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("date", "1970年 一九七〇年 民國八十年 民國79年5月3日 清光緒十七年 2013年2月11日 5月 三月初 14世紀"),
        (
            "date",
            "六十年代 2000年代 1949 １９４９年",
        ),
        ("date", "2013-02-11 昭和元年 公元前216年 1970年至1980年"),
        ("number", "3 三 ３，０００公尺 574,800人 百分之三十 8.0％ 七年 第八位 八百餘年 約14所 350kW 三成 -3 近600年"),
        ("name", "《紅樓夢》 「真人」 亨利·迪克特·懷特 羅伯特‧波義耳 鄭成功 嘉義市 臺南州 世界銀行 MegaBox 楊浦區"),
        ("name", "馬關條約"),
        ("other", "因為下雨 紅土 噪音過大 植物 三國演義裡的人物們 😀 ?"),
    ],
)
def test_answer_types_are_told_by_their_looks(kind: str, answers: str) -> None:
    assert {answer: answer_type(answer) for answer in answers.split()} == dict.fromkeys(answers.split(), kind)


@given(st.text(max_size=20))
def test_every_text_has_one_type_and_one_length(text: str) -> None:
    assert answer_type(text) in TYPES
    assert length_class(text) in LENGTHS


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    "part", ["三", "1", "1,", "民國", "A ", "王·", "三個", "三年前", "年", "《", "a", "清", "前後", "-1"]
)
@pytest.mark.parametrize("end", ["", "魚", "!"])
def test_a_long_answer_is_typed_at_once(part: str, end: str) -> None:
    assert answer_type(part * 2000 + end) in TYPES

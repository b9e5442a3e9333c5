from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

import pytest

from jobs.dataset.sample import CATEGORIES, FIRST, ODDITIES, PAIRS, SECOND, sample_files

SPLITS = ("train", "valid", "test")
# A change of the text changes every figure told about it: change this only on purpose.
PINNED = "e6b9281c3b9d381ce87af71b94ba3d40be811388cc1a57e9c0b6877806e986fb"


@pytest.fixture(scope="module")
def sample() -> dict[str, Any]:
    return sample_files()


def rows(sample: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for split in SPLITS for row in sample[split]]


def test_the_text_is_the_same_everywhere(sample: dict[str, Any]) -> None:
    text = json.dumps(sample, ensure_ascii=False, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == PINNED
    assert sample_files() == sample
    assert sample_files(seed=1) != sample


def test_it_is_as_large_as_it_says(sample: dict[str, Any]) -> None:
    assert [len(sample[split]) for split in SPLITS] == [2560, 384, 384]
    assert len(sample["context"]) == 832
    assert len({row["id"] for row in rows(sample)}) == 3328


def test_every_row_keeps_the_format(sample: dict[str, Any]) -> None:
    for row in rows(sample):
        assert len(set(row["paragraphs"])) == 4
        assert row["relevant"] in row["paragraphs"]
        paragraph, answer = sample["context"][row["relevant"]], row["answer"]
        assert paragraph[answer["start"] :].startswith(answer["text"])
        assert paragraph.count(answer["text"]) == 1
        assert 1 <= len(answer["text"]) <= 12
        assert 60 <= len(paragraph) <= 100


def test_no_paragraph_is_shared_between_splits(sample: dict[str, Any]) -> None:
    used = [{paragraph for row in sample[split] for paragraph in row["paragraphs"]} for split in SPLITS]
    assert len(used[0] | used[1] | used[2]) == sum(map(len, used))


def test_the_relevant_paragraph_stands_anywhere(sample: dict[str, Any]) -> None:
    places = Counter(row["paragraphs"].index(row["relevant"]) for row in rows(sample))
    assert all(0.2 < places[place] / 3328 < 0.3 for place in range(4))


def told(question: str) -> tuple[str, int]:
    """The kind of fact a question asks for, and which of the two of that kind."""
    asked = question.split("的", 1)[1]
    (found,) = [
        (pair.kind, which) for pair in PAIRS for which, fact in enumerate(pair.facts) if asked in fact.asked.split("｜")
    ]
    return found


def test_facts_of_a_kind_stand_side_by_side(sample: dict[str, Any]) -> None:
    by_paragraph: dict[int, list[tuple[str, int]]] = {}
    for row in rows(sample):
        by_paragraph.setdefault(row["relevant"], []).append(told(row["question"]))
    for facts in by_paragraph.values():
        first, second = sorted({kind for kind, _ in facts})
        assert sorted(facts) == [(first, 0), (first, 1), (second, 0), (second, 1)]
    assert {kind for facts in by_paragraph.values() for kind, _ in facts} == {pair.kind for pair in PAIRS}


def test_an_answer_is_of_the_stock_that_its_question_asks_for(sample: dict[str, Any]) -> None:
    answers: dict[tuple[str, int], set[str]] = {}
    for row in rows(sample):
        answers.setdefault(told(row["question"]), set()).add(row["answer"]["text"])
    assert {answer[-1] for answer in answers["places", 0]} == set("村鄉")
    assert {answer[-1] for answer in answers["places", 1]} == set("港鎮")
    assert all("‧" in answer for answer in answers["people", 0])
    assert all(len(answer) == 3 for answer in answers["people", 1])
    assert not answers["years", 0] & answers["years", 1]
    assert not answers["professions", 0] & answers["professions", 1]


def subjects(sample: dict[str, Any]) -> dict[int, str]:
    """By paragraph, the name its questions open with."""
    return {row["relevant"]: row["question"].split("的", 1)[0] for row in rows(sample)}


def test_the_facts_of_a_paragraph_come_in_any_order(sample: dict[str, Any]) -> None:
    firsts = Counter(
        told(min(group, key=lambda row: row["answer"]["start"])["question"]) for group in by_relevant(sample).values()
    )
    assert len(firsts) == 2 * len(PAIRS)
    assert min(firsts.values()) > 832 / len(firsts) / 2


def by_relevant(sample: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in rows(sample):
        groups.setdefault(row["relevant"], []).append(row)
    return groups


def category(name: str) -> int:
    (found,) = {
        number
        for number, one in enumerate(CATEGORIES)
        for pattern in one.names.split("｜")
        for before, after in [pattern.split("{name}")]
        if name.startswith(before) and name.endswith(after)
    }
    return found


def test_one_distractor_is_of_the_subjects_category_and_two_are_not(sample: dict[str, Any]) -> None:
    categories = {paragraph: category(name) for paragraph, name in subjects(sample).items()}
    for row in rows(sample):
        same = [categories[choice] == categories[row["relevant"]] for choice in row["paragraphs"]]
        assert sum(same) == 2


def test_some_distractors_tell_facts_of_the_kind_asked_for_and_some_do_not(sample: dict[str, Any]) -> None:
    kinds = {paragraph: {told(row["question"])[0] for row in group} for paragraph, group in by_relevant(sample).items()}
    near = [
        told(row["question"])[0] in kinds[choice]
        for row in rows(sample)
        for choice in row["paragraphs"]
        if choice != row["relevant"]
    ]
    assert 0.4 < sum(near) / len(near) < 0.6


def test_the_relevant_paragraph_is_not_told_by_its_length(sample: dict[str, Any]) -> None:
    ranks = Counter(
        sum(len(sample["context"][choice]) < len(sample["context"][row["relevant"]]) for choice in row["paragraphs"])
        for row in rows(sample)
    )
    assert max(ranks.values()) / 3328 < 0.35


def test_a_names_characters_stand_in_nothing_else(sample: dict[str, Any]) -> None:
    names = subjects(sample)
    for paragraph, name in names.items():
        assert not set(sample["context"][paragraph].replace(name, "")) & set(FIRST + SECOND)
    assert not set(FIRST) & set(SECOND)
    assert len(set(names.values())) == len(names)


def test_names_and_questions_do_not_recur(sample: dict[str, Any]) -> None:
    assert len({(row["question"], row["relevant"]) for row in rows(sample)}) == 3328
    assert len(set(sample["context"])) == 832


def test_it_is_written_in_traditional_characters(sample: dict[str, Any]) -> None:
    text = "".join(sample["context"]) + "".join(row["question"] for row in rows(sample))
    assert not set(text) & set("国会学发书长东车门马鸟鱼龙岁历战业乐园图团为义电话语说读这进远还个们时间")


@pytest.mark.parametrize("oddity", ODDITIES.split("｜"))
def test_each_oddity_stands_in_a_training_paragraph(sample: dict[str, Any], oddity: str) -> None:
    assert any(oddity in sample["context"][row["relevant"]] for row in sample["train"])


@pytest.mark.parametrize(
    "nasty", ["「", "《", "“", "，", "１", "Ｂ", "民國", "No.", "‧", "𠮷", "龘", "🌸", "🏔️", "Velanto"]
)
def test_it_has_the_nasty_things_that_reading_must_survive(sample: dict[str, Any], nasty: str) -> None:
    assert any(nasty in paragraph for paragraph in sample["context"])


def test_answers_have_nasty_forms_too(sample: dict[str, Any]) -> None:
    answers = [row["answer"]["text"] for row in rows(sample)]
    for form in ("１", "民國", "一九", "‧"):
        assert any(form in answer for answer in answers)

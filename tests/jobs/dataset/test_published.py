"""Corpora in their published layouts become data sets; what each of them lacks or has too much is counted."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.dataset.convert import ConversionCounts, convert
from jobs.dataset.data import Data, DataError, labelled_questions, read_data
from tests.support.published import C3_D, C3_M, C3_TEST, DUREADER, SQUAD_2, cmrc, cmrc_tree, hub_c3, hub_clue_c3

Change = Callable[[dict[str, Any]], object]


def write(folder: Path, name: str, content: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def converted(folder: Path, **contents: Any) -> tuple[ConversionCounts, Data]:
    """Convert one file for each split and return the counts and the data set."""
    sources = {split: [write(folder, split, content)] for split, content in contents.items()}
    counts = convert(sources, folder / "out", candidates=2)
    return counts, read_data(str(folder / "out"))


def refused(folder: Path, **contents: Any) -> str:
    with pytest.raises(DataError) as caught:
        converted(folder, **contents)
    return "\n".join(caught.value.lines)


def test_dureader_robust_has_one_article_without_a_title_and_a_test_file_without_answers(tmp_path: Path) -> None:
    test = copy.deepcopy(DUREADER)
    for paragraph in test["data"][0]["paragraphs"]:
        paragraph["qas"] = [{"question": "氣溫是多少", "id": f"t{paragraph['context']}"}]
    counts, data = converted(tmp_path, train=DUREADER, valid=cmrc("v"), test=test)
    assert counts.articles["train"] == 3
    assert counts.answers == {"exact": 3, "located": 2, "unlabelled": 3}
    assert [row.relevant for row in data.test] == [None] * 3


@pytest.mark.parametrize("layout", [cmrc, cmrc_tree])
def test_cmrc_2018_is_read_as_a_list_and_as_a_tree(tmp_path: Path, layout: Callable[..., Any]) -> None:
    counts, data = converted(tmp_path, train=layout("a"), valid=layout("b"), test=layout("c", "FAKE_ANSWER_"))
    assert set(counts.answers) == {"located" if layout is cmrc else "exact", "unlabelled"}
    assert len(data.test) == counts.questions["test"] == 2
    assert counts.notes == [
        "test: no answers (2 placeholder for an answer); test.json is without labels, and there is no test_labels.json"
    ]


def test_unanswerable_questions_of_squad_2_are_dropped_under_that_name(tmp_path: Path) -> None:
    counts, data = converted(tmp_path, train=SQUAD_2, valid=cmrc("v"))
    assert counts.dropped == {"unanswerable": 1}
    assert "南投縣" not in [row.answer for row in data.train]  # the plausible answer


ANSWERS = {
    "missing": lambda row: row.pop("answers"),
    "an empty list": lambda row: row.update(answers=[]),
    "null": lambda row: row.update(answers=None),
    "no text": lambda row: row.update(answers=[{"text": "", "answer_start": -1}]),
    "null text": lambda row: row.update(answers=[{"text": None, "answer_start": None}]),
    "blank": lambda row: row.update(answers=[{"text": " \u3000", "answer_start": 0}]),
    "the hub's empty lists": lambda row: row.update(answers={"text": [], "answer_start": []}),
    "FAKE_ANSWER": lambda row: row.update(answers=["FAKE_ANSWER_1", "FAKE_ANSWER_2"]),
    "one word for all": lambda row: row.update(answers=[{"text": "。", "answer_start": 0}]),
    "some word": lambda row: row.update(answers=["unknown"]),
    "an empty answer": lambda row: row.update(answers=[], answer=""),
}


@pytest.mark.parametrize("change", ANSWERS.values(), ids=ANSWERS)
def test_a_test_file_without_answers_becomes_an_unlabelled_test_set(tmp_path: Path, change: Change) -> None:
    test = [*cmrc("c"), *cmrc("d")]
    for paragraph in test:
        for row in paragraph["qas"]:
            change(row)
    counts, data = converted(tmp_path, train=cmrc("a"), valid=cmrc("b"), test=test)
    rows = json.loads((tmp_path / "out/test.json").read_text(encoding="utf-8"))
    assert [set(row) for row in rows] == [{"id", "question", "paragraphs"}] * 4
    assert [row["id"] for row in rows] == ["c0", "c1", "d0", "d1"]
    assert not (tmp_path / "out/test_labels.json").exists()
    assert any(note.startswith("test: no answers") for note in counts.notes)
    assert all(len(row.paragraphs) == 2 for row in data.test)
    with pytest.raises(DataError, match="no labelled questions"):
        labelled_questions(data, "test")


def test_of_a_test_file_with_some_answers_the_answered_questions_are_kept_and_the_others_told(tmp_path: Path) -> None:
    test = [*cmrc("c"), *cmrc("d")]
    test[0]["qas"][0]["answers"] = []
    counts, data = converted(tmp_path, train=cmrc("a"), valid=cmrc("b"), test=test)
    assert [row.id for row in labelled_questions(data, "test")] == ["c1", "d0", "d1"]
    assert counts.dropped == {"no answer": 1}
    (note,) = counts.notes
    assert note.startswith("test: 1 of 4 questions have no answer and are left out")


def test_training_needs_answers(tmp_path: Path) -> None:
    train = cmrc("a", "FAKE_ANSWER_")
    assert (
        "train: no question is left; dropped: 2 placeholder for an answer; give it questions of its own with answers"
        in refused(tmp_path, train=train, valid=cmrc("b"))
    )


def test_starts_in_other_units_are_repaired_and_counted_by_kind(tmp_path: Path) -> None:
    train = [
        {
            "id": n,
            "context": f"🎉{word}湖，{word}山",
            "question": "？",
            "answers": {"text": [word], "answer_start": [6]},
        }
        for n, word in enumerate(["台灣", "日本"])
    ]
    counts, data = converted(tmp_path, train=train, valid=cmrc("b"))
    assert counts.answers == {"repaired (UTF-16 units)": 2, "located": 2}
    assert [row.start for row in data.train] == [5, 5]
    assert "answers: 2 repaired (UTF-16 units), 2 located" in counts.lines()


C3_QUESTION = "男：請問，去學校怎麼走？\n女：往前走，公園旁邊就是。\n學校在哪裡？"


def test_c3_asks_with_its_text_and_answers_with_an_option(tmp_path: Path) -> None:
    counts, data = converted(tmp_path, train=C3_D, valid=C3_M)
    first = data.train[0]
    assert (first.id, first.question) == ("d-1-0", C3_QUESTION)
    assert [data.paragraphs[index] for index in first.paragraphs] == ["公園旁邊", "車站", "醫院"]
    assert (data.paragraphs[first.relevant or 0], first.answer, first.start) == ("公園旁邊", "公園旁邊", 0)
    assert [len(row.paragraphs) for row in (*data.train, *data.valid)] == [3, 2, 4]
    assert data.options
    assert counts.answers == {"option": 3}
    assert counts.distractors == {}
    assert counts.lines()[0] == "train: 2 questions on 1 texts of 1 articles"
    assert "the options are the candidates; --distractors and --candidates are not used" in counts.lines()


def test_c3_test_files_without_answers_keep_the_ids_that_a_contest_asks_for(tmp_path: Path) -> None:
    test = [[["說話。"], [{"id": 12, "question": "？", "choice": ["甲", "乙"]}], "d-1"]]
    counts, data = converted(tmp_path, train=C3_D, valid=C3_M, test=test)
    assert [(row.id, len(row.paragraphs), row.relevant) for row in data.test] == [("12", 2, None)]
    assert counts.answers == {"option": 3, "unlabelled": 1}


@pytest.mark.parametrize("layout", [hub_c3, hub_clue_c3])
def test_c3_is_read_with_the_columns_of_the_hub(tmp_path: Path, layout: Callable[..., Any]) -> None:
    _, data = converted(tmp_path, train=layout(C3_D), valid=layout(C3_M), test=layout(C3_TEST, answers=False))
    assert data.train[0].question == C3_QUESTION
    ids = [row.id for row in (*data.train, *data.valid, *data.test)]
    assert len(set(ids)) == len(ids) == 4
    assert [row.relevant is None for row in (*data.valid, *data.test)] == [False, True]


def test_a_hub_source_with_columns_of_c3_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, texts = [], {"train": C3_D, "validation": C3_M, "test": C3_TEST}

    def rows(name: str, split: str, config: str | None = None) -> list[dict[str, Any]]:
        asked.append((name, config, split))
        return hub_clue_c3(texts[split], answers=split != "test")

    monkeypatch.setattr("jobs.dataset.corpora.hub_rows", rows)
    source = ["hub:clue/clue:c3"]
    convert({"train": source, "valid": source, "test": source}, tmp_path / "out")
    assert asked == [("clue/clue", "c3", split) for split in ("train", "validation", "test")]
    assert read_data(str(tmp_path / "out")).options


@pytest.mark.parametrize("layout", [hub_c3, hub_clue_c3])
def test_c3_is_read_as_datasets_loads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Callable[..., Any]
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name, texts in {"train": C3_D, "validation": C3_M}.items():
        (tmp_path / "hub").mkdir(exist_ok=True)
        datasets.Dataset.from_list(layout(texts)).to_parquet(tmp_path / f"hub/{name}.parquet")
    source = [f"hub:{tmp_path}/hub"]
    convert({"train": source, "valid": source}, tmp_path / "out")
    assert [len(row.paragraphs) for row in read_data(str(tmp_path / "out")).train] == [3, 2]


@pytest.mark.parametrize(
    ("choice", "answer", "reason"),
    [
        (["甲", "乙"], "丙", "answer not among its options"),
        (["甲", "乙"], "A", "answer not among its options"),
        (["甲", "甲"], "甲", "equal options"),
        (["甲", "乙", " 甲"], "乙", "equal options"),
        (["甲"], "甲", "fewer than 2 options"),
        ([], "甲", "fewer than 2 options"),
        (list("甲乙丙丁戊己庚辛壬"), "甲", "more than 8 options"),
        (["甲", ""], "甲", "option: empty text"),
        (["甲", "乙"], "", "no answer"),
        (["甲", "乙"], None, "no answer"),
    ],
)
def test_questions_whose_options_are_unusable_are_dropped_and_counted(
    tmp_path: Path, choice: list[str], answer: str | None, reason: str
) -> None:
    bad = {"question": "？", "choice": choice, "answer": answer}
    counts, data = converted(tmp_path, train=[*C3_D, [["一句。"], [bad], "x"]], valid=C3_M)
    assert counts.dropped == {reason: 1}
    assert len(data.train) == 2


def test_options_are_stripped_and_so_is_the_answer(tmp_path: Path) -> None:
    text = [["一句。"], [{"question": "？", "choice": [" 甲", "乙\n"], "answer": "乙 "}], "x"]
    _, data = converted(tmp_path, train=[text], valid=C3_M)
    assert (data.paragraphs[data.train[0].relevant or 0], data.train[0].answer) == ("乙", "乙")


@pytest.mark.parametrize("answer", [{"answers": "乙"}, {"answers": ["乙"]}, {"answer_text": "乙"}])
def test_the_answer_of_a_multiple_choice_question_may_have_another_key(tmp_path: Path, answer: dict[str, Any]) -> None:
    row = {"id": 1, "passage": "一句。", "query": "？", "options": ["甲", "乙"], **answer}
    counts, data = converted(tmp_path, train=[row], valid=C3_M)
    assert (data.train[0].question, data.train[0].answer) == ("一句。\n？", "乙")
    assert counts.renamed == {
        "`query` as `question`": 1,
        f"`{min(answer)}` as `answer`": 1,
        "`passage` as `context`": 1,
    }


def test_a_share_of_c3_takes_whole_texts(tmp_path: Path) -> None:
    texts = [
        [[f"第{n}篇。"], [{"question": f"{m}？", "choice": ["是", "不是"], "answer": "是"} for m in range(3)], f"t{n}"]
        for n in range(10)
    ]
    path = write(tmp_path, "all", texts)
    convert({"train": [path]}, tmp_path / "out", valid_share=0.3)
    data = read_data(str(tmp_path / "out"))
    train, valid = ({row.question.split("。")[0] for row in rows} for rows in (data.train, data.valid))
    assert len(valid) == 3
    assert not train & valid


def test_questions_with_and_without_options_are_not_mixed(tmp_path: Path) -> None:
    assert "both multiple-choice questions and others" in refused(tmp_path, train=C3_D, valid=cmrc("b"))


def test_the_kind_of_a_set_is_no_part_of_its_fingerprint_and_another_origin_file_is_ignored(tmp_path: Path) -> None:
    _, data = converted(tmp_path, train=C3_D, valid=C3_M)
    for text in ("{", "[]", '{"kind": "else"}', '"options"'):
        (tmp_path / "out/origin.json").write_text(text)
        again = read_data(str(tmp_path / "out"))
        assert (again.options, again.fingerprint) == (False, data.fingerprint)


KEYS: list[tuple[str, Change, str]] = [
    ("a string", lambda row: row.update(answer="南投縣"), "`answer` as `answers`"),
    ("an object", lambda row: row.update(answer={"text": "南投縣", "answer_start": 4}), "`answer` as `answers`"),
    ("a list", lambda row: row.update(answer=["南投縣"]), "`answer` as `answers`"),
    ("a list of objects", lambda row: row.update(answer=[{"text": "南投縣", "start": 4}]), "`answer` as `answers`"),
    ("two lists", lambda row: row.update(answer={"text": ["南投縣"], "answer_start": [4]}), "`answer` as `answers`"),
    ("start beside", lambda row: row.update(answer="南投縣", answer_start=4), "`answer` as `answers`"),
    ("text and start", lambda row: row.update(answer_text="南投縣", answer_start=4), "`answer_text` as `answers`"),
    ("empty beside", lambda row: row.update(answers=[], answer="南投縣"), "`answer` as `answers`"),
    ("twice the same", lambda row: row.update(answer="南投縣", answer_text="南投縣"), "`answer` as `answers`"),
    ("paragraph", lambda row: row.update(answers=["南投縣"], paragraph=row.pop("context")), "`paragraph` as `context`"),
    ("passage", lambda row: row.update(answers=["南投縣"], passage=row.pop("context")), "`passage` as `context`"),
    ("query", lambda row: row.update(answers=["南投縣"], query=row.pop("question")), "`query` as `question`"),
    ("context_title", lambda row: row.update(answers=["南投縣"], context_title="湖"), "`context_title` as `title`"),
]


def rows_of(change: Change) -> list[dict[str, Any]]:
    rows = [{"id": str(n), "context": f"日月潭在南投縣{n}。", "question": "在哪？"} for n in range(2)]
    for row in rows:
        change(row)
    return rows


@pytest.mark.parametrize(("change", "told"), [case[1:] for case in KEYS], ids=[case[0] for case in KEYS])
def test_a_key_of_another_name_is_read_and_told(tmp_path: Path, change: Change, told: str) -> None:
    counts, data = converted(tmp_path, train=rows_of(change), valid=cmrc("b"))
    assert [row.answer for row in data.train] == ["南投縣"] * 2
    assert f"read: 2 {told}" in counts.lines()


@pytest.mark.parametrize(
    "beside",
    [
        {"answer": "南", "answer_start": 7},
        {"answer_text": ["南"], "answer_start": [7]},
        {"answers": ["南"], "answer_start": [7]},
        {"answers": {"text": ["南"], "start": [7]}},
        {"answers": {"text": "南", "start": 7}},
    ],
)
def test_starts_beside_answers_are_read(tmp_path: Path, beside: dict[str, Any]) -> None:
    _, data = converted(
        tmp_path, train=rows_of(lambda row: row.update(beside, context=f"南投縣在台灣，南{row['id']}")), valid=cmrc("b")
    )
    assert [row.start for row in data.train] == [7, 7]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda row: row.update(answer=3), "[0]: `answer` found, `answers` wanted; write [{"),
        (lambda row: row.update(answer="南", answer_text="投"), "`answer` and `answer_text` found, `answers` wanted"),
        (lambda row: row.update(anwsers=["南"]), "2 no answer: `anwsers` found, `answers` wanted"),
        (lambda row: row.update(gold_answer=[{"text": "南"}]), "2 no answer: `gold_answer` found, `answers` wanted"),
        (lambda row: row.update(Answers=["南"]), "2 no answer: `Answers` found, `answers` wanted"),
        (lambda row: row.update(contxt=row.pop("context")), "[0].context: missing; found: id, question, contxt"),
        (
            lambda row: row.update(paragraph="a", passage=row.pop("context")),
            "[0].context: missing; found: id, question",
        ),
    ],
)
def test_a_key_that_is_not_read_is_named_with_the_one_that_is_wanted(tmp_path: Path, change: Change, line: str) -> None:
    assert line in refused(tmp_path, train=rows_of(change), valid=cmrc("b"))

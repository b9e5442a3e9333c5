"""Every published shape gives the same questions, and what has no shape is named by its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.dataset.corpora import Asked, Reference, hub_rows, read_corpus
from jobs.dataset.data import DataError
from tests.support.corpora import CMRC, DRCD, ROWS, SQUAD, TEXT


def write(folder: Path, content: Any, name: str = "corpus.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8-sig")
    return path


def mistakes(source: str | Path) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        read_corpus(source)
    return caught.value.lines


@pytest.mark.parametrize(
    ("content", "start", "place"),
    [
        (SQUAD, 4, "data[0].paragraphs[0].qas[0]"),
        (DRCD, 4, "data[0].paragraphs[0].qas[0]"),
        (CMRC, None, "[0].qas[0]"),
        ({"data": CMRC}, None, "data[0].qas[0]"),
        (ROWS, 4, "[0]"),
    ],
    ids=["squad", "drcd", "cmrc2018", "cmrc2018 under data", "rows"],
)
def test_every_published_shape_gives_the_same_question(
    tmp_path: Path, content: Any, start: int | None, place: str
) -> None:
    path = write(tmp_path, content)
    (asked,) = read_corpus(path)
    assert asked.place == f"{path}: {place}"
    assert (asked.article, asked.paragraph, asked.id, asked.question) == ("日月潭", TEXT, "a", "在哪？")
    assert asked.references == (Reference(text="南投縣", answer_start=start),)  # type: ignore[call-arg]


def only(tmp_path: Path, **changes: Any) -> Asked:
    (asked,) = read_corpus(write(tmp_path, [{**ROWS[0], **changes}]))
    return asked


def test_a_question_without_an_answer_is_read_as_such(tmp_path: Path) -> None:
    assert only(tmp_path, answers=[]).references == ()
    assert only(tmp_path, answers={"text": [], "answer_start": []}).references == ()
    assert only(tmp_path, answers=None).references == ()


def test_a_paragraph_without_a_title_is_an_article_of_its_own(tmp_path: Path) -> None:
    assert only(tmp_path, title=None).article == TEXT
    assert only(tmp_path, title="").article == TEXT


def test_a_number_may_be_an_id(tmp_path: Path) -> None:
    assert only(tmp_path, id=7).id == "7"


def test_text_is_read_as_it_stands(tmp_path: Path) -> None:
    text = "\ufeffＡ１\r\n🎉e\u0301「南投縣」\u200b"
    assert only(tmp_path, context=text).paragraph == text


BROKEN: list[tuple[str, Any, str]] = [
    ("a word", "SQuAD", "top level, or `data` in it: a list is expected"),
    ("an object", {"version": "1.1"}, "top level, or `data` in it: a list is expected"),
    ("data an object", {"data": {}}, "data: a list is expected"),
    ("no questions", {"data": []}, "no questions; at least one is needed"),
    ("a number for an article", {"data": [3]}, "data[0]: an object is expected"),
    ("no context", {"data": [{"paragraphs": [{"qas": []}]}]}, "data[0].paragraphs[0].context: missing"),
    ("context a number", [{"context": 3, "qas": []}], "[0].context: text is expected"),
    (
        "one start for a list",
        [{**ROWS[0], "answers": {"text": ["湖"], "answer_start": True}}],
        "answer_start: a list is",
    ),
    (
        "context of 1 MB",
        [{"context": "湖" * 350_000, "qas": []}],
        "[0].context: at most 100,000 characters are allowed",
    ),
    ("no id", [{"context": TEXT, "qas": [{"question": "？"}]}], "[0].qas[0].id: missing"),
    ("no question", [{"context": TEXT, "qas": [{"id": "a"}]}], "[0].qas[0].question: missing"),
    ("no row", [{"id": "a"}], "[0].context: missing"),
    ("qas an object", [{"context": TEXT, "qas": {}}], "[0].qas: a list is expected"),
    ("answers a string", [{**ROWS[0], "answers": "南投縣"}], "[0].answers: a list is expected"),
    ("an answer a number", [{**ROWS[0], "answers": [3]}], "[0].answers[0]: an object is expected"),
    ("an answer without text", [{**ROWS[0], "answers": [{"answer_start": 4}]}], "[0].answers[0].text: missing"),
    ("start a word", [{**ROWS[0], "answers": [{"text": "南", "answer_start": "x"}]}], "[0].answers[0].answer_start:"),
    ("columns of two lengths", [{**ROWS[0], "answers": {"text": ["南"], "answer_start": [4, 5]}}], "1 of text and 2"),
]


@pytest.mark.parametrize(("content", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_what_has_no_shape_is_named(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path, content)
    lines = mistakes(path)
    assert all(line.startswith(f"{path}: ") for line in lines)
    assert message in "\n".join(lines)


def test_all_mistakes_are_told_at_once_and_many_are_cut_short(tmp_path: Path) -> None:
    assert len(mistakes(write(tmp_path, [{"id": "a"}] * 3))) == 6
    assert mistakes(write(tmp_path, [{"id": "a"}] * 30))[-1] == "… and 40 more"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert mistakes(tmp_path / "nowhere.json") == (f"{tmp_path}/nowhere.json: No such file or directory",)
    path = write(tmp_path, SQUAD)
    path.write_bytes(path.read_bytes()[:-9])
    assert "is the file complete?" in mistakes(path)[0]


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that `datasets` loads as it loads one of the hub."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub"
    folder.mkdir()
    datasets.Dataset.from_list(ROWS).to_parquet(folder / "validation.parquet")
    return folder


def test_a_data_set_of_the_hub_is_read_by_name_and_split(local_hub: Path) -> None:
    for asked in (read_corpus(f"hub:{local_hub}@validation"), read_corpus(f"hub:{local_hub}", "valid")):
        assert [(row.id, row.paragraph, row.references[0].start) for row in asked] == [("a", TEXT, 4)]


def test_what_the_hub_does_not_give_is_one_line(local_hub: Path) -> None:
    (line,) = mistakes(f"hub:{local_hub}@train")
    assert line.startswith(f"hub:{local_hub}@train: cannot be loaded: ")
    assert line.endswith("or give a JSON file")


def test_without_a_network_the_hub_is_one_line() -> None:
    with pytest.raises(DataError) as caught:
        hub_rows("hfl/cmrc2018", "validation")
    (line,) = caught.value.lines
    assert line.startswith("hub:hfl/cmrc2018@validation: cannot be loaded: ")
    assert "network" in line

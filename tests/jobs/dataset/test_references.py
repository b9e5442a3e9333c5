"""Which answers count as right: those of references.json, else the question's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.dataset.data import DataError, read_data, references
from jobs.metrics import mean_scores

ROW = {"question": "在哪裡？", "paragraphs": [0, 1], "relevant": 0, "answer": {"text": "南投縣", "start": 4}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    content = {
        "context": ["日月潭在南投縣。", "阿里山在嘉義縣。"],
        "train": [{"id": "a", **ROW}],
        "valid": [{"id": "b", **ROW}],
        "test": [{"id": "c", "question": "多高？", "paragraphs": [1, 0]}],
    }
    for name, value in content.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return tmp_path


def write(folder: Path, value: Any) -> Path:
    path = folder / "references.json"
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8-sig")
    return path


def test_without_a_file_each_question_has_its_own_answer(folder: Path) -> None:
    assert references(read_data(str(folder))) == {"a": ["南投縣"], "b": ["南投縣"]}


def test_a_file_adds_answers_and_those_of_the_test_set(folder: Path) -> None:
    write(folder, {"b": ["南投縣", "南投"], "c": {"references": ["2,481公尺"], "article": "阿里山"}})
    found = references(read_data(str(folder)))
    assert found == {"a": ["南投縣"], "b": ["南投縣", "南投"], "c": ["2,481公尺"]}
    assert mean_scores(["南投"], [found["b"]])["exact_match"] == 1


def test_a_file_elsewhere_is_read_when_it_is_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    write(folder, {"b": ["南投縣", "南投"]})
    other = write(tmp_path_factory.mktemp("elsewhere"), {"b": ["南投縣", "投縣"]})
    assert references(read_data(str(folder)), other)["b"] == ["南投縣", "投縣"]


def test_the_sample_has_one_answer_for_each_question() -> None:
    found = references(read_data("sample"))
    assert len(found) > 2000
    assert {len(answers) for answers in found.values()} == {1}


BROKEN: list[tuple[str, Any, str]] = [
    ("a list", [["南投縣"]], "references.json: holds a list; an object is expected"),
    ("another data set's", {"x": ["南投"]}, "id 'x' is not a question of this data set; remove it"),
    ("no answer", {"b": []}, "id 'b': a list of answers is expected"),
    ("an empty answer", {"b": ["南投", " "]}, "none of them empty"),
    ("a bare answer", {"b": "南投"}, "id 'b': a list of answers"),
    ("a number", {"b": [1895]}, "id 'b': a list of answers"),
    ("an object without references", {"b": {"answers": ["南投"]}}, "id 'b': a list of answers"),
]


@pytest.mark.parametrize(("content", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_file_is_named(folder: Path, content: Any, message: str) -> None:
    write(folder, content)
    with pytest.raises(DataError, match=message) as caught:
        references(read_data(str(folder)))
    assert len(caught.value.lines) == 1


def test_a_file_that_is_not_json_or_not_there_is_named(folder: Path) -> None:
    (folder / "references.json").write_text('{"b": [', encoding="utf-8")
    with pytest.raises(DataError, match=r"references\.json:1: not JSON") as caught:
        references(read_data(str(folder)))
    assert len(caught.value.lines) == 1
    (folder / "references.json").unlink()
    with pytest.raises(DataError, match=r"elsewhere\.json: No such file"):
        references(read_data(str(folder)), folder / "elsewhere.json")


def test_the_references_of_real_sets_hold_each_answer(shared: Path) -> None:
    location = str(shared / "data/drcd_small")
    own, given = references(read_data(location)), references(read_data(location), shared / "data/drcd_small/meta.json")
    assert all(answer in given[key] for key, (answer,) in own.items())
    assert sum(len(answers) for answers in given.values()) > len(given) > len(own)


def test_other_references_are_other_data(folder: Path) -> None:
    without = read_data(str(folder)).fingerprint
    write(folder, {"b": ["南投縣", "南投"]})
    one = read_data(str(folder)).fingerprint
    write(folder, {"b": ["南投縣", "投縣"]})
    assert len({without, one, read_data(str(folder)).fingerprint}) == 3

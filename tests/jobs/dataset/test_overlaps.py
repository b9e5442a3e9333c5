"""What two splits have in common is counted and told, with an example and a warning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jobs.dataset.convert import convert
from jobs.dataset.data import Data, Question
from jobs.dataset.overlaps import find_overlap
from tests.support.commands import invoke
from tests.support.published import C3_D, C3_M

CONTEXT = ("日月潭在南投縣。", "玉山在南投縣。", "淡水在新北市。", "淡水在\u3000新北市。\n", "綠島在海上。")
SHARED = "warning: scores would be too good, because splits share texts; keep each text in one split"


def asked(key: str, question: str, *paragraphs: int, relevant: int | None = None) -> Question:
    return Question(key, question, paragraphs, relevant)


def lines_of(*, options: bool = False, **splits: list[Question]) -> list[str]:
    data = Data("-", CONTEXT, (), (), (), options=options)
    return find_overlap(data, splits).lines()


def test_splits_with_nothing_in_common_are_not_mentioned() -> None:
    assert (
        lines_of(train=[asked("a", "在哪？", 0, 1, relevant=0)], valid=[asked("b", "哪裡？", 2, 4, relevant=2)]) == []
    )


def test_a_question_about_other_paragraphs_is_counted_without_a_warning() -> None:
    assert lines_of(train=[asked("a", "在哪？", 0, 1, relevant=0)], valid=[asked("b", "在哪？", 2, 4, relevant=2)]) == [
        "questions in more than one split: 1; for example '在哪？' in train (id 'a') and valid (id 'b')"
    ]


def test_a_question_about_the_same_paragraph_and_the_paragraph_are_warned_of() -> None:
    lines = lines_of(
        train=[asked("a", "幾人？", 4, 1, relevant=4), asked("b", "在哪？", 0, 1, relevant=0)],
        valid=[asked("c", "幾人？", 3, 2, relevant=2)],
        test=[asked("d", " 在哪? ", 0, 2)],
    )
    assert lines == [
        "questions in more than one split: 2, 1 of them about the same paragraph;"
        " for example '在哪？' in train (id 'b') and test (id 'd')",
        "shared paragraphs: 2 are in more than one split",  # 0, and 2 with its copy 3
        SHARED,
    ]


def test_paragraphs_alone_are_warned_of() -> None:
    lines = lines_of(valid=[asked("a", "在哪？", 2, 4, relevant=4)], test=[asked("b", "幾人？", 3, 0)])
    assert lines == ["shared paragraphs: 1 are in more than one split", SHARED]


def test_of_multiple_choice_questions_the_texts_in_front_count_and_the_options_do_not() -> None:
    def both(text: str) -> list[str]:
        train, valid = asked("a", "一篇。\n誰？", 0, 1, relevant=0), asked("b", f"{text}\n何時？", 0, 1, relevant=1)
        return lines_of(options=True, train=[train], valid=[valid])

    assert both("另一篇。") == []
    assert both("一篇。") == ["shared paragraphs: 1 are in more than one split", SHARED]


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_data_check_tells_it_in_text_and_as_json(tmp_path: Path) -> None:
    rows = [
        {
            "id": split,
            "question": "在哪？",
            "paragraphs": [0, 1],
            "relevant": 0,
            "answer": {"text": "南投縣", "start": 4},
        }
        for split in ("train", "valid")
    ]
    for name, content in {"context": CONTEXT, "train": rows[:1], "valid": rows[1:]}.items():
        written(tmp_path, name, content)
    done = invoke("data", "check", str(tmp_path))
    assert done.exit_code == 0
    assert done.stdout.endswith(SHARED + "\n")
    found = json.loads(invoke("data", "check", str(tmp_path), "--json").stdout)
    assert (found["shared_questions"], found["shared_paragraphs"], found["warnings"]) == (1, 2, [SHARED])
    assert found["overlap"]["example"] == "'在哪？' in train (id 'train') and valid (id 'valid')"


def test_data_check_describes_multiple_choice_questions(tmp_path: Path) -> None:
    convert({"train": [written(tmp_path, "t", C3_D)], "valid": [written(tmp_path, "v", C3_M)]}, tmp_path / "out")
    done = invoke("data", "check", str(tmp_path / "out"))
    assert "multiple-choice questions: the paragraphs are options; only job mc trains on them" in done.stdout
    assert "paragraphs of a question: 2 (1), 3 (1), 4 (1)" in done.stdout
    assert "relevant paragraph picked by BM25: train 100.0%, valid 100.0%" in done.stdout
    assert "split" not in done.stdout
    found = json.loads(invoke("data", "check", str(tmp_path / "out"), "--json", "--tokenizer", "scratch:1x8x1").stdout)
    assert found["options"] is True
    assert found["tokens"]["coverage"]["characters"] > 60  # the dialogue counts; all options have 35


def test_options_without_a_word_about_it_are_noticed(tmp_path: Path) -> None:
    convert({"train": [written(tmp_path, "t", C3_D)], "valid": [written(tmp_path, "v", C3_M)]}, tmp_path / "out")
    hint = "every answer is a whole paragraph; if the paragraphs are options of multiple-choice questions, write"
    assert hint not in invoke("data", "check", str(tmp_path / "out")).stdout
    (tmp_path / "out/origin.json").unlink()
    assert hint in invoke("data", "check", str(tmp_path / "out")).stdout
    assert hint not in invoke("data", "check", "sample").stdout

from __future__ import annotations

import csv
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.answering import submission
from jobs.answering.answers import Answer
from jobs.dataset.data import Data, DataError, Question, read_unlabelled
from tests.support.limits import ending_of, killed_at, largest_file

PARAGRAPHS = ("玉山高3,952公尺，=是最高峰。", '他說："早安"，\n然後走了。', "日月潭在南投。")
ROWS = (Question("a", "多高？", (0, 1)), Question("b", "說什麼？", (1, 2)))
DATA = Data("-", PARAGRAPHS, (), (), ROWS)
GOOD = [Answer("a", 0, 3, "3,952公尺", 1.0), Answer("b", 1, 3, '"早安"，\n然後', 1.0)]


def test_a_good_submission_stays_and_survives_the_file(tmp_path: Path) -> None:
    assert submission.corrected_answers(DATA, ROWS, GOOD) == (GOOD, ())
    path = tmp_path / "submission.csv"
    submission.write_submission(path, submission.submission_csv(GOOD))
    assert path.read_text(encoding="utf-8").startswith("id,answer\n")
    assert submission.read_answers(path) == {answer.id: answer.text for answer in GOOD}


A, B = GOOD
OPENING = PARAGRAPHS[1]  # it has more of the question's characters than the other paragraph of b


@pytest.mark.parametrize(
    ("answers", "texts", "told"),
    [
        ([B], [PARAGRAPHS[0], B.text], "no answer, given text of a paragraph: 1 ('a')"),
        ([A], [A.text, OPENING], "no answer, given text of a paragraph: 1 ('b')"),
        ([B, A], [A.text, B.text], "the answers were in another order than the questions"),
        ([A, B, B._replace(text="他")], [A.text, B.text], "answered more than once, the first answer stays: 1 ('b')"),
        ([A, B, A._replace(id="z")], [A.text, B.text], "not a question of this test, left out: 1 ('z')"),
        ([A._replace(text=" \u200b"), B], [PARAGRAPHS[0], B.text], "empty answer, given text of a paragraph: 1 ('a')"),
        ([A._replace(text=""), B], [PARAGRAPHS[0], B.text], "empty answer, given text of a paragraph: 1 ('a')"),
        (
            [A._replace(text="\u3000公尺\ufeff", start=7), B],
            ["公尺", B.text],
            "white space at an answer's end, removed: 1 ('a')",
        ),
        (
            [A._replace(text="南投", start=2), B],
            ["高3", B.text],
            "answer in none of the question's paragraphs, given text of one: 1 ('a')",
        ),
        (
            [A, B._replace(text="玉", paragraph=0, start=0)],
            [A.text, OPENING],
            "answer in none of the question's paragraphs, given text of one: 1 ('b')",
        ),
        (
            [A._replace(text="南投", start=99), B],
            [PARAGRAPHS[0], B.text],
            "answer in none of the question's paragraphs, given text of one: 1 ('a')",
        ),
    ],
)
def test_what_a_contest_would_refuse_is_corrected_and_told(answers: list[Answer], texts: list[str], told: str) -> None:
    found, lines = submission.corrected_answers(DATA, ROWS, answers)
    assert [(answer.id, answer.text) for answer in found] == list(zip("ab", texts, strict=True))
    assert lines == (f"corrected: {told}",)
    assert all(DATA.paragraphs[one.paragraph][one.start :].startswith(one.text) for one in found)


def test_without_any_text_in_the_paragraphs_the_question_stands_in() -> None:
    data = Data("-", ("\u200b", "\ufeff\t"), (), (), (Question("a", "  多高？ ", (0, 1)),))
    found, lines = submission.corrected_answers(data, data.test, [Answer("a", 0, 0, "", 1.0)])
    assert ([answer.text for answer in found], lines) == (
        ["多高？"],
        ("corrected: no paragraph has text, given the question: 1 ('a')",),
    )


def test_many_corrections_of_a_kind_are_one_line_with_examples() -> None:
    rows = tuple(Question(f"q{n}", "多高？", (0, 1)) for n in range(9))
    _, lines = submission.corrected_answers(DATA, rows, [])
    assert lines == ("corrected: no answer, given text of a paragraph: 9 ('q0', 'q1', 'q2', …)",)


ANSWER = st.builds(
    Answer, st.sampled_from("abz"), st.integers(0, 2), st.integers(0, 30), st.text("玉山 \n\u200b南投高"), st.just(0.0)
)


@given(st.lists(ANSWER, max_size=5))
def test_any_answers_become_a_submission_with_nothing_left_to_correct(answers: list[Answer]) -> None:
    found, _ = submission.corrected_answers(DATA, ROWS, answers)
    assert submission.corrected_answers(DATA, ROWS, found) == (found, ())


TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1)


@given(st.dictionaries(TEXT, TEXT, min_size=1))
@example({"a": "湖\r山", "b\r": "\r\n"})
def test_any_text_is_read_back_as_it_was(answers: dict[str, str]) -> None:
    text = submission.submission_csv([Answer(key, 0, 0, value, 0.0) for key, value in answers.items()])
    assert dict(list(csv.reader(io.StringIO(text, newline="")))[1:]) == answers  # type: ignore[arg-type]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "submission.csv"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        submission.write_submission(path, "new")
    assert [one.name for one in tmp_path.iterdir()] == ["submission.csv"]
    assert path.read_text() == "old"


def test_a_solution_is_scored_by_id_and_by_profile() -> None:
    scores = submission.score_submission({"b": "湖", "a": "山"}, {"a": "山", "b": "湖邊"})
    assert scores == pytest.approx({"exact_match": 0.5, "f1": 5 / 6})
    assert submission.score_submission({"a": "《山》"}, {"a": "山"}, "drcd")["exact_match"] == 1.0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id,text\na,b\n", "submission.csv:1: the header is 'id,text'"),
        ("", "submission.csv:1: the header is ''"),
        ("x" * 5_000, "submission.csv:1: the header is 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…;"),
        ("id,answer\na,b,c\n", "submission.csv:2: 3 columns; the header has 2"),
        ("id,answer\na,b\na,c\n", "submission.csv:3: id 'a' occurs twice"),
        ('id,answer\na,"b\n' + "c,d\n" * 40_000, "submission.csv:32770: field larger than field limit (131072); close"),
        ("id,answer,answer\na,b,c\n", "submission.csv:1: the column answer occurs twice; keep one"),
        ('id,answer\na,"b\nc,d\n', "submission.csv:3: unexpected end of data; close the quotation mark before it"),
        ('id,answer\na,b\nc,"d', "submission.csv:3: unexpected end of data; close"),
        (
            'id,answer\na,"台"灣"\n',
            "submission.csv:2: ',' expected after '\"'; close the quotation mark before it, and",
        ),
    ],
)
def test_a_broken_file_is_told_with_its_line(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "submission.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        submission.read_answers(path)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"id": "a", "answer": {"text": 1919}}], "row 0: id and answer must be text"),
        ([{"id": "a", "answer": {"text": "山"}}, {"id": 7, "answer": {"text": "湖"}}], "row 1: id and answer must be"),
        ([{"id": "a", "answer": {"text": None}}], "row 0: id and answer must be text"),
        ([{"id": "a", "answer": {"text": "山"}}, {"id": "a", "answer": {"text": "湖"}}], "id 'a' occurs twice; keep"),
        ([{"id": ["a"], "answer": {"text": "山"}}], "row 0: id and answer must be text"),
        ([{"id": "a", "answer": "山"}], "a list of questions with id and answer is expected"),
    ],
)
def test_a_solution_in_json_that_is_no_list_of_texts_is_refused(tmp_path: Path, rows: list[Any], told: str) -> None:
    path = tmp_path / "test_labels.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(DataError, match=told):
        submission.read_answers(path)


def test_other_columns_and_a_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "solution.csv"
    path.write_text('id,answer,Usage\r\na,"3,952",Public\r\n', encoding="utf-8-sig", newline="")
    assert submission.read_answers(path) == {"a": "3,952"}


@pytest.mark.parametrize(
    "content",
    [
        "id,answer\na,山\nb,湖\n\n",
        "\n\nid,answer\n\na,山\n   \nb,湖",
        "id,answer\r\na,山\r\n\r\nb,湖\r\n\r\n",
        "id,answer\ra,山\r\rb,湖\r",
        "id,answer\r\r\na,山\r\r\nb,湖\r\r\n",
        "id,answer\na,山\n\u3000\t\nb,湖\n,\n,,\n",
        "\ufeffanswer,id\n山,a\n\n湖,b\n\n",
    ],
    ids=["last", "first, between, white space", "CRLF", "CR", "CR CRLF", "blank cells", "columns in another order"],
)
def test_blank_lines_of_a_file_are_no_rows(tmp_path: Path, content: str) -> None:
    path = tmp_path / "submission.csv"
    path.write_text(content, encoding="utf-8", newline="")
    assert submission.read_answers(path) == {"a": "山", "b": "湖"}


def test_a_blank_line_inside_quotation_marks_belongs_to_the_answer_and_lines_are_still_counted(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    path.write_text('id,answer\n\na,"山\n\n湖"\n\nb\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"submission\.csv:7: 1 columns; the header has 2"):
        submission.read_answers(path)
    path.write_text('id,answer\n\na,"山\n\n湖"\n\n', encoding="utf-8")
    assert submission.read_answers(path) == {"a": "山\n\n湖"}


def test_a_file_of_blank_lines_has_no_header(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    path.write_text("\n \n\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"submission\.csv:1: the header is ''"):
        submission.read_answers(path)


def test_ids_must_be_those_of_the_solution() -> None:
    with pytest.raises(DataError, match="id 'b' of the solution is missing"):
        submission.score_submission({"a": "山"}, {"a": "山", "b": "湖"})
    with pytest.raises(DataError, match="id 'c' is not in the solution"):
        submission.score_submission({"a": "山", "c": "海"}, {"a": "山"})


def test_questions_to_be_answered_are_read_from_two_files(tmp_path: Path) -> None:
    context, test = tmp_path / "c.json", tmp_path / "t.json"
    context.write_text('["玉山高。", "日月潭。"]', encoding="utf-8")
    test.write_text('[{"id": "a", "question": "？", "paragraphs": [0, 1]}]', encoding="utf-8")
    assert read_unlabelled(context, test).test == (Question("a", "？", (0, 1)),)
    hidden = '[{"id": "a", "question": "？", "paragraphs": [0, 1], "relevant": null, "answer": null}]'
    test.write_text(hidden, encoding="utf-8")
    assert read_unlabelled(context, test).test == (Question("a", "？", (0, 1)),)
    test.write_text('[{"id": "a", "question": "？", "paragraphs": [0, 7]}]', encoding="utf-8")
    with pytest.raises(DataError, match=r"t\.json: row 0 \(id 'a'\): paragraphs: 7 is not in context\.json"):
        read_unlabelled(context, test)
    test.write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match="no questions; at least one is needed"):
        read_unlabelled(context, test)


def test_an_empty_paragraph_of_a_contest_does_not_keep_its_questions_from_being_answered(tmp_path: Path) -> None:
    context, test = tmp_path / "c.json", tmp_path / "t.json"
    context.write_text('["玉山高。", "", " \u3000"]', encoding="utf-8")
    test.write_text('[{"id": "a", "question": "？", "paragraphs": [1, 0, 2]}]', encoding="utf-8")
    data = read_unlabelled(context, test)
    assert data.paragraphs == ("玉山高。", "", " \u3000")
    found, _ = submission.corrected_answers(data, data.test, [Answer("a", 1, 0, "", 1.0)])
    assert [answer.text for answer in found] == ["玉山高。"]
    context.write_text('["玉山高。", "\\ud83c"]', encoding="utf-8")
    with pytest.raises(DataError, match="row 1: half a surrogate pair"):
        read_unlabelled(context, test)


TEXT_OF_ALL = submission.submission_csv(GOOD)


def test_a_disk_that_is_full_after_any_byte_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    path.write_text("old")
    size = len(TEXT_OF_ALL.encode())
    for room in range(size):
        with largest_file(room), pytest.raises(OSError, match=r"submission\.csv"):
            submission.write_submission(path, TEXT_OF_ALL)
        assert path.read_text() == "old"
    with largest_file(size):
        submission.write_submission(path, TEXT_OF_ALL)
    assert path.read_text(encoding="utf-8") == TEXT_OF_ALL
    assert [one.name for one in tmp_path.iterdir()] == ["submission.csv"]


@pytest.mark.parametrize("old", [None, "old"])
def test_a_writer_killed_after_any_byte_leaves_the_old_file(tmp_path: Path, old: str | None) -> None:
    """The system kills a process at the byte that its limit does not allow."""
    path = tmp_path / "submission.csv"
    if old:
        path.write_text(old)

    def write(room: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        with largest_file(room):
            submission.write_submission(path, TEXT_OF_ALL)

    size = len(TEXT_OF_ALL.encode())
    for room in range(size):
        assert ending_of(lambda room=room: write(room)) == -signal.SIGXFSZ
        assert (path.read_text() if path.exists() else None) == old
    assert ending_of(lambda: write(size)) == 0
    assert path.read_text(encoding="utf-8") == TEXT_OF_ALL
    assert [one.name for one in tmp_path.iterdir()] == ["submission.csv"]  # nor is anything left beside it


def test_a_writer_killed_before_the_name_changes_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    path.write_text("old")
    killed_at("submission.rename:1:kill", tmp_path / "log", lambda: submission.write_submission(path, TEXT_OF_ALL))
    assert path.read_text() == "old"
    submission.write_submission(path, TEXT_OF_ALL)
    assert path.read_text(encoding="utf-8") == TEXT_OF_ALL
    assert sorted(one.name for one in tmp_path.iterdir()) == ["log", "submission.csv"]


def test_what_other_writers_have_beside_it_stays(tmp_path: Path) -> None:
    other = tmp_path / ".submission.csv-2-abcdefgh.part"
    other.touch()
    submission.write_submission(tmp_path / "submission.csv", "new")
    assert other.exists()

"""An answer is kept where it stands, repaired where it can stand nowhere else, and dropped with its reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.dataset.corpora import Asked, Reference
from jobs.dataset.data import MAX_TEXT_CHARS
from jobs.dataset.labels import Labelled, label_answers
from jobs.features.blanks import text_span


def one(paragraph: str, *answers: tuple[str, int | None], **changes: str) -> Labelled | str:
    given = tuple(Reference(text=text, answer_start=start) for text, start in answers)  # type: ignore[call-arg]
    fields = {"place": "p", "origin": "o", "article": "a", "id": "1", "question": "？", **changes}
    (label,) = label_answers([Asked(paragraph=paragraph, references=given, **fields)])
    return label


FOUND: list[tuple[str, str, list[tuple[str, int | None]], tuple[str, int, str]]] = [
    ("where it is said to be", "台灣台灣", [("台灣", 2)], ("台灣", 2, "exact")),
    ("one too far", "在台灣", [("台灣", 2)], ("台灣", 1, "repaired")),
    ("counted in bytes", "日月潭在台灣", [("台灣", 12)], ("台灣", 4, "repaired (UTF-8 bytes)")),
    ("counted in UTF-16 units", "🎉🎉台灣", [("台灣", 4)], ("台灣", 2, "repaired (UTF-16 units)")),
    (
        "counted after a byte order mark",
        "\ufeff台灣",
        [("台灣", 0)],
        ("台灣", 1, "repaired (without the byte order mark)"),
    ),
    ("counted with LF for CRLF", "一\r\n台灣", [("台灣", 2)], ("台灣", 3, r"repaired (without \r)")),
    ("before the text", "在台灣", [("台灣", -1)], ("台灣", 1, "repaired")),
    ("past the end", "在台灣", [("台灣", 99)], ("台灣", 1, "repaired")),
    ("said nowhere", "在台灣", [("台灣", None)], ("台灣", 1, "located")),
    ("the second where it is said", "在台灣島", [("台灣", 0), ("台灣島", 1)], ("台灣島", 1, "exact")),
    ("the second alone in the text", "在台灣島", [("臺灣", 1), ("灣島", 0)], ("灣島", 2, "repaired")),
    ("full-width", "Ａ１２", [("１２", 1)], ("１２", 1, "exact")),
    ("with a line break", "甲\n乙", [("甲\n乙", 0)], ("甲\n乙", 0, "exact")),
]


@pytest.mark.parametrize(("paragraph", "answers", "expected"), [f[1:] for f in FOUND], ids=[f[0] for f in FOUND])
def test_an_answer_is_found(
    paragraph: str, answers: list[tuple[str, int | None]], expected: tuple[str, int, str]
) -> None:
    label = one(paragraph, *answers)
    assert isinstance(label, Labelled)
    assert (label.answer, label.start, label.found) == expected


LOST: list[tuple[str, str, list[tuple[str, int | None]], str]] = [
    ("twice, neither there", "台灣台灣", [("台灣", 1)], "answer several times in its paragraph, and not said where"),
    ("twice, said nowhere", "台灣台灣", [("台灣", None)], "answer several times in its paragraph, and not said where"),
    ("overlapping itself", "哈哈哈", [("哈哈", None)], "answer several times in its paragraph, and not said where"),
    ("nowhere", "在台灣", [("臺灣", 1)], "answer not in its paragraph"),
    ("half-width for full-width", "Ａ１２", [("12", 1)], "answer not in its paragraph"),
    ("empty", "在台灣", [("", 1)], "empty answer"),
    ("blank", "在 台灣", [(" ", 1)], "empty answer"),
    ("no answer", "在台灣", [], "no answer"),
    ("in an empty paragraph", "\u3000\n", [("\u3000", 0)], "empty text"),
    ("in a text too long", "台灣" + "湖" * MAX_TEXT_CHARS, [("台灣", 0)], "more than 100,000 characters"),
    ("beside a NUL", "台灣\0", [("台灣", 0)], "a NUL character"),
    ("beside half a character", "台灣\ud83c", [("台灣", 0)], "half a surrogate pair"),
]


@pytest.mark.parametrize(("paragraph", "answers", "reason"), [f[1:] for f in LOST], ids=[f[0] for f in LOST])
def test_an_answer_that_cannot_be_placed_is_dropped_with_its_reason(
    paragraph: str, answers: list[tuple[str, int | None]], reason: str
) -> None:
    assert one(paragraph, *answers) == reason


def test_an_empty_question_is_dropped() -> None:
    assert one("在台灣", ("台灣", 1), question=" ") == "empty text"
    assert isinstance(one("在台灣", ("台灣", 1)), Labelled)


def trimmed(text: str) -> str:
    return text[slice(*text_span(text, 0, len(text)))]


@pytest.mark.parametrize("text", [" 台灣\u3000", "台灣 ", "\u200b台灣", "\n 台灣"])
def test_blanks_at_the_ends_of_an_answer_are_removed(text: str) -> None:
    label = one(f"在{text}島", (text, 1))
    assert isinstance(label, Labelled)
    assert (label.answer, label.start, label.found) == ("台灣", 1 + text.index("台"), "exact")


TEXT = st.text(st.one_of(st.sampled_from("台灣１a，\r\n🎉 \ufeff\0"), st.characters()), max_size=8)


@given(TEXT, st.lists(st.tuples(TEXT, st.none() | st.integers(-3, 12)), max_size=3))
def test_a_kept_answer_always_stands_where_it_is_written_to_stand(
    paragraph: str, answers: list[tuple[str, int | None]]
) -> None:
    label = one(paragraph, *answers)
    if isinstance(label, Labelled):
        assert paragraph[label.start : label.start + len(label.answer)] == label.answer
        assert label.answer.replace("\r\n", "\n") in [trimmed(text).replace("\r\n", "\n") for text, _ in answers]
        assert label.answer == trimmed(label.answer) != ""


@given(st.text("台灣１🎉\r\n ", min_size=1, max_size=8), st.data())
def test_an_answer_where_it_is_said_to_be_is_always_kept(paragraph: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(paragraph) - 1))
    text = paragraph[start : data.draw(st.integers(start + 1, len(paragraph)))]
    label = one(paragraph, ("", None), (text, start))
    assert isinstance(label, Labelled) == bool(text.strip())
    if isinstance(label, Labelled):
        begin = start + len(text) - len(text.lstrip())
        assert (label.answer, label.start, label.found) == (text.strip(), begin, "exact")

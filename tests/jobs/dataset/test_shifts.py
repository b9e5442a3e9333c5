"""Starts that count other units than characters are understood if one rule explains all answers of a paragraph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jobs.dataset.corpora import Reference
from jobs.dataset.shifts import find_shift

EMOJI = "🎉在台灣，🎉也在台灣。𠮷野家\n台灣"


def reference(text: str, start: int | None) -> Reference:
    return Reference(text=text, answer_start=start)  # type: ignore[call-arg]


def utf16(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def utf8(text: str) -> int:
    return len(text.encode())


def places_of(paragraph: str, answers: list[tuple[str, int]], count: Callable[[str], int]) -> tuple[str, list[int]]:
    """Return the rule found for answers at known characters, with starts in other units, and the places it gives."""
    stated = [reference(text, count(paragraph[:start])) for text, start in answers]
    shift = find_shift(paragraph, stated)
    return (shift.kind, [shift.places[one][1] for one in stated]) if shift else ("", [])


@pytest.mark.parametrize(
    ("paragraph", "answers", "count", "kind"),
    [
        (EMOJI, [("台灣", 2), ("台灣", 8), ("野家", 12)], utf16, "UTF-16 units"),
        (EMOJI, [("台灣", 8)], utf16, "UTF-16 units"),
        (EMOJI, [("台灣", 2), ("台灣", 8)], utf8, "UTF-8 bytes"),
        ("台灣\r\n台灣\r\n台灣", [("台灣", 0), ("台灣", 8)], lambda t: len(t.replace("\r\n", "\n")), r"without \r"),
        ("台灣\n台灣\n台灣", [("台灣", 0), ("台灣", 6)], lambda t: len(t.replace("\n", "\r\n")), r"with \r"),
        ("\ufeff台灣，台灣", [("台灣", 1), ("台灣", 4)], lambda t: len(t) - 1, "without the byte order mark"),
        ("\ufeff \n台灣台灣", [("台灣", 3)], lambda t: len(t) - 3, "without leading white space"),
        ("\u3000\u3000台灣台灣", [("台灣", 2), ("灣台", 3)], lambda t: len(t) - 2, "without leading white space"),
        (
            "🎉\r\n台灣🎉台灣",
            [("台灣", 3), ("台灣", 6)],
            lambda t: utf16(t.replace("\r", "")),
            r"UTF-16 units, without \r",
        ),
        (" \r\n 🎉台灣台灣", [("台灣", 5)], lambda t: utf16(t) - 4, "UTF-16 units, without leading white space"),
        ("台灣，高山，台灣", [("台灣", 0), ("高山", 3), ("台灣", 6)], lambda t: len(t) + 1, "shifted by 1"),
        ("台灣，高山，台灣", [("高山", 3), ("台灣", 6)], lambda t: len(t) + 2, "shifted by 2"),
        ("甲台灣，高山，台灣", [("高山", 4), ("台灣", 7)], lambda t: len(t) - 1, "shifted by -1"),
    ],
)
def test_one_rule_places_all_answers(
    paragraph: str, answers: list[tuple[str, int]], count: Callable[[str], int], kind: str
) -> None:
    assert all(paragraph.startswith(text, start) for text, start in answers)
    assert places_of(paragraph, answers, count) == (kind, [start for _, start in answers])


@pytest.mark.parametrize(
    ("paragraph", "answers"),
    [
        (EMOJI, [("台灣", 2), ("台灣", 8)]),  # characters
        (EMOJI, [("台灣", 3), ("台灣", 11)]),  # the first in UTF-16 units, the second in nothing
        ("台灣台灣", [("台灣", 1)]),  # one too far, or one too near
        ("在台灣", [("台灣", None), ("臺灣", 1), ("", 2)]),  # no start that could be explained
        ("台灣", []),
    ],
)
def test_nothing_is_shifted_without_one_rule(paragraph: str, answers: list[tuple[str, int | None]]) -> None:
    assert find_shift(paragraph, [reference(text, start) for text, start in answers]) is None


def test_rules_that_disagree_are_not_applied() -> None:
    # 4 is character 3 in UTF-16 units, and character 6 without the white space in front
    assert find_shift("  🎉abcab", [reference("ab", 4)]) is None
    assert find_shift("  🎉abcab", [reference("ab", 4), reference("c", 6)]) is not None


def test_an_answer_with_the_line_ends_of_another_system_is_written_as_in_its_paragraph() -> None:
    paragraph, asked = "甲\r\n乙，甲\r\n乙", reference("甲\n乙", 4)
    shift = find_shift(paragraph, [asked])
    assert shift is not None
    assert shift.places == {asked: ("甲\r\n乙", 5)}


COUNTS: list[Callable[[str], int]] = [
    utf16,
    utf8,
    lambda text: len(text.replace("\r\n", "\n")),
    lambda text: utf16(text.replace("\r\n", "\n")),
]


@given(st.text("台灣🎉\r\n 。", min_size=2, max_size=12), st.data(), st.sampled_from(COUNTS))
def test_a_shift_never_places_an_answer_where_it_does_not_stand(
    paragraph: str, data: st.DataObject, count: Callable[[str], int]
) -> None:
    start = data.draw(st.integers(0, len(paragraph) - 1))
    text = paragraph[start : data.draw(st.integers(start + 1, len(paragraph)))]
    assume(text.strip() and not paragraph[:start].endswith("\r"))
    stated = [reference(text, count(paragraph[:start])), reference(paragraph.strip() or text, None)]
    shift = find_shift(paragraph, stated)
    for own, place in shift.places.values() if shift else ():
        assert paragraph.startswith(own, place)

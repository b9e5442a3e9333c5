"""Find how a corpus counts the starts of its answers, where it does not count the characters of its paragraphs.

Annotation tools count in UTF-16 units (JavaScript) or in UTF-8 bytes, and in a text whose line ends, byte order mark or
leading white space were changed. One rule must explain all answers of a paragraph, or none is applied.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, product
from typing import NamedTuple

from jobs.dataset.corpora import Reference

Weights = list[int]  # the number of units that each character of a paragraph takes

UNITS: dict[str, Callable[[str], int]] = {
    "": lambda character: 1,
    "UTF-16 units": lambda character: 1 + (character > "\uffff"),
    "UTF-8 bytes": lambda character: len(character.encode("utf-8", "surrogatepass")),
}
WITHOUT_CR, WITH_CR = r"without \r", r"with \r"
JOINT = ", "  # between the parts of a rule's name
OFFSET = "shifted by"
MAX_PARTS = 3  # of a rule: unit, line ends, opening
LINE_ENDS = ("", WITHOUT_CR, WITH_CR)
OPENINGS = {"": "", "without the byte order mark": "\ufeff+", "without leading white space": r"[\s\ufeff]+"}


class Shift(NamedTuple):
    """Holds a rule that explains the starts of a paragraph's answers, and the place that it gives each of them.

    `places` maps an answer to its text as it is written in the paragraph, and the text's first character.
    """

    kind: str
    places: dict[Reference, tuple[str, int]]


def find_shift(paragraph: str, references: Iterable[Reference]) -> Shift | None:
    r"""Return the one rule that explains all starts in a paragraph; None if they count characters, or none explains.

    >>> find_shift("🎉台灣台灣", [Reference(text="台灣", answer_start=4)]).kind
    'UTF-16 units'

    Answers without a start, and answers that are not in the paragraph, do not count. The simplest rule is right; if two
    equally simple ones give different places, none is right for certain.
    """
    stated = [one for one in dict.fromkeys(references) if _is_stated(paragraph, one)]
    if all(paragraph.startswith(one.text, one.start or 0) for one in stated):
        return None
    found = [Shift(kind, places) for kind, places in _explanations(paragraph, stated) if places]
    simplest = [one for one in found if _complexity(one) == min(map(_complexity, found))]
    return simplest[0] if simplest and all(one.places == simplest[0].places for one in simplest) else None


def _complexity(shift: Shift) -> int:
    """Return the number of things that a rule supposes. An offset without a reason comes last."""
    return MAX_PARTS if shift.kind.startswith(OFFSET) else shift.kind.count(JOINT)


def _is_stated(paragraph: str, reference: Reference) -> bool:
    start, text = reference.start, reference.text
    return (
        start is not None and start >= 0 and bool(text.strip()) and any(own in paragraph for own in _line_ends_of(text))
    )


def _line_ends_of(text: str) -> Iterable[str]:
    """Return the text as it is, and with the line ends of other systems."""
    plain = text.replace("\r\n", "\n")
    return dict.fromkeys((text, plain, plain.replace("\n", "\r\n")))


def _explanations(
    paragraph: str, stated: Sequence[Reference]
) -> Iterator[tuple[str, dict[Reference, tuple[str, int]] | None]]:
    tried: list[Weights] = []
    openings = [name for name, pattern in OPENINGS.items() if re.match(pattern, paragraph)]
    for unit, line_ends, opening in product(UNITS, LINE_ENDS if "\n" in paragraph else [""], openings):
        weights = _weights(paragraph, unit, line_ends, opening)
        if weights not in tried:
            tried.append(weights)
            yield JOINT.join(filter(None, (unit, line_ends, opening))), _placed(paragraph, stated, weights)
    if offset := _constant_offset(paragraph, stated):
        places = {one: (one.text, (one.start or 0) + offset) for one in stated}
        yield f"{OFFSET} {-offset}", places


def _weights(paragraph: str, unit: str, line_ends: str, opening: str) -> Weights:
    weights = [UNITS[unit](character) for character in paragraph]
    for place, character in enumerate(paragraph if line_ends else ""):
        if line_ends == WITHOUT_CR and paragraph.startswith("\r\n", place):
            weights[place] = 0
        elif line_ends == WITH_CR and character == "\n" and not paragraph.startswith("\r\n", place - 1):
            weights[place] += 1
    if opened := re.match(OPENINGS[opening], paragraph):
        weights[: opened.end()] = [0] * opened.end()
    return weights


def _placed(paragraph: str, stated: Sequence[Reference], weights: Weights) -> dict[Reference, tuple[str, int]] | None:
    """Return the place of each answer if the starts count these units; None unless all answers are at their places."""
    begins = list(accumulate(weights, initial=0))[:-1]
    places = {}
    for one in stated:
        place = bisect_right(begins, one.start or 0) - 1  # of several with no width, the last begins a text
        own = next((text for text in _line_ends_of(one.text) if paragraph.startswith(text, place)), None)
        if own is None or begins[place] != one.start:
            return None
        places[one] = own, place
    return places


def _constant_offset(paragraph: str, stated: Sequence[Reference]) -> int | None:
    """Return the one offset that brings all of several answers to their places, as in a text cut at its beginning."""
    offsets = [{place - (one.start or 0) for place in _begins_of(paragraph, one.text)} for one in stated]
    common = set.intersection(*offsets)
    return common.pop() if len({one.start for one in stated}) > 1 and len(common) == 1 else None


def _begins_of(paragraph: str, text: str) -> Iterator[int]:
    place = paragraph.find(text)
    while place >= 0:
        yield place
        place = paragraph.find(text, place + 1)

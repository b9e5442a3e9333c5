"""Make names from outside into labels that fit into a plot."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from unicodedata import east_asian_width

LETTER_EM = (
    0.64  # width of a Latin letter or a digit as a share of the font size; a Chinese character is as wide as high
)
FONT_POINTS = 10.0
LABEL_POINTS = 115.5  # about 18 Latin letters, that fit into the right margin of a plot


def xml_line(text: str, longest: int) -> str:
    """Return `text` as one line of characters that XML allows, cut to `longest` characters.

    >>> xml_line("a\\nbc", 3)
    'a …'
    """
    line = " ".join(re.sub("[^\\x20-\\x7e\\xa0-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]", " ", text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def text_points(text: str) -> float:
    """Return the approximate width of a label in points."""
    return FONT_POINTS * sum(1.0 if east_asian_width(letter) in "WF" else LETTER_EM for letter in text)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return a short label for each backbone name or path; different names have different labels.

    The label is the last part of the path, or the whole path if two last parts are equal. A long label is cut at its
    start, because the names of similar backbones differ at the end, or else at its end.

    >>> short_names(["hfl/chinese-macbert-large", "a/bert", "b/bert"])
    {'hfl/chinese-macbert-large': '…macbert-large', 'a/bert': 'a/bert', 'b/bert': 'b/bert'}
    """
    lines = [xml_line(name, 1000) for name in names]
    last = [line.rstrip("/").rsplit("/", 1)[-1] for line in lines]
    whole = [end if last.count(end) == 1 else line for line, end in zip(lines, last, strict=True)]
    ends = [shorten_name(text) for text in whole]
    labels = [end if ends.count(end) == 1 else _head(text) for text, end in zip(whole, ends, strict=True)]
    return dict(zip(names, _numbered(labels), strict=True))


def shorten_name(text: str) -> str:
    """Return the last words of a name that fit into LABEL_POINTS."""
    end = text
    while text_points(end if end == text else f"…{end}") > LABEL_POINTS:
        end = end[1:]
    return text if end == text else "…" + (re.sub("^[^-_ ]{0,8}[-_ ]", "", end) or end)


def _head(text: str) -> str:
    head = text
    while text_points(head if head == text else f"{head}…") > LABEL_POINTS:
        head = head[:-1]
    return text if head == text else f"{head}…"


def _numbered(labels: Sequence[str]) -> list[str]:
    """Return the labels, with a number behind those that appear more than once."""
    times, seen = Counter(labels), Counter[str]()
    numbered = []
    for label in labels:
        seen[label] += 1
        numbered.append(f"{label[:-3]} {seen[label]}" if times[label] > 1 else label)
    return numbered

"""A table of plain values, and how it is written for a terminal, in Markdown and as CSV.

Text comes from data sets and model names: nothing in it may move a cursor, turn the direction of a line, or
become markup, a link or a formula where it is shown.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

JOINERS = "\u200c\u200d"  # invisible, but they hold emoji together


@dataclass(frozen=True)
class Sheet:
    """rows     a list of plain values each, under `columns`
    texts    columns that stand left and may be wrapped; the others are numbers and stand right
    bold     the places of rows that stand out
    title    above, and `caption` below the table; neither is part of CSV
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    texts: frozenset[str] = frozenset()
    bold: frozenset[int] = frozenset()
    title: str | None = None
    caption: str | None = None


def one_line(text: str) -> str:
    r"""`text` in one line; what does not print, marks of direction among it, as its escape.

    >>> plain("a\nb\x1b[31m")
    'a b\\x1b[31m'
    """
    return "".join(character if _prints(character) else _escape(character) for character in " ".join(text.split()))


def _prints(character: str) -> bool:
    return character in " " + JOINERS or unicodedata.category(character)[0] not in "CZ"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def cell(value: Any) -> str:
    """A value in little room: four decimals of a number, – for None.

    >>> cell(0.12345), cell(3e-5), cell(None)
    ('0.1235', '3e-05', '–')
    """
    if value is None:
        return "–"
    if not isinstance(value, float):
        return one_line(str(value))
    return f"{value:.3g}" if abs(value) < 0.01 and value else f"{value:.4f}".rstrip("0").rstrip(".")


def rich_table(sheet: Sheet) -> Table:
    """For a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title, caption = (None if text is None else Text(one_line(text)) for text in (sheet.title, sheet.caption))
    view = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
    )
    for name in sheet.columns:
        words = name in sheet.texts
        view.add_column(
            Text(one_line(name)),
            justify="left" if words else "right",
            no_wrap=not words,
            overflow="fold",
            min_width=len(name),
        )
    for place, row in enumerate(sheet.rows):
        view.add_row(*(Text(cell(value)) for value in row), style="bold" if place in sheet.bold else None)
    return view


def sheet_markdown(sheet: Sheet) -> str:
    """A table of GitHub's kind, its title in bold above it."""
    lines = [list(sheet.columns), ["---"] * len(sheet.columns), *([cell(value) for value in row] for row in sheet.rows)]
    table = "".join(f"| {' | '.join(map(_markdown_cell, line))} |\n" for line in lines)
    title = f"**{_markdown_cell(sheet.title)}**\n\n" if sheet.title else ""
    return title + table + (f"\n{_markdown_cell(sheet.caption)}\n" if sheet.caption else "")


MARKDOWN = str.maketrans({"\\": "\\\\", "|": "\\|", "<": "&lt;", "&": "&amp;", "[": "\\[", "`": "\\`", "*": "\\*"})


def _markdown_cell(text: str) -> str:
    return one_line(text).translate(MARKDOWN)


def sheet_csv(sheet: Sheet) -> str:
    """Comma-separated, full precision, text as it is. What a spreadsheet would take for a formula gets a leading
    apostrophe (OWASP, CSV injection)."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([_harmless(name) for name in sheet.columns])
    writer.writerows([_harmless(value) for value in row] for row in sheet.rows)
    return file.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def json_text(value: Any) -> str:
    """JSON for people and programs: readable Chinese; what does not print as its escape, which is the same JSON."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return re.sub(r"[^\n -~\u4e00-\u9fff]", lambda found: _json_character(found[0]), text) + "\n"


def _json_character(character: str) -> str:
    return character if _prints(character) else json.dumps(character)[1:-1]

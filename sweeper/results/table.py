"""Hold a table of plain values and write it for a terminal, as Markdown, and as CSV.

Cell texts come from data sets and model names. They are escaped so that they cannot move the cursor, reverse the
text direction, or act as markup, a link or a spreadsheet formula.
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
    from rich.table import Table as RichTable

JOINERS = "\u200c\u200d"  # invisible, but they hold emoji together


@dataclass(frozen=True)
class Table:
    """Hold the columns and rows of one printed table.

    rows     one list of plain values per row, in the order of `columns`
    texts    the columns aligned left and wrapped if needed; all others are numbers, aligned right
    bold     the indices of the rows printed in bold
    title    printed above the table, `caption` below it; CSV has neither
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    texts: frozenset[str] = frozenset()
    bold: frozenset[int] = frozenset()
    title: str | None = None
    caption: str | None = None


def one_line(text: str) -> str:
    r"""Return `text` as one line, with escapes for unprintable characters and direction marks.

    >>> one_line("a\nb\x1b[31m")
    'a b\\x1b[31m'
    """
    return "".join(character if _prints(character) else _escape(character) for character in " ".join(text.split()))


def _prints(character: str) -> bool:
    return character in " " + JOINERS or unicodedata.category(character)[0] not in "CZ"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def cell_text(value: Any) -> str:
    """Format a value as short text: four decimals for a number, – for None.

    >>> cell_text(0.12345), cell_text(3e-5), cell_text(None)
    ('0.1235', '3e-05', '–')
    """
    if value is None:
        return "–"
    if not isinstance(value, float):
        return one_line(str(value))
    return f"{value:.3g}" if abs(value) < 0.01 and value else f"{value:.4f}".rstrip("0").rstrip(".")


def rich_table(table: Table) -> RichTable:
    """Return the table as a rich table for a terminal."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    title, caption = (None if text is None else Text(one_line(text)) for text in (table.title, table.caption))
    view = RichTable(
        box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", caption=caption, caption_justify="left"
    )
    for name in table.columns:
        words = name in table.texts
        view.add_column(
            Text(one_line(name)),
            justify="left" if words else "right",
            no_wrap=not words,
            overflow="fold",
            min_width=len(name),
        )
    for index, row in enumerate(table.rows):
        view.add_row(*(Text(cell_text(value)) for value in row), style="bold" if index in table.bold else None)
    return view


def table_markdown(table: Table) -> str:
    """Return the table as GitHub Markdown, with its title in bold above it."""
    lines = [
        list(table.columns),
        ["---"] * len(table.columns),
        *([cell_text(value) for value in row] for row in table.rows),
    ]
    body = "".join(f"| {' | '.join(map(_markdown_cell, line))} |\n" for line in lines)
    title = f"**{_markdown_cell(table.title)}**\n\n" if table.title else ""
    return title + body + (f"\n{_markdown_cell(table.caption)}\n" if table.caption else "")


MARKDOWN = str.maketrans({"\\": "\\\\", "|": "\\|", "<": "&lt;", "&": "&amp;", "[": "\\[", "`": "\\`", "*": "\\*"})


def _markdown_cell(text: str) -> str:
    return one_line(text).translate(MARKDOWN)


def table_csv(table: Table) -> str:
    """Return the table as CSV with full precision.

    Text is not escaped, with two exceptions: text that a spreadsheet would read as a formula gets a leading
    apostrophe (OWASP, CSV injection), and a carriage return becomes a line feed.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([_csv_cell(name) for name in table.columns])
    writer.writerows([_csv_cell(value) for value in row] for row in table.rows)
    return file.getvalue()


def _csv_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # The csv module does not quote a bare CR, but spreadsheets start a new row there.
    text = re.sub("\r\n?", "\n", value)
    return f"'{text}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def json_text(value: Any) -> str:
    """Return `value` as indented JSON: Chinese stays readable, unprintable characters become JSON escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return re.sub(r"[^\n -~\u4e00-\u9fff]", lambda found: _json_character(found[0]), text) + "\n"


def _json_character(character: str) -> str:
    return character if _prints(character) else json.dumps(character)[1:-1]

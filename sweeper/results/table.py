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
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len

from sweeper.process.screen import wrapped

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table as RichTable

EDGE_COLUMNS = 2  # the spaces that rich prints on the left and right of a table
GAP_COLUMNS = 3  # between two columns
JOINERS = "\u200c\u200d"  # invisible, but they hold emoji together


@dataclass(frozen=True)
class Table:
    """Hold the columns and rows of one printed table.

    rows      one list of plain values per row, in the order of `columns`
    texts     the columns aligned left and wrapped if needed; all others are numbers, aligned right
    bold      the indices of the rows printed in bold
    title     printed above the table, `caption` below it; CSV has neither
    optional  the columns that a narrow screen may leave out, the most useful first. Those with one value for all rows
              are printed below the table on every screen
    settings  the optional columns that are printed below a table of one row
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    texts: frozenset[str] = frozenset()
    bold: frozenset[int] = frozenset()
    title: str | None = None
    caption: str | None = None
    optional: Sequence[str] = ()
    settings: frozenset[str] = frozenset()


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


def terminal_lines(table: Table, columns: int | None, everything: str = "") -> Iterator[RenderableType]:
    """Yield what a terminal of this width shows: the title, the table, its caption, and notes on what is not in it.

    `columns` is None for a file or a pipe, where nothing is too wide. `everything` is the command that prints all
    columns. If the columns that are not optional are too wide, the rows are stacked: one line for each value.
    """
    from rich.text import Text

    if table.title:
        yield Text(wrapped(one_line(table.title), columns, 0), style="table.title")
    constant = constant_columns(table)
    left_out = wide_columns(table, columns, constant)
    shown = [name for name in table.columns if name not in {*constant, *left_out}]
    narrow = select_columns(table, shown)
    if columns is None or _total_columns(map(min_columns, _cells_by_column(narrow))) <= columns:
        yield rich_table(narrow, columns)
    else:
        yield from (Text(line, style=style) for line, style in _stacked_rows(narrow, columns))
    notes = [table.caption] if table.caption else []
    if constant:
        notes.append("constant: " + " ".join(f"{name}={cell_text(value)}" for name, value in constant.items()))
    if left_out:
        how = f"; all columns: {everything}" if everything else ""
        notes.append(f"no room for {', '.join(left_out)}{how}")
    yield from (Text(wrapped(one_line(note), columns, 2), style="table.caption") for note in notes)


def constant_columns(table: Table) -> dict[str, Any]:
    """Return the optional columns that hold one value for all rows, with this value.

    In a table of one row every column does; there only the settings are returned.
    """
    names = table.optional if len(table.rows) > 1 else [name for name in table.optional if name in table.settings]
    indices = {name: list(table.columns).index(name) for name in names}
    return {
        name: table.rows[0][index]
        for name, index in indices.items()
        if len({repr(row[index]) for row in table.rows}) == 1
    }


def wide_columns(table: Table, columns: int | None, constant: Container[str]) -> list[str]:
    """Return the optional columns for which a screen has no room beside more useful ones."""
    widths = dict(zip(table.columns, map(min_columns, _cells_by_column(table)), strict=True))
    taken = [width for name, width in widths.items() if name not in table.optional]
    left_out = []
    for name in (name for name in table.optional if name not in constant):
        if columns is not None and _total_columns([*taken, widths[name]]) > columns:
            left_out.append(name)
        else:
            taken.append(widths[name])
    return left_out


def select_columns(table: Table, names: Sequence[str]) -> Table:
    indices = [list(table.columns).index(name) for name in names]
    return replace(table, columns=names, rows=[[row[index] for index in indices] for row in table.rows])


@dataclass(frozen=True)
class Cells:
    """Hold the printed texts of a column, its name first. `words` is True if they may be broken between words."""

    texts: Sequence[str]
    words: bool


def _cells_by_column(table: Table) -> list[Cells]:
    columns = ([name, *(row[index] for row in table.rows)] for index, name in enumerate(table.columns))
    return [Cells([cell_text(value) for value in column], column[0] in table.texts) for column in columns]


def min_columns(cells: Cells) -> int:
    """Return the least width of a column that breaks no word and no number."""
    return max(cell_len(part) for text in cells.texts for part in (text.split() if cells.words else [text]) or [""])


def _max_columns(cells: Cells) -> int:
    return max(map(cell_len, cells.texts))


def _total_columns(widths: Iterable[int]) -> int:
    """Return the width of a table with columns of these widths, gaps included."""
    return sum(width + GAP_COLUMNS for width in widths) + EDGE_COLUMNS - GAP_COLUMNS


def _widths(table: Table, columns: int | None) -> list[int]:
    """Return the width of each column: that of its texts, or less for words that must be broken into lines."""
    cells = _cells_by_column(table)
    least, most = list(map(min_columns, cells)), list(map(_max_columns, cells))
    if columns is None:
        return most
    spare = columns - _total_columns(least)
    for index in sorted(range(len(most)), key=lambda index: most[index] - least[index]):
        extra = min(most[index] - least[index], max(0, spare))
        least[index], spare = least[index] + extra, spare - extra
    return least


def _stacked_rows(table: Table, columns: int) -> Iterator[tuple[str, str]]:
    """Yield a line and its style for each value: the first column, then the others indented below it."""
    for number, row in enumerate(table.rows):
        for index, (name, value) in enumerate(zip(table.columns, row, strict=True)):
            text = f"{'' if index == 0 else '  '}{one_line(name)}: {cell_text(value)}"
            yield wrapped(text, columns), "bold" if number in table.bold else ""


def rich_table(table: Table, columns: int | None = None) -> RichTable:
    """Return the table as a rich table for a terminal of this width. Texts are broken between words only."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    view = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, width in zip(table.columns, _widths(table, columns), strict=True):
        words = name in table.texts
        justify: Literal["left", "right"] = "left" if words else "right"
        view.add_column(Text(one_line(name)), justify=justify, no_wrap=not words, overflow="fold", width=width)
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

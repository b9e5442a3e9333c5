from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sweeper.results import table
from sweeper.results.table import Table

NASTY = "[red]x[/red] <script>alert(1)</script> \x1b[31m\x9b2J \u202eabc\u2066 a|b\\|c\r\nd ![i](u) `q`"


def shown(one: Table) -> str:
    console = Console(width=400, record=True, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(table.rich_table(one))
    return console.export_text()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.1235"),
        (3e-5, "3e-05"),
        (0.0, "0"),
        (None, "–"),
        (12, "12"),
        (1.0, "1"),
        (-0.5, "-0.5"),
        (1234.5, "1234.5"),
        ("a\nb", "a b"),
    ],
)
def test_numbers_are_short(value: Any, text: str) -> None:
    assert table.cell_text(value) == text


@given(st.text())
def test_plain_text_prints_and_moves_nothing(text: str) -> None:
    found = table.one_line(text)
    assert "".join(found.split("\u200c")).replace("\u200d", "").isprintable()
    assert table.one_line(found) == found


def test_what_prints_stays_as_it_is() -> None:
    for text in ("臺北市，1970年代", "👨\u200d👩\u200d👧", "⚠\ufe0f", "é e\u0301", "１２"):
        assert table.one_line(text) == text


def test_the_terminal_shows_nasty_text_as_text() -> None:
    one = Table(["[bold]c[/bold]\x1b[1m"], [[NASTY]], frozenset({"x"}), title=NASTY, caption=NASTY)
    text = shown(one)
    assert "[bold]c[/bold]\\x1b[1m" in text
    assert text.count("[red]x[/red] <script>alert(1)</script> \\x1b[31m\\x9b2J \\u202eabc\\u2066 a|b\\|c d") == 3
    assert not {"\x1b", "\x9b", "\u202e"} & set(text)


def test_a_table_that_is_too_wide_wraps_its_texts_and_keeps_its_columns() -> None:
    one = Table(["sweep", "f1"], [["q" * 70, 0.25]], frozenset({"sweep"}))
    console = Console(width=40, record=True, file=io.StringIO())
    console.print(table.rich_table(one))
    text = console.export_text()
    assert (text.count("q"), "sweep" in text, "0.25" in text) == (70, True, True)


def test_markdown_shows_nasty_text_as_text() -> None:
    text = table.table_markdown(Table(["c", "d"], [[NASTY, 1]], title="<b>", caption="[x](y)"))
    title, _, head, rule, row, _, caption = text.splitlines()
    assert (title, head, rule, caption) == ("**&lt;b>**", "| c | d |", "| --- | --- |", "\\[x](y)")
    assert row == (
        "| \\[red]x\\[/red] &lt;script>alert(1)&lt;/script> \\\\x1b\\[31m\\\\x9b2J \\\\u202eabc\\\\u2066"
        " a\\|b\\\\\\|c d !\\[i](u) \\`q\\` | 1 |"
    )


def test_csv_has_the_text_itself_and_no_formula() -> None:
    text = table.table_csv(Table(["=a", "b"], [["@x", 0.123456789], ['"q"\n', None]]))
    assert list(csv.reader(io.StringIO(text))) == [["'=a", "b"], ["'@x", "0.123456789"], ['"q"\n', ""]]


@pytest.mark.parametrize("mark", ["=", "+", "-", "@", "\t", "\r"])
def test_every_beginning_of_a_formula_gets_an_apostrophe(mark: str) -> None:
    text = table.table_csv(Table([f"{mark}a"], [[f"{mark}1"]]))
    same = mark.replace("\r", "\n")
    assert list(csv.reader(io.StringIO(text, newline=""))) == [[f"'{same}a"], [f"'{same}1"]]


def test_a_carriage_return_inside_a_cell_starts_no_row() -> None:
    text = table.table_csv(Table(["a"], [["x\r=1+1\r\ny"]]))
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["a"], ["x\n=1+1\ny"]]


@given(st.text() | st.sampled_from([NASTY, "\U000e0001", "\ud800"]))
def test_json_is_the_same_value_and_prints(text: str) -> None:
    found = table.json_text({"k": [text, 1, None]})
    assert json.loads(found) == {"k": [text, 1, None]}
    assert not {"\x1b", "\x9b", "\u202e", "\u2066", "\x7f"} & set(found)
    assert found.encode()


def test_json_is_readable() -> None:
    assert table.json_text(["臺北😀，"]) == '[\n  "臺北😀，"\n]\n'

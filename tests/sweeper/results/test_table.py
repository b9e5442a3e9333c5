from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from sweeper.results import table
from sweeper.results.table import Table

NASTY = "[red]x[/red] <script>alert(1)</script> \x1b[31m\x9b2J \u202eabc\u2066 a|b\\|c\r\nd ![i](u) `q`"


def shown(one: Table, columns: int | None = 400) -> str:
    """Return what a terminal of this width shows, with all that would be beyond its edge."""
    console = Console(width=100_000, record=True, file=io.StringIO(), force_terminal=True, color_system=None)
    for part in table.terminal_lines(one, columns, "sweeper compare x --csv"):
        console.print(part, overflow="ignore", crop=False)
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


WORDS = st.text(st.sampled_from("ab臺北"), min_size=1, max_size=12)
TEXTS = st.lists(WORDS, max_size=4).map(" ".join)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Draw a table of trials: two columns that always stay, and numbers, texts and constants that may go."""
    rows = draw(st.integers(1, 4))
    texts = draw(st.lists(st.lists(TEXTS, min_size=rows, max_size=rows), max_size=4))
    numbers = draw(st.lists(st.lists(st.floats(-10, 10), min_size=rows, max_size=rows), max_size=6))
    columns = {f"字{n} text": cells for n, cells in enumerate(texts)} | {f"n{n}": c for n, c in enumerate(numbers)}
    optional = draw(st.permutations(list(columns)))
    every = {"trial": list(range(rows)), "state": ["COMPLETE"] * rows, **columns}
    names = frozenset({"state", *(name for name in columns if name.endswith("text"))})
    content = [list(row) for row in zip(*every.values(), strict=True)]
    return Table(list(every), content, names, optional=optional, settings=frozenset(optional[:2]))


def words_of(one: Table) -> set[str]:
    values = [*one.columns, *(table.cell_text(value) for row in one.rows for value in row)]
    return {word for value in values for word in value.split()}


@given(tables(), st.sampled_from([None, 20, 40, 80, 120, 200]))
def test_no_word_is_broken_and_every_column_is_shown_or_named(one: Table, columns: int | None) -> None:
    text = shown(one, columns)
    parts = set(re.split(r"[\s=,:;]+", text))
    assert all(set(re.split(r"[\s=,:;]+", name)) <= parts for name in one.columns)
    assert words_of(table.select_columns(one, ["trial", "state"])) <= parts
    for line in text.splitlines():
        wide = columns is not None and cell_len(line.rstrip()) > columns
        assert not wide or len(line.split()) == 1, line
    if columns is None:
        assert words_of(one) <= parts
        assert "no room" not in text
    else:
        left_out = table.wide_columns(one, columns, table.constant_columns(one))
        assert words_of(table.select_columns(one, [n for n in one.columns if n not in left_out])) <= parts
        assert ("all columns: sweeper compare x --csv" in " ".join(text.split())) == bool(left_out)


def test_a_less_useful_column_that_fits_is_shown_where_a_wider_one_does_not() -> None:
    one = Table(
        ["trial", "backbone", "f1"],
        [[0, "/a" * 60, 0.5], [1, "/b", 0.6]],
        frozenset({"backbone"}),
        optional=["backbone", "f1"],
    )
    text = shown(one, 40)
    assert "f1" in text.splitlines()[1]
    assert "no room for backbone; all columns:" in text
    assert "/a" * 60 in shown(one, 200)


def test_a_column_of_one_value_goes_below_the_table_on_every_screen() -> None:
    one = Table(["trial", "seed", "f1"], [[0, 42, 0.5], [1, 42, 0.6]], optional=["seed", "f1"])
    for columns in (40, 200, None):
        assert shown(one, columns).splitlines()[-1] == "constant: seed=42"
        assert "seed" not in shown(one, columns).splitlines()[1]
    first = Table(one.columns, one.rows[:1], optional=one.optional, settings=frozenset({"seed"}))
    assert shown(first).splitlines()[1].split() == ["trial", "f1"]


def test_rows_are_stacked_where_the_columns_that_stay_are_too_wide() -> None:
    one = Table(["sweep", "a long objective"], [["q" * 20, 0.25], ["臺北", 0.5]], frozenset({"sweep"}))
    assert shown(one, 30).splitlines() == [
        "sweep: " + "q" * 20,
        "  a long objective: 0.25",
        "sweep: 臺北",
        "  a long objective: 0.5",
    ]


def test_a_thousand_trials_are_one_table() -> None:
    one = Table(["trial", "x"], [[number, number / 7] for number in range(1000)], optional=["x"])
    assert len(shown(one, 80).splitlines()) == 1004


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

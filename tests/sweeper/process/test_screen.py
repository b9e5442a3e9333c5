"""Break lines between words where a screen is narrow."""

from __future__ import annotations

import io
import os
import pty
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from sweeper.process.screen import screen_columns, wrapped

WORDS = st.lists(st.text(st.sampled_from("ab/臺北"), min_size=1, max_size=30), min_size=1)


@given(WORDS, st.integers(10, 200), st.integers(0, 6), st.integers(0, 40) | st.none())
def test_lines_fit_and_hold_the_same_whole_words(words: list[str], columns: int, lead: int, indent: int | None) -> None:
    text = " " * lead + "  ".join(words)
    lines = wrapped(text, columns, indent).splitlines()
    assert [word for line in lines for word in line.split()] == words
    assert all(cell_len(line) <= columns or len(line.split()) == 1 for line in lines)
    assert wrapped(text, None) == text


def test_a_line_that_fits_keeps_its_gaps() -> None:
    assert wrapped("trial   0  complete", 19) == "trial   0  complete"
    assert wrapped("  trials: 3 finished, 1 left", 20) == "  trials: 3\n    finished, 1 left"


@pytest.fixture
def terminal() -> Iterator[io.TextIOWrapper]:
    """A terminal that does not tell its width."""
    own, other = pty.openpty()
    with os.fdopen(other, "w") as stream:
        yield stream
    os.close(own)


@pytest.mark.parametrize(
    ("variable", "on_a_terminal", "in_a_file"),
    [(None, 80, None), ("0", 80, None), ("-5", 80, None), ("x", 80, None), ("", 80, None), ("120", 120, 120)],
)
def test_a_file_has_no_limit_unless_the_variable_sets_one(
    monkeypatch: pytest.MonkeyPatch,
    terminal: io.TextIOWrapper,
    variable: str | None,
    on_a_terminal: int,
    in_a_file: int | None,
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if variable is not None:
        monkeypatch.setenv("COLUMNS", variable)
    assert screen_columns(terminal) == on_a_terminal
    assert screen_columns(io.StringIO()) == in_a_file

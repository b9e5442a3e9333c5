"""Find how wide a line of output may be, and break lines between words."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from rich.cells import cell_len

if TYPE_CHECKING:
    from rich.console import Console

USUAL_COLUMNS = 80  # for a terminal that does not tell its width


def screen_columns(stream: IO[Any]) -> int | None:
    """Return how many columns a line written to `stream` may take; None for a file or a pipe, which has no limit.

    The variable COLUMNS, if it is a number above zero, takes precedence.
    """
    with suppress(ValueError):
        if (given := int(os.environ.get("COLUMNS", ""))) > 0:
            return given
    try:
        return (os.get_terminal_size(stream.fileno()).columns or USUAL_COLUMNS) if stream.isatty() else None
    except (OSError, ValueError):  # a stream without a file
        return USUAL_COLUMNS


def wrapped(text: str, columns: int | None, indent: int | None = None) -> str:
    """Break one line between words, so that its parts take at most `columns` columns.

    A part after the first begins with `indent` spaces, by default two more than the line begins with. A word that is
    wider than a line keeps its own line.

    >>> wrapped("trials: 3 finished, 1 left", 20)
    'trials: 3 finished,\\n  1 left'
    """
    if columns is None or cell_len(text) <= columns:
        return text
    indent = len(text) - len(text.lstrip(" ")) + 2 if indent is None else indent
    lines = [""]
    for gap, word in re.findall(r"( *)([^ ]+)", text):
        if lines[-1].strip() and cell_len(lines[-1] + gap + word) > columns:
            lines.append(" " * (indent if indent + cell_len(word) <= columns else 2) + word)
        else:
            lines[-1] += gap + word
    return "\n".join(lines)


def print_line(console: Console, text: str, indent: int | None = None) -> None:
    """Print one line of plain text, broken between words where the console's screen is narrow; see `wrapped`."""
    from rich.text import Text

    console.print(Text(wrapped(text, screen_columns(console.file), indent)), soft_wrap=True)

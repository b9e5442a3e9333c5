"""Systems that answer, side by side, as people read them: a table for a terminal, Markdown, or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.comparison import markdown_table

if TYPE_CHECKING:
    from rich.table import Table

    from jobs.evaluation import Estimate, Row

HEADER = (
    "system",
    "paragraph",
    "EM if right",
    "EM",
    "F1",
    "errors: selection",
    "reading",
    "questions/s",
)


def caption(rows: Sequence[Row], split: str, profile: str) -> str:
    """What the figures are, in one line."""
    return f"{rows[0].questions} {split} questions, EM and F1: {profile}, 95 % bootstrap intervals"


def cells(row: Row) -> list[str]:
    """One row as text, under HEADER."""
    name = row.system if row.weight is None else f"{row.system} (weight {row.weight:.2f})"
    estimates = (row.paragraph_accuracy, row.exact_match_given_right, row.exact_match, row.f1)
    shares = (row.selection_errors, row.reading_errors)
    return [name, *map(_interval, estimates), *map(_share, shares), _rate(row.questions_per_second)]


def _interval(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.value:.3f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def rich_table(rows: Sequence[Row]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    view = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in HEADER:
        view.add_column(name, justify="left" if name == "system" else "right", no_wrap=True)
    for row in rows:
        view.add_row(*map(Text, cells(row)))
    return view


def markdown(rows: Sequence[Row]) -> str:
    return markdown_table(HEADER, [cells(row) for row in rows])


def json_text(rows: Sequence[Row], split: str, profile: str) -> str:
    """An object: `split`, `profile`, and `systems`, an array of jobs.evaluation.Row with full precision."""
    content = {"split": split, "profile": profile, "systems": [row.as_dict() for row in rows]}
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"

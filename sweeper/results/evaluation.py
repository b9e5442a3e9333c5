"""Systems that answer, side by side, as people read them: a table for a terminal, Markdown, or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.results import table
from sweeper.results.table import Table

if TYPE_CHECKING:
    from jobs.answering.evaluation import Estimate, SystemScore

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


def systems_caption(rows: Sequence[SystemScore], split: str, profile: str) -> str:
    """What the figures are, in one line."""
    fitted = any(row.weight is not None for row in rows) and split == "valid"
    told = "; the soft row is scored by weights fitted on other fifths of the questions" if fitted else ""
    return f"{rows[0].questions} {split} questions, EM and F1: {profile}, 95 % bootstrap intervals{told}"


def systems_table(rows: Sequence[SystemScore], split: str, profile: str) -> Table:
    """The table as text, for a terminal or Markdown."""
    return Table(
        HEADER,
        [system_cells(row) for row in rows],
        frozenset({"system"}),
        caption=systems_caption(rows, split, profile),
    )


def system_cells(row: SystemScore) -> list[str]:
    """One row as text, under HEADER."""
    name = row.system if row.weight is None else f"{row.system} (weight {row.weight:.2f})"
    estimates = (row.paragraph_accuracy, row.exact_match_given_right, row.exact_match, row.f1)
    shares = (row.selection_errors, row.reading_errors)
    return [name, *map(_interval_text, estimates), *map(_percent, shares), _rate(row.questions_per_second)]


def _interval_text(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.value:.3f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def systems_json(rows: Sequence[SystemScore], split: str, profile: str) -> str:
    """An object: `split`, `profile`, and `systems`, an array of jobs.evaluation.Row with full precision."""
    content = {"split": split, "profile": profile, "systems": [row.as_dict() for row in rows]}
    return table.json_text(content)

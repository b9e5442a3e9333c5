"""Format the evaluation of several question-answering systems as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.results.table import Table, json_text

if TYPE_CHECKING:
    from jobs.answering.evaluation import Estimate, SystemScore

HEADER = ("system", "paragraph", "EM if right", "EM", "F1", "errors: selection", "reading", "questions/s")
OPTIONAL = ("F1", "paragraph", "EM if right", "errors: selection", "reading", "questions/s")


def systems_caption(rows: Sequence[SystemScore], split: str, profile: str) -> str:
    """Return one line that names the questions, the metric profile and the intervals of the table."""
    fitted = any(row.weight is not None for row in rows) and split == "valid"
    note = "; the soft row is scored by weights fitted on other fifths of the questions" if fitted else ""
    return f"{rows[0].questions} {split} questions, EM and F1: {profile}, 95 % bootstrap intervals{note}"


def systems_table(rows: Sequence[SystemScore], split: str, profile: str) -> Table:
    """Return the table of systems, one row per system."""
    return Table(
        HEADER,
        [system_cells(row) for row in rows],
        frozenset({"system"}),
        caption=systems_caption(rows, split, profile),
        optional=OPTIONAL,
    )


def system_cells(row: SystemScore) -> list[str]:
    """Return the cells of one system's row, in the order of HEADER."""
    name = row.system if row.weight is None else f"{row.system} (weight {row.weight:.2f})"
    estimates = (row.paragraph_accuracy, row.exact_match_given_right, row.exact_match, row.f1)
    shares = (row.selection_errors, row.reading_errors)
    return [name, *map(_interval_text, estimates), *map(_percent_cell, shares), _rate(row.questions_per_second)]


def _interval_text(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.value:.3f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _percent_cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def systems_json(rows: Sequence[SystemScore], split: str, profile: str) -> str:
    """Return a JSON object with `split`, `profile` and `systems`: one object per system, with full precision."""
    return json_text({"split": split, "profile": profile, "systems": [row.as_dict() for row in rows]})

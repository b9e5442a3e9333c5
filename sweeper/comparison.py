"""Finished trials as a table: rows of plain values, then text, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.job import Direction

if TYPE_CHECKING:
    from rich.table import Table

    from sweeper.ledger import TrialRecord

Row = dict[str, Any]


def rows(records: Sequence[TrialRecord], direction: Direction) -> list[Row]:
    """One row per trial, best first; trials without a value come last, in the order of their numbers.

    Keys: trial, state, value, params, metrics, epochs, duration_s, run_id, checkpoint, reason. `value` and
    `metrics` are those of the trial's best evaluation, `duration_s` the seconds it trained, `checkpoint` the
    folder of the best evaluation if it was kept.
    """
    sign = -1 if direction == "max" else 1
    ordered = sorted(records, key=lambda r: (r.value is None, sign * (r.value or 0), r.number))
    return [
        {
            "trial": record.number,
            "state": record.state,
            "value": record.value,
            "params": dict(record.params),
            "metrics": dict(record.metrics),
            "epochs": record.epochs,
            "duration_s": round(record.seconds, 3),
            "run_id": record.run_id,
            "checkpoint": record.checkpoint if record.checkpoint and Path(record.checkpoint).is_dir() else None,
            "reason": record.reason,
        }
        for record in ordered
    ]


def changing(table: Sequence[Row]) -> list[str]:
    """The parameters that differ between the trials, in the job's order; all of a single trial's."""
    names = list(table[0]["params"]) if table else []
    return [name for name in names if len(table) == 1 or len({repr(row["params"][name]) for row in table}) > 1]


def header(table: Sequence[Row], objective: str) -> list[str]:
    metrics = [name for row in table[:1] for name in row["metrics"] if name != objective]
    return ["trial", "state", objective, *metrics, *changing(table), "epochs", "seconds"]


def cells(table: Sequence[Row], objective: str) -> list[list[str]]:
    """The table as text, a list per row, under `header`."""
    names = header(table, objective)
    return [[_cell(_flat(row, objective).get(name)) for name in names] for row in table]


def _flat(row: Row, objective: str) -> Mapping[str, Any]:
    named = {objective: row["value"], "seconds": round(row["duration_s"], 1)}
    return {**row["params"], **row["metrics"], **row, **named}


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 0.01 and value else f"{value:.4f}".rstrip("0").rstrip(".")


def rich_table(table: Sequence[Row], objective: str) -> Table:
    """For a terminal. Numbers stand right; the best value is bold."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    view = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    text_columns = {
        "state",
        *(name for row in table for name, value in row["params"].items() if isinstance(value, str)),
    }
    for name in header(table, objective):
        view.add_column(name, justify="left" if name in text_columns else "right", no_wrap=name not in text_columns)
    for place, line in enumerate(cells(table, objective)):
        view.add_row(
            *(Text(cell) for cell in line),
            style="bold" if place == 0 and table[0]["value"] is not None else None,
        )
    return view


def markdown(table: Sequence[Row], objective: str) -> str:
    return markdown_table(header(table, objective), cells(table, objective))


def markdown_table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A GitHub table of any cells: line breaks and bars in them are harmless."""
    every = [names, ["---"] * len(names), *lines]
    return "".join(f"| {' | '.join(map(_markdown_cell, line))} |\n" for line in every)


def _markdown_cell(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")


def csv_text(table: Sequence[Row], objective: str) -> str:
    """Comma-separated, full precision. Text that a spreadsheet would take for a formula gets a leading
    apostrophe (OWASP, CSV injection)."""
    names = header(table, objective)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_harmless(_flat(row, objective).get(name)) for name in names] for row in table)
    return file.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def json_text(table: Sequence[Row]) -> str:
    return json.dumps(list(table), ensure_ascii=False, indent=2) + "\n"

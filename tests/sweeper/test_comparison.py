from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweeper import comparison
from sweeper.ledger import TrialRecord
from sweeper.retention import best, disposable


def record(number: int, value: float | None, state: Any = "COMPLETE", **changes: Any) -> TrialRecord:
    given: dict[str, Any] = {
        "number": number,
        "key": f"key-{number}",
        "state": state,
        "params": {"backbone": "hill", "learning_rate": 10.0**-number, "seed": 42},
        "evaluations": ({"epoch": 1.0, "seconds": 2.5, "height": value, "checkpoint": f"{number}/a"},)
        if value is not None
        else (),
        "value": value,
        "metrics": {"height": value, "eval_loss": 0.5} if value is not None else {},
        "checkpoint": f"{number}/a" if value is not None else None,
        "reason": None,
        "run_id": f"run-{number}",
        "started": None,
        "ended": None,
    }
    return TrialRecord(**{**given, **changes})


RECORDS = [
    record(0, 0.4),
    record(1, None, "FAIL", reason="why"),
    record(2, 0.9, "PRUNED"),
    record(3, 0.9),
    record(4, 0.1),
]


def test_rows_are_best_first_and_trials_without_a_value_last() -> None:
    assert [row["trial"] for row in comparison.rows(RECORDS, "max")] == [2, 3, 0, 4, 1]
    assert [row["trial"] for row in comparison.rows(RECORDS, "min")] == [4, 0, 2, 3, 1]


def test_json_is_one_array_with_the_promised_keys() -> None:
    parsed = json.loads(comparison.json_text(comparison.rows(RECORDS, "max")))
    assert list(parsed[0]) == [
        "trial",
        "state",
        "value",
        "params",
        "metrics",
        "epochs",
        "duration_s",
        "run_id",
        "checkpoint",
        "reason",
    ]
    assert parsed[0] == {
        "trial": 2, "state": "PRUNED", "value": 0.9, "params": {"backbone": "hill", "learning_rate": 0.01, "seed": 42},
        "metrics": {"height": 0.9, "eval_loss": 0.5},
        "epochs": 1.0, "duration_s": 2.5, "run_id": "run-2", "checkpoint": None, "reason": None,
    }  # fmt: skip


def test_only_parameters_that_change_are_columns() -> None:
    rows = comparison.rows(RECORDS, "max")
    assert comparison.header(rows, "height") == [
        "trial",
        "state",
        "height",
        "eval_loss",
        "learning_rate",
        "epochs",
        "seconds",
    ]
    assert "backbone" in comparison.header(rows[:1], "height")
    assert comparison.header([], "height") == ["trial", "state", "height", "epochs", "seconds"]


def test_markdown_is_a_table() -> None:
    lines = comparison.markdown(comparison.rows(RECORDS[:2], "max"), "height").splitlines()
    assert lines == [
        "| trial | state | height | eval_loss | learning_rate | epochs | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 0 | COMPLETE | 0.4 | 0.5 | 1 | 1 | 2.5 |",
        "| 1 | FAIL | – | – | 0.1 | 0 | 0 |",
    ]


def test_csv_keeps_full_precision_and_is_harmless_in_a_spreadsheet() -> None:
    nasty = [
        record(0, 0.123456789, params={"backbone": "=cmd|' /C calc'!A0", "x": 'a,"b"\nc'}),
        record(1, 0.1, params={"backbone": "b", "x": "d"}),
    ]
    lines = list(csv.DictReader(io.StringIO(comparison.csv_text(comparison.rows(nasty, "max"), "height"))))
    assert lines[0]["height"] == "0.123456789"
    assert lines[0]["backbone"] == "'=cmd|' /C calc'!A0"
    assert lines[0]["x"] == 'a,"b"\nc'


def test_a_pipe_does_not_break_a_markdown_table() -> None:
    rows = comparison.rows([record(0, 0.5, params={"backbone": "a|b\nc"})], "max")
    assert "| a\\|b c |" in comparison.markdown(rows, "height")


def test_the_terminal_shows_markup_as_text() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(
        comparison.rich_table(comparison.rows([record(0, 0.5, params={"backbone": "[red]x[/red]"})], "max"), "height")
    )
    assert "[red]x[/red]" in console.export_text()


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
    ],
)
def test_numbers_are_short(value: Any, text: str) -> None:
    assert comparison._cell(value) == text


def test_the_earlier_of_equals_is_best() -> None:
    assert [r.number for r in best(RECORDS, "max")] == [2, 3, 0, 4]


def test_checkpoints_of_the_best_trials_stay_and_others_go() -> None:
    assert disposable(RECORDS, "max", keep=2) == ["0/a", "4/a"]
    assert disposable(RECORDS, "min", keep=2) == ["2/a", "3/a"]
    assert disposable(RECORDS, "max", keep=9) == []


def test_a_running_trial_keeps_its_best_and_its_newest_checkpoint() -> None:
    evaluations = tuple({"epoch": float(n), "seconds": 1.0, "checkpoint": f"5/{n}"} for n in range(1, 5))
    running = record(5, 0.2, "RUNNING", evaluations=evaluations, checkpoint="5/2")
    assert disposable([*RECORDS, running], "max", keep=4) == ["5/1", "5/3"]
    ended = record(5, 0.2, "FAIL", evaluations=evaluations, checkpoint="5/2")
    assert disposable([ended], "max", keep=4) == ["5/1", "5/2", "5/3", "5/4"]


def test_a_checkpoint_that_was_deleted_is_not_shown(tmp_path: Path) -> None:
    row = comparison.rows([record(0, 0.5, checkpoint=str(tmp_path / "gone"))], "max")[0]
    assert row["checkpoint"] is None

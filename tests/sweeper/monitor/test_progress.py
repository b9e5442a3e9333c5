"""Print what happens to trials while a sweep runs."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from optuna.storages import RDBStorage
from rich.cells import cell_len
from rich.console import Console

from sweeper.budget.account import Account
from sweeper.ledger.ledger import create_ledger
from sweeper.ledger.record import TrialRecord
from sweeper.monitor.progress import Progress
from sweeper.space.search_space import SearchSpace
from tests.support.trials import asked, record


def printed(earlier: list[TrialRecord], *changes: TrialRecord) -> list[str]:
    """Return the lines that are printed for these changes."""
    console = Console(file=io.StringIO())
    progress = Progress(console, "height", "max", 8, ["backbone", "learning_rate"], earlier)
    for change in changes:
        progress.update(change)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_trial_that_had_ended_before_is_not_printed_again() -> None:
    earlier = [record(0, 0.5), record(1, 0.4, "RUNNING"), record(2, None, "FAIL", reason="broken")]
    assert printed(earlier, *earlier) == []
    ended = replace(earlier[1], state="PRUNED")
    (line,) = printed(earlier, *earlier, ended, ended)
    assert line.startswith("trial   1  stopped early")
    assert len(printed([], *earlier)) == 2


def test_a_trial_that_a_limit_ends_has_the_limit_beside_its_score() -> None:
    (line,) = printed([], record(1, 0.4, "PRUNED", reason="the time budget of 25 s was spent", ended_by="time"))
    assert "  height 0.4000  (the time budget of 25 s was spent)  " in line
    (line,) = printed([], record(1, 0.4, "PRUNED", reason="stopped early after epoch 1"))
    assert "(" not in line


def test_an_incident_is_printed_once_and_not_again_by_the_next_run() -> None:
    incident = {"kind": "crash", "reason": "killed", "epoch": 1.0, "changed": {}}
    hurt = record(0, 0.5, "RUNNING", incidents=(incident,))
    assert printed([hurt], hurt) == []
    (line,) = printed([record(0, 0.5, "RUNNING")], hurt, hurt)
    assert line.startswith("trial   0  ")


@pytest.mark.parametrize(("precision", "told"), [("bf16", " in bf16"), ("fp32", "")])
def test_the_line_of_a_trial_names_another_precision_than_fp32(precision: str, told: str) -> None:
    ended = record(0, 0.5)
    evaluations = tuple({**one, "conditions": {"precision": precision}} for one in ended.evaluations)
    (line,) = printed([], replace(ended, evaluations=evaluations))
    assert line.endswith(f"learning_rate=1{told}")


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_live_lines_and_the_live_table_fit_the_screen(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    names = {"backbone": "/模型/" + "x" * 20, **{f"parameter_{number}": number / 7 for number in range(40)}}
    params = {**names, "num_train_epochs": 4}
    console = Console(file=io.StringIO(), width=columns)
    progress = Progress(console, "exact_match", "max", 99, list(names))
    other = {**params, **{name: number / 9 for number, name in enumerate(names)}}
    running = [record(1, 0.5, "RUNNING", params=params), record(2, 0.5, "RUNNING", params=other)]
    for one in (*running, record(0, 0.75, params=params), record(3, None, "FAIL", params=params, reason="no " * 60)):
        progress.update(one)
    console.print(progress.view())
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(cell_len(line) <= columns for line in text.splitlines())
    words = text.split()
    assert {"backbone=/模型/" + "x" * 20, "parameter_39=5.57", "0.5000", "parameter_39"} <= set(words)
    assert "0.7500" in words
    assert "no room for" in text


def test_the_live_table_shows_how_far_each_trial_is_the_expected_end_and_what_is_spent(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace]
) -> None:
    now, reached = [100.0], {0: 1.25}
    space = toy_space("search.trials=2", "budget={time: 1h, target: 0.9}")
    ledger = create_ledger(storage, space, "toy")
    account = Account(ledger, space, lambda: now[0], reached.get)
    progress = Progress(Console(file=io.StringIO()), "height", "max", 2, ["learning_rate"])
    for change in (asked(ledger, space), asked(ledger, space)):
        account.update(change)
        progress.update(change)
    assert "spent" not in progress.totals()
    progress.follow(account)
    account.begin(0, gpus=0.0)
    account.begin(1, gpus=0.0)
    now[0] += 25
    assert [row[1] for row in progress.running().rows] == ["1.2/4", "0/4"]
    assert ", ends in about 55s (at " in progress.totals()
    assert progress.totals().endswith("; spent: 25s of 1h, target 0.9")
    account.save()
    assert (ledger.record(0).progress, ledger.record(1).progress) == (1.25, 0.0)

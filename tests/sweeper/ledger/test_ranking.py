from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, create_ledger
from sweeper.ledger.ranking import Spread, best_first, seed_spread
from sweeper.ledger.record import best_evaluation
from sweeper.monitor.progress import Progress
from sweeper.monitor.status import BestTrial, status
from sweeper.results.overview import sweep_overview
from sweeper.space.search_space import SearchSpace
from tests.support.commands import invoke
from tests.support.trials import record

COMMANDS = ("status toy", "ls", "compare toy --json")


def ended(ledger: Ledger, number: int, height: float) -> None:
    metrics = {"height": height, "eval_loss": 0.5, "epoch": 4.0, "seconds": 1.0}
    ledger.report(number, metrics, None)
    ledger.finish(number, "COMPLETE")


@pytest.fixture
def repeated(here: Path, toy_space: Callable[..., SearchSpace]) -> Ledger:
    """Trials 0 and 1 with heights 0.6 and 0.5, their repeats with 0.58 and 0.9."""
    (here / "sweeps").mkdir()
    space = toy_space("search.trials=2", "repeats={top: 2, seeds: [1]}")
    ledger = create_ledger(open_storage(f"sqlite:///{here}/sweeps/ledger.db"), space, "toy")
    for height in (0.6, 0.5):
        asked = ledger.ask(space)
        assert asked is not None
        ended(ledger, asked.number, height)
    ended(ledger, ledger.repeat(0, 1).number, 0.58)
    ended(ledger, ledger.repeat(1, 1).number, 0.9)
    return ledger


def test_status_progress_ls_and_compare_name_the_same_best_trial(repeated: Ledger) -> None:
    """The best value of all is a repeat's, 0.9; by their means trial 1 (0.7) is better than trial 0 (0.59)."""
    progress = Progress(Console(quiet=True), "height", "max", 4, ["learning_rate"])
    for one in repeated.records():
        progress.update(one)
    (row,) = sweep_overview(repeated.storage)
    assert status(repeated).best == BestTrial(1, 0.5)
    assert progress.totals().endswith(", best 0.5000 (trial 1)")
    assert row[-1] == "0.5000"
    printed = {command: invoke(*command.split()).stdout for command in COMMANDS}
    assert "0.5000" in printed["ls"]
    assert "best so far: height 0.5000 (trial 1)" in printed["status toy"]
    first = json.loads(printed["compare toy --json"])[0]
    assert (first["trial"], first["value"], first["mean"]) == (1, 0.5, pytest.approx(0.7))


def test_only_complete_repeats_count_in_a_mean() -> None:
    repeats = [record(n, 0.1, state, repeat_of=0) for n, state in enumerate(("RUNNING", "PRUNED", "FAIL"), 2)]
    records = [record(0, 0.8), record(1, 0.7), *repeats]
    assert seed_spread(records[0], records) == Spread(1, 0.8, None)
    assert [one.number for one in best_first(records, "max")] == [0, 1]
    assert seed_spread(records[0], [*records, record(5, 0.6, repeat_of=0)]) == Spread(
        2, pytest.approx(0.7), pytest.approx(0.1414213562)
    )


def test_a_repeat_is_never_among_the_best() -> None:
    assert [one.number for one in best_first([record(0, 0.5), record(1, 0.9, repeat_of=0)], "max")] == [0]


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_earliest_of_equal_evaluations_is_best(direction: str) -> None:
    evaluations = [{"height": 0.5, "epoch": epoch} for epoch in (1.0, 2.0, 3.0)]
    assert best_evaluation(evaluations, "height", direction) is evaluations[0]  # type: ignore[arg-type]
    assert best_evaluation([], "height", direction) is None  # type: ignore[arg-type]

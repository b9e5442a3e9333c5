from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import create_ledger
from sweeper.ledger.lookup import Trial
from sweeper.results.recipe import best_yaml
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace

QA = """
name: {name}
job: qa
data: sample
objective: f1
parameters:
  backbone: {{values: ["scratch:1x64x1", "scratch:2x128x2"]}}
  learning_rate: {{min: 1e-5, max: 1e-3, log: true}}
  warmup_ratio: {{min: 0.0, max: 0.2}}
  bf16: {{values: [true, false]}}
  weight_decay: 0
  seed: 7
search: {{trials: 3, seed: 11}}
early_stopping: {{grace_period: 1}}
resources: [{{when: {{backbone: "*:1x*"}}, cpus: 2}}, {{cpus: 1}}]
"""


def rerun(trial: Trial, folder: Path) -> SearchSpace:
    path = folder / "again.yaml"
    path.write_text(best_yaml(trial), encoding="utf-8")
    return read_search_space(path)


@pytest.fixture
def storage() -> RDBStorage:
    return open_storage("sqlite:///:memory:")


def test_the_file_asks_for_the_same_trial_and_for_no_other(storage: RDBStorage, tmp_path: Path) -> None:
    path = tmp_path / "readers.yaml"
    path.write_text(QA.format(name="readers"), encoding="utf-8")
    space = read_search_space(path)
    ledger = create_ledger(storage, space, space.name)
    for _ in range(2):
        record = ledger.ask(space)
        assert record is not None
        again = rerun(Trial(ledger, record), tmp_path)
        fresh = create_ledger(storage, again, again.name)
        asked = fresh.ask(again)
        assert asked is not None
        assert (asked.params, asked.key) == (record.params, record.key)
        assert fresh.ask(again) is None


@pytest.mark.parametrize("name", ["long" * 16, "x" + "." * 62, "2026-05", "on"])
def test_the_file_can_be_read_whatever_the_sweep_is_called(
    name: str, storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, name)
    record = ledger.ask(space)
    assert record is not None
    assert rerun(Trial(ledger, record), tmp_path).name.endswith("-0")


def test_the_file_keeps_what_the_sweep_was_about_and_stops_nothing_early(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    space = toy_space("early_stopping.grace_period=1", "resources.cpus=2", "search.seed=5")
    ledger = create_ledger(storage, space, "toy")
    record = ledger.ask(space)
    assert record is not None
    again = rerun(Trial(ledger, record), tmp_path)
    assert (again.name, again.job, again.data, again.objective) == ("toy-0", space.job, "sample", "height")
    assert (again.search.trials, again.search.seed, again.early_stopping) == (1, 5, None)
    assert again.resources == space.resources


def test_the_file_tells_the_score_and_how_to_run_it(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    record = ledger.ask(space)
    assert record is not None
    assert "which had no score" in best_yaml(Trial(ledger, record))
    record = ledger.report(record.number, {"height": 0.75, "eval_loss": 0.25, "epoch": 1.0, "seconds": 1.0}, None)
    lines = best_yaml(Trial(ledger, record)).splitlines()
    assert lines[:2] == [
        "# Trial toy/0 again, which had height 0.7500, eval_loss 0.2500.",
        "#   sweeper run toy-0.yaml",
    ]

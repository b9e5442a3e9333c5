"""A sweep that a limit of its budget has ended: every command names the limit and how to go on. Real stores, no Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.budget.limits import noted_ending
from sweeper.budget.spending import SPENT_SECONDS
from sweeper.cluster.capacity import Machine
from sweeper.driver import opening
from sweeper.driver.repeats import sweep_ending
from sweeper.driver.run import note_ending
from sweeper.driver.sweep import Sweep
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, create_ledger, load_ledger
from sweeper.space.search_space import SearchSpace
from sweeper.space.sections import Budget, Notify
from sweeper.storage.settings import Stores
from sweeper.tracking.client import connect
from tests.support.commands import invoke
from tests.support.trials import asked

Make = Callable[..., SearchSpace]
REASON = "ended by budget.time: the time budget of 60 s was spent"
ENDED = f"toy: {REASON}; 3 trials remain; to go on: sweeper resume toy --time 2h"
BUDGET = "budget={time: 1m, price: 2}"

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(120)]


@pytest.fixture
def spent(stores: Stores, toy_space: Make, here: Path) -> Ledger:
    """Five trials, of which one has ended and one was cut when the time was spent."""
    space = toy_space("search.trials=5", BUDGET)
    ledger = create_ledger(open_storage(stores.ledger), space, "toy", opening.sweep_versions())
    for number, epoch in ((0, 4.0), (1, 2.0)):
        asked(ledger, space)
        ledger.report(number, {"height": epoch / 10, "eval_loss": 0.5, "epoch": epoch, "seconds": 1.0}, None)
        ledger.set_attempt(number, 0, {"seconds": 1800.0, "gpus": 2.0})
    ledger.finish(0, "COMPLETE")
    ledger.finish(1, "PRUNED", "the time budget of 60 s was spent", "time")
    ledger.set_attribute(SPENT_SECONDS, 61.0)
    return ledger


def test_resume_names_the_limit_and_starts_no_trial(
    spent: Ledger, stores: Stores, capfd: pytest.CaptureFixture[str]
) -> None:
    done = invoke("resume", "toy")
    said = done.stderr.splitlines()
    assert done.exit_code == 0, done.output
    assert ENDED in capfd.readouterr().err.splitlines()
    assert said[-1].startswith(ENDED)
    assert "next: sweeper compare toy" in said[-1]
    assert len(spent.records()) == 2
    assert spent.latest_attributes()["ended_by"]["key"] == "time"
    (run,) = (run for run in mlflow_runs(stores) if run.data.tags["sweeper.kind"] == "sweep")
    assert {name: run.data.tags[f"sweeper.{name}"] for name in ("ended_by", "spent_seconds", "gpu_hours", "cost")} == {
        "ended_by": "budget.time: the time budget of 60 s was spent",
        "spent_seconds": "61",
        "gpu_hours": "2.000",
        "cost": "4.00",
    }
    shown = invoke("status", "toy")
    assert "  spent: 1m1s of 1m, 2.00 GPU-hours, cost 4.00" in shown.stdout.splitlines()
    assert f"  {REASON}" in shown.stdout.splitlines()
    assert shown.stderr == "next: sweeper resume toy --time 2h\n"
    found = json.loads(invoke("status", "toy", "--json").stdout)
    assert found["ended_by"] == {"key": "time", "reason": "the time budget of 60 s was spent", "remaining": 3}
    assert (found["spent"]["seconds"], found["spent"]["gpu_hours"], found["spent"]["cost"]) == (61.0, 2.0, 4.0)


def test_the_report_names_the_limit_and_the_cost(spent: Ledger) -> None:
    from sweeper.results.report import report_html

    spent.set_attribute("ended_by", {"key": "time", "reason": "the time budget of 60 s was spent", "remaining": 3})
    page = report_html(spent)
    assert "Ended by budget.time: the time budget of 60 s was spent; 3 trials remain." in page
    assert "<dt>GPU-hours</dt><dd>2.00" in page
    assert "<dt>Cost</dt><dd>4.00" in page


def test_a_raised_limit_goes_on_and_others_do_not(spent: Ledger) -> None:
    space = opening.space_of(spent)

    def ends(**limits: Any) -> bool:
        changed = replace(space, budget=Budget.model_validate(limits))
        return sweep_ending(spent, spent.records(), changed) is not None

    assert ends(time="1m")
    assert not ends(time="2m")
    assert not ends()
    assert ends(gpu_hours=2)
    assert not ends(gpu_hours=3)
    assert ends(target=0.4)
    assert not ends(target=0.5)


def test_a_file_with_another_budget_continues_the_sweep_and_it_is_not_ended_any_more(
    spent: Ledger, stores: Stores
) -> None:
    space = opening.space_of(spent)
    sweep = Sweep(spent, space, stores.root / "toy", Machine(2, 0))
    ending = note_ending(sweep)
    assert ending is not None
    assert noted_ending(spent.latest_attributes()) == ending
    changed = replace(space, budget=Budget(target=0.9, trials_without_gain=4), notify=Notify())
    assert opening.space_differences(*opening.comparable_spaces(spent, changed)) == []
    assert note_ending(replace(sweep, space=changed)) is None
    assert noted_ending(spent.latest_attributes()) is None


def test_time_is_added_by_resume_and_kept(spent: Ledger) -> None:
    said: list[str] = []
    space = opening.resumed_space(spent, added="2h", limits=["gpu_hours=8"], say=said.append)
    assert said == ["--time: adds 2h; the sweep may run for 2h1m in all, of which 1m1s is spent"]
    spent.extend(space)
    stored = spent.latest_attributes()["search_space"]["budget"]
    assert (stored["time"], stored["gpu_hours"], stored["price"]) == ("2h1m", 8, 2)
    again = load_ledger(spent.storage, "toy")
    assert sweep_ending(again, again.records(), opening.resumed_space(again)) is None


def test_a_mistake_in_an_option_of_resume_changes_nothing(spent: Ledger) -> None:
    before = dict(spent.latest_attributes())
    for options in (("--time", "2"), ("--budget", "hours=2")):
        done = invoke("resume", "toy", *options)
        assert done.exit_code == 2
        assert options[0] in done.stderr
    assert spent.latest_attributes() == before


def test_a_ledger_of_an_earlier_version_has_spent_nothing(spent: Ledger) -> None:
    """Its trials have no attempts, and no run has noted its time."""
    space = opening.space_of(spent)
    ledger = create_ledger(spent.storage, space, "earlier")
    ledger.report(asked(ledger, space).number, {"height": 0.1, "eval_loss": 0.5, "epoch": 4.0}, None)
    ledger.finish(0, "COMPLETE")
    assert sweep_ending(ledger, ledger.records(), space) is None
    assert "spent" not in invoke("status", "earlier").stdout


def mlflow_runs(stores: Stores) -> list[Any]:
    client = connect(stores)
    experiments = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(experiments))

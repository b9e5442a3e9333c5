"""Trials that find out that they cannot use their GPU: a real ledger, no Ray processes, nodes that are only named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.storages import RDBStorage

from sweeper.cluster import nodes, surveys
from sweeper.cluster.capacity import Machine, cluster_of
from sweeper.driver.callbacks import LedgerCallback, missing_resources
from sweeper.driver.searcher import LedgerSearcher, new_trials_source
from sweeper.driver.sweep import Sweep
from sweeper.driver.tuning import placement_group
from sweeper.ledger.ledger import create_ledger
from sweeper.process.signals import Interrupt
from sweeper.space.search_space import SearchSpace
from sweeper.trial.handover import TrialFailure

REASON = "GPUs: torch 2.13 cannot use what the trial has reserved; there is no driver"
UNUSABLE = TrialFailure("gpu", REASON, node="b")
Begin = Callable[..., LedgerSearcher]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def begin(
    storage: RDBStorage,
    toy_space: Callable[..., SearchSpace],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
) -> Begin:
    """Begin a sweep on nodes a and b with a GPU each, or on one machine with two."""
    names = {"a": "10.0.0.1", "b": "10.0.0.2"}
    found = [
        {"NodeID": node, "NodeManagerAddress": name, "Resources": {"CPU": 4, "GPU": 1}} for node, name in names.items()
    ]
    for module in (nodes, surveys):
        monkeypatch.setattr(module, "live_ray_nodes", lambda: found)
    monkeypatch.setattr(surveys.NodeSurveys, "poll", lambda self: None)

    def begin(*overrides: str, several: bool) -> LedgerSearcher:
        space = toy_space("search.trials=9", *overrides)
        machine = cluster_of(nodes.live_nodes()) if several else Machine(8, 2)
        sweep = Sweep(create_ledger(storage, space, "toy"), space, tmp_path / "toy", machine)
        return LedgerSearcher(sweep, new_trials_source(sweep), lambda record: None, Interrupt(), said.append)

    return begin


def given(searcher: LedgerSearcher, name: str) -> dict[str, Any]:
    found = searcher.suggest(name)
    assert isinstance(found, dict)
    return found


def test_a_trial_leaves_a_node_whose_gpu_it_cannot_use_and_none_follows(begin: Begin, said: list[str]) -> None:
    searcher = begin(several=True)
    callback = LedgerCallback(searcher)
    first, second, third = (given(searcher, name) for name in "xyz")
    assert searcher.suggest("none") is None  # one more than fit
    assert {one["nodes"] for one in (first, second, third)} == {""}
    for one, name in ((second, "y"), (third, "z")):
        callback.handle_failure(one["number"], UNUSABLE)
        searcher.on_trial_complete(name, error=True)
    assert said == [f"node 10.0.0.2: {REASON}; it gets no trials that reserve a GPU"]
    searcher.count_nodes = lambda: None  # type: ignore[method-assign]
    searcher.nodes = searcher.surveys.nodes()
    again = given(searcher, "w")
    assert (again["number"], again["nodes"]) == (second["number"], "!in(b)")
    assert searcher.suggest("none") is None  # the waiting one
    assert searcher.sweep.ledger.record(second["number"]).incidents == ()
    assert not searcher.interrupt.stopping
    assert placement_group(again) != placement_group(first)


def test_a_trial_without_a_gpu_may_run_anywhere(begin: Begin) -> None:
    searcher = begin("resources.gpus=0", several=True)
    searcher.surveys.refuse("b", REASON)
    assert given(searcher, "x")["nodes"] == ""


def test_trials_wait_for_a_node_when_all_are_refused(begin: Begin) -> None:
    searcher = begin("resources.gpus=1", several=True)
    trial = SimpleNamespace(status="PENDING", config=given(searcher, "x"))
    assert missing_resources([trial], searcher.surveys.nodes) is None
    searcher.surveys.refuse("a", REASON)
    assert missing_resources([trial], searcher.surveys.nodes) is None
    searcher.surveys.refuse("b", REASON)
    line = str(missing_resources([trial], searcher.surveys.nodes))
    assert line.startswith("it needs 1 × 4 CPU and 1 GPU; nodes: 10.0.0.1 with 4 CPU and 0 GPU")


def test_a_machine_whose_gpu_fails_stops_the_sweep_and_loses_nothing(begin: Begin) -> None:
    searcher = begin(several=False)
    number = given(searcher, "x")["number"]
    LedgerCallback(searcher).handle_failure(number, UNUSABLE)
    assert searcher.interrupt.cause == f"sweep toy: trial {number}: {REASON}; then run `sweeper resume toy`"
    assert searcher.sweep.ledger.record(number).state == "RUNNING"

"""Trials on nodes whose GPUs differ: a real ledger, no Ray processes, nodes that are only named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.storages import RDBStorage
from ray.tune.schedulers import FIFOScheduler

from sweeper.cluster.capacity import Machine, Node, cluster_of
from sweeper.cluster.sharing import TrialMemory
from sweeper.driver.callbacks import LedgerCallback
from sweeper.driver.searcher import LedgerSearcher, new_trials_source
from sweeper.driver.sweep import Sweep
from sweeper.driver.tuning import bind_pending_trials
from sweeper.ledger.ledger import create_ledger
from sweeper.process.signals import Interrupt
from sweeper.space.search_space import SearchSpace
from tests.sweeper.cluster.test_gpus import GIB, H200, T4

FAST, SLOW = Node("fast", 6, 1, "a", H200), Node("slow", 4, 2, "b", T4)
UNKNOWN = Node("later", 4, 1, "c")


class Cluster:
    """A sweep whose trials are only given out, on nodes that come and go."""

    def __init__(self, searcher: LedgerSearcher, monkeypatch: pytest.MonkeyPatch) -> None:
        self.searcher = searcher
        self.live = searcher.sweep.machine.nodes
        monkeypatch.setattr(searcher.surveys, "poll", lambda: None)
        monkeypatch.setattr(searcher.surveys, "nodes", lambda: self.live)

    def give(self, name: str) -> tuple[str, float, float]:
        """Give a trial to Tune: return its condition on nodes, its GPUs and its CPUs."""
        self.searcher.count_nodes()
        config = self.searcher.suggest(name)
        assert isinstance(config, dict)
        return config["nodes"], config["gpus"], config["cpus"]


@pytest.fixture
def begin(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Cluster]:
    def begin(*nodes: Node) -> Cluster:
        space = toy_space("search.trials=30", "resources.gpus=auto")
        machine: Machine = replace(cluster_of(nodes), memory=TrialMemory(11 * GIB, measured=True))
        sweep = Sweep(create_ledger(storage, space, "toy"), space, tmp_path / "toy", machine)
        return Cluster(LedgerSearcher(sweep, new_trials_source(sweep), lambda record: None, Interrupt()), monkeypatch)

    return begin


def test_a_node_with_a_fast_gpu_takes_three_at_once_and_one_with_slow_ones_one_on_each(
    begin: Callable[..., Cluster],
) -> None:
    cluster = begin(FAST, SLOW)
    given = [cluster.give(name) for name in "uvwxy"]
    assert given == [("in(a)", 0.3333, 2)] * 3 + [("in(b)", 1, 2)] * 2
    assert cluster.give("more") == ("", 1, 2)  # waits for any node
    assert cluster.searcher.suggest("none") is None
    cluster.searcher.on_trial_complete("v")
    assert cluster.give("z") == ("in(a)", 0.3333, 2)
    cluster.searcher.on_trial_complete("x")
    assert cluster.give("0") == ("in(b)", 1, 2)


def test_a_node_that_joins_gets_whole_gpus_until_it_has_told_of_them(begin: Callable[..., Cluster]) -> None:
    cluster = begin(FAST)
    assert [cluster.give(name) for name in "uvw"] == [("in(a)", 0.3333, 2)] * 3
    assert cluster.give("x") == ("", 1, 6)
    cluster.live = (FAST, UNKNOWN)
    assert cluster.give("y") == ("in(c)", 1, 4)
    cluster.live = (FAST, replace(UNKNOWN, gpu=H200))
    assert cluster.give("z") == ("in(a,c)", 0.3333, 1)


def test_trials_keep_off_the_cpu_while_all_nodes_with_gpus_are_away(begin: Callable[..., Cluster]) -> None:
    cluster = begin(FAST)
    cluster.live = (Node("bare", 16, 0, "d"),)
    assert cluster.give("x")[1] == 1
    cluster.live = ()
    assert cluster.searcher.max_running() == 1


def test_a_trial_that_waits_for_a_node_that_has_left_is_given_out_again(begin: Callable[..., Cluster]) -> None:
    cluster = begin(FAST, SLOW)
    for name in "uvw":
        cluster.give(name)
    searcher = cluster.searcher
    trials = [
        SimpleNamespace(trial_id=name, status=status, config={"number": searcher.given[name]})
        for name, status in zip("uvw", ("RUNNING", "PENDING", "PENDING"), strict=True)
    ]
    stopped: list[Any] = []
    controller = SimpleNamespace(get_live_trials=lambda: trials, stop_trial=stopped.append)
    choose = bind_pending_trials(FIFOScheduler(), searcher).choose_trial_to_run
    assert choose(controller) is None
    assert stopped == []
    cluster.live = (SLOW,)
    searcher.count_nodes()
    choose(controller)
    assert stopped == trials[1:]  # the running one fails by itself
    LedgerCallback(searcher).on_trial_complete(0, trials, stopped[0])
    number = searcher.given[stopped[0].trial_id]
    searcher.on_trial_complete(stopped[0].trial_id)
    assert searcher.sweep.ledger.record(number).state == "RUNNING"
    assert [record.number for record in searcher.left] == [number]
    assert cluster.give("x") == ("", 1, 2)
    assert searcher.given["x"] == number

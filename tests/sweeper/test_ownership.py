"""Sweeps that run at the same moment: one owner each, and every trial once. Real stores and processes, no Ray."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweeper.cluster.capacity import Machine
from sweeper.driver import mirroring, opening
from sweeper.driver import run as driver
from sweeper.errors import EnvironmentFailure
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import create_ledger, load_ledger
from sweeper.process.signals import Interrupt
from sweeper.space.search_space import SearchSpace
from sweeper.storage.settings import Stores
from sweeper.tracking.client import connect
from tests.support.invariants import check
from tests.support.limits import ending_of
from tests.support.processes import together
from tests.support.trials import asked, evaluated

Make = Callable[..., SearchSpace]
PATIENCE = 100.0
pytestmark = pytest.mark.filterwarnings("default")  # MLflow's and SQLAlchemy's own


def start(number: int, barrier: Any, told: Any, space: SearchSpace, stores: Stores) -> None:
    """Run the sweep; whoever may holds it until the others have been refused."""
    driver.run_unfinished = lambda *_: barrier.wait(PATIENCE)
    barrier.wait(PATIENCE)
    try:
        driver.run_sweep(space, stores, Machine(2, 0), Console(file=io.StringIO()), Interrupt())
        told.put((os.getpid(), None))
    except EnvironmentFailure as failure:
        told.put((os.getpid(), failure.lines))
        barrier.wait(PATIENCE)


@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_of_processes_that_start_a_sweep_at_once_one_runs_it(stores: Stores, toy_space: Make, count: int) -> None:
    """And they make the ledger at once as well."""
    said = together(count, start, toy_space("search.trials=1"), stores)
    owners = [pid for pid, lines in said if lines is None]
    assert len(owners) == 1
    refused = [lines for _, lines in said if lines is not None]
    told = f"sweep toy: process {owners[0]} is running it; wait for it or stop it"
    assert refused == [(told,)] * (count - 1)
    ledger = load_ledger(open_storage(stores.ledger), "toy")
    assert ledger.records() == []
    check(ledger, stores)


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    def die() -> None:
        with driver.sweep_lock(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)

    assert ending_of(die) == -signal.SIGKILL
    left = (tmp_path / "owner").read_text()
    with driver.sweep_lock(tmp_path):
        assert (tmp_path / "owner").read_text() == str(os.getpid()) != left


def sweep(number: int, barrier: Any, told: Any, space: SearchSpace, stores: Stores) -> None:
    """A sweep of six trials and its mirror, without training."""
    barrier.wait(PATIENCE)
    name = f"toy-{number}"
    ledger = create_ledger(open_storage(stores.ledger), space, name, opening.sweep_versions())
    with mirroring.mirror_of(ledger, space, stores) as mirror:
        for trial in range(6):
            record = asked(ledger, space)
            mirroring.show_trial(mirror, ledger, record)
            workdir = stores.root / name / f"trials/{trial:04d}"
            mirroring.show_trial(mirror, ledger, evaluated(ledger, record.number, workdir, 4))
            mirroring.show_trial(mirror, ledger, ledger.finish(record.number, "COMPLETE"))
        mirroring.finish_mirror(ledger, mirror, in_a_hurry=True)
        mirror.finish("COMPLETE")
        mirror.flush(PATIENCE)
    told.put((name, mirror.failure))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_sweeps_at_once_in_one_ledger_and_one_mlflow_have_exact_counts(stores: Stores, toy_space: Make) -> None:
    said = together(2, sweep, toy_space(), stores)
    assert sorted(said) == [("toy-0", None), ("toy-1", None)]
    client = connect(stores)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000)
    kinds = [(run.data.tags["sweeper.kind"], run.info.status) for run in runs]
    assert sorted(kinds) == [("sweep", "FINISHED")] * 2 + [("trial", "FINISHED")] * 12
    found = {(run.data.tags["sweeper.sweep_key"], run.data.tags.get("sweeper.trial_key")) for run in runs}
    assert len(found) == 14
    storage = open_storage(stores.ledger)
    for name in ("toy-0", "toy-1"):
        records = load_ledger(storage, name).records()
        assert [(r.state, len(r.evaluations)) for r in records] == [("COMPLETE", 4)] * 6
        for record in records:
            assert record.run_id
            points = client.get_metric_history(record.run_id, "height")
            assert [point.value for point in points] == [e["height"] for e in record.evaluations]

"""Ray's own memory monitor, with a threshold that every machine exceeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from sweeper.cluster.capacity import Machine
from sweeper.cluster.ray_session import ray_session
from sweeper.driver.sweep import Sweep
from sweeper.driver.tuning import run_trials
from sweeper.ledger.ledger import create_ledger
from sweeper.space.search_space import SearchSpace

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default"), pytest.mark.timeout(300)]


def test_trials_that_rays_monitor_kills_fail_with_the_reason_and_never_end_the_sweep(
    toy_space: Callable[..., SearchSpace], storage: RDBStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "50")
    space = toy_space("search.trials=2", "parameters.per_device_train_batch_size=2", "parameters.pace=60")
    ledger, machine = create_ledger(storage, space, "toy"), Machine(1, 0)
    with ray_session(machine):
        run_trials(Sweep(ledger, space, tmp_path / "toy", machine), lambda record: None)
    for record in ledger.records():
        assert record.state == "FAIL"
        assert [one["changed"] for one in record.incidents] == [{"per_device_train_batch_size": 1}]
        assert "out of memory: Ray's memory monitor killed its process" in str(record.reason)

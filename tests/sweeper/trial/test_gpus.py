"""What trials on real Ray see of GPUs that exist for its scheduler only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from sweeper.cluster.capacity import Machine
from sweeper.cluster.ray_session import ray_session
from sweeper.driver.sweep import Sweep
from sweeper.driver.tuning import run_trials
from sweeper.ledger.ledger import create_ledger
from sweeper.space.search_space import SearchSpace

MACHINE = Machine(cpus=3, gpus=2)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        with ray_session(MACHINE):
            yield


def test_a_trial_sees_the_gpus_that_it_reserves_and_none_without(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    space = toy_space(
        "job=tests.support.seeing:JOB",
        "objective=seen",
        "search={sampler: grid}",
        f"parameters={{folder: '{tmp_path}', seed: {{values: [1, 2, 3]}}}}",
        "resources=[{when: {seed: 1}, gpus: 0}, {when: {seed: 2}, gpus: 2}, {gpus: 1}]",
    )
    ledger = create_ledger(storage, space, "toy")
    run_trials(Sweep(ledger, space, tmp_path / "toy", MACHINE), lambda record: None)
    seen = [(tmp_path / f"seed-{seed}").read_text() for seed in (1, 2, 3)]
    assert seen[0] == ""
    assert sorted(seen[1].split(",")) == ["0", "1"]
    assert seen[2] in ("0", "1")

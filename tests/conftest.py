"""Tiers: plain `pytest` is quick and offline. `pytest -m slow` runs real sweeps and faults, in minutes;
`pytest -m gpu` what needs a CUDA device. Real data and a real encoder are used where SHARED lies beside
the project; without them those tests skip and say so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from sweeper.ledger import open_storage
from sweeper.search_space import SearchSpace, read_search_space

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED


TOY = """\
name: toy
job: tests.toy:JOB
data: sample
objective: height
parameters:
  backbone: {values: [hill, valley]}
  learning_rate: {min: 1e-5, max: 1e-1, log: true}
  num_train_epochs: 4
search: {sampler: tpe, trials: 8, seed: 1}
"""


@pytest.fixture
def toy_space(tmp_path: Path) -> Callable[..., SearchSpace]:
    """Makes the toy's search space, changed by overrides: `toy_space("search.trials=2")`."""

    def make(*overrides: str) -> SearchSpace:
        path = tmp_path / "toy.yaml"
        path.write_text(TOY, encoding="utf-8")
        return read_search_space(path, overrides)

    return make


@pytest.fixture
def storage(tmp_path: Path) -> RDBStorage:
    return open_storage(f"sqlite:///{tmp_path}/ledger.db")

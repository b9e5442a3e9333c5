"""Tiers: plain `pytest` is quick and offline. `pytest -m slow` runs real sweeps and faults, in minutes;
`pytest -m gpu` what needs a CUDA device. Real data and a real encoder are used where SHARED lies beside
the project; without them those tests skip and say so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from optuna.storages import RDBStorage

from jobs import get_job
from jobs.dataset.data import Data, read_data
from jobs.dataset.sample import sample_files
from sweeper.ledger.database import open_storage
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models; more threads only wait for each other
hypothesis.settings.register_profile("sweeper", deadline=None)  # a busy machine is no mistake of the code
hypothesis.settings.load_profile("sweeper")

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


SMALL: Mapping[str, Mapping[str, Any]] = {
    "mc": {"max_length": 96},
    "qa": {"max_length": 64, "doc_stride": 16, "max_answer_length": 12},
    "longformer": {"max_length": 256, "doc_stride": 32, "attention_window": 32, "max_answer_length": 12},
}
EPOCH = {"backbone": "scratch:1x32x2", "num_train_epochs": 1, "learning_rate": 1e-3, "seed": 7}


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The first questions of the sample, as a folder that hides the labels of its test questions."""
    folder = tmp_path_factory.mktemp("few")
    content = sample_files()
    rows = {"train": content["train"][:16], "valid": content["valid"][:12], "test": content["test"][:8]}
    hidden = [{key: row[key] for key in ("id", "question", "paragraphs")} for row in rows["test"]]
    for name, value in {**rows, "context": content["context"], "test": hidden, "test_labels": rows["test"]}.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return read_data(str(folder))


@pytest.fixture(scope="session")
def checkpoints(few: Data, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One trained for an epoch by each job."""
    made: dict[str, Path] = {}
    for name, params in SMALL.items():
        job, workdir = get_job(name), tmp_path_factory.mktemp(name)
        job.train(
            job.params(**EPOCH, **params),
            few.location,
            workdir,
            lambda metrics, checkpoint, name=name: made.update({name: checkpoint}),
        )
    return made

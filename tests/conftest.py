"""Provide what all tests share, and define the tiers.

pytest                             quick and offline
pytest -m "slow and not long"      real sweeps and faults; .ci/run runs it after the quick tier
pytest -m long                     matrices, repeated kills, simulations; run by hand before a release
pytest -m gpu -rs tests/gpu        needs a GPU; -rs tells why a test was skipped. Most of it needs PyTorch,
                                   transformers, accelerate and what jobs/ imports, and neither Ray nor Optuna

Tests of real data and a real encoder skip unless SHARED lies beside the project.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from jobs import get_job
from jobs.dataset.data import Data, read_data
from jobs.dataset.sample import sample_files
from tests.support.spaces import EPOCH, SMALL, TOY

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

    from sweeper.space.search_space import SearchSpace

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models; more threads only wait for each other
for _variable in ("COLUMNS", "LINES"):
    os.environ.pop(_variable, None)  # xdist sets them, and commands would fit their lines to them
hypothesis.settings.register_profile("sweeper", deadline=None)  # a busy machine is no mistake of the code
hypothesis.settings.load_profile("sweeper")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED


@pytest.fixture
def toy_space(tmp_path: Path) -> Callable[..., SearchSpace]:
    """Makes the toy's search space, changed by overrides: `toy_space("search.trials=2")`."""
    from sweeper.space.reading import read_search_space  # the tests on a GPU run without Optuna and pydantic

    def make(*overrides: str) -> SearchSpace:
        path = tmp_path / "toy.yaml"
        path.write_text(TOY, encoding="utf-8")
        return read_search_space(path, overrides)

    return make


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, an empty one, in which no variable says where the stores are."""
    monkeypatch.chdir(tmp_path)
    for name in ("SWEEPER_ROOT", "SWEEPER_LEDGER", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def toy_folder(here: Path) -> Path:
    """Return the current folder, which holds `toy.yaml`."""
    (here / "toy.yaml").write_text(TOY, encoding="utf-8")
    return here


@pytest.fixture
def storage(tmp_path: Path) -> RDBStorage:
    from sweeper.ledger.database import open_storage

    return open_storage(f"sqlite:///{tmp_path}/ledger.db")


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

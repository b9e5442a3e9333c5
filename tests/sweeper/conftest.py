"""A tracking store of a test's own. A real SQLite database, no server."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

import pytest

from sweeper.storage.settings import Stores, read_stores
from sweeper.tracking.client import check_store


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as MLflow leaves it at first use, which takes seconds; every test gets a copy."""
    stores = read_stores(tmp_path_factory.mktemp("blank"), {})
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        check_store(stores)
    assert said.getvalue() == ""  # MLflow reports tables it creates, at every level of importance
    return Path(stores.tracking.removeprefix("sqlite:///"))


@pytest.fixture
def stores(tmp_path: Path, blank: Path) -> Stores:
    stores = read_stores(tmp_path, {})
    stores.root.mkdir(mode=0o700)
    shutil.copy(blank, stores.root / "mlflow.db")
    return stores

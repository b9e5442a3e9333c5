from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from tests.support.zoo import build


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return the builder of a backbone of a kind, which makes each once. Tests only read it."""
    home: Path = tmp_path_factory.mktemp("zoo")
    return lru_cache(lambda kind: build(kind, home / kind))

"""Tiers: plain `pytest` is quick and offline. `pytest -m slow` runs real sweeps and faults, in minutes;
`pytest -m gpu` what needs a CUDA device. Real data and a real encoder are used where SHARED lies beside
the project; without them those tests skip and say so.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return SHARED

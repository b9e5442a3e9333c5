from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.storages import RDBStorage

from sweeper.driver.opening import open_ledger
from sweeper.errors import ConfigError
from sweeper.ledger.ledger import load_ledger
from sweeper.results.comparison import published_scores
from sweeper.space.search_space import SearchSpace

Make = Callable[..., SearchSpace]


def test_a_sweep_that_exists_takes_published_scores_from_its_file(storage: RDBStorage, toy_space: Make) -> None:
    ledger = open_ledger(storage, toy_space(), "toy")
    with pytest.raises(ConfigError, match="no published scores"):
        published_scores(ledger)
    for scores in ({"hill": 0.9}, {"hill": 0.8, "valley": 0.7}):
        overrides = (f"reference.{name}={score}" for name, score in scores.items())
        open_ledger(storage, toy_space(*overrides), "toy")
        assert published_scores(load_ledger(storage, "toy")) == scores

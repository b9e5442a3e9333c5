"""What MLflow is told of a sweep comes from its ledger."""

from __future__ import annotations

from collections.abc import Callable

from sweeper.driver.mirroring import mirror_of
from sweeper.ledger.database import LedgerStorage
from sweeper.ledger.ledger import FORECAST, create_ledger
from sweeper.space.search_space import SearchSpace
from sweeper.storage.settings import Stores


def test_the_forecast_is_told_with_its_range_and_the_limit_that_ends_the_sweep(
    storage: LedgerStorage, stores: Stores, toy_space: Callable[..., SearchSpace]
) -> None:
    space, hours = toy_space(), {"low": 1.0, "expected": 2.5, "high": 4.0}
    ledger = create_ledger(storage, space, "toy")
    assert not any(name.startswith("sweeper.forecast") for name in mirror_of(ledger, space, stores)._sweep.tags)
    values = {"wall_s": hours, "gpu_hours": hours, "cost": None, "source": "earlier trials", "ended_by": "time"}
    ledger.set_attribute(FORECAST, values)
    tags = mirror_of(ledger, space, stores)._sweep.tags
    assert {name: text for name, text in tags.items() if name.startswith("sweeper.forecast")} == {
        "sweeper.forecast.wall_s": "2.5 (1 to 4)",
        "sweeper.forecast.gpu_hours": "2.5 (1 to 4)",
        "sweeper.forecast.source": "earlier trials",
        "sweeper.forecast.ended_by": "budget.time",
    }

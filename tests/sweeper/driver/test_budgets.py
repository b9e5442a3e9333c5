"""Each limit of a budget ends a sweep of the toy at the right point, and again after each of two resumes that raise it.
Real Ray with pretended GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage

from sweeper.budget.changes import with_limits
from sweeper.budget.limits import Counts, counts_of
from sweeper.budget.spending import Spending, spending_of
from sweeper.cluster.capacity import Machine
from sweeper.driver.repeats import sweep_ending
from sweeper.driver.sweep import Sweep
from sweeper.driver.tuning import ray_session, run_trials
from sweeper.ledger.ledger import Ledger, create_ledger
from sweeper.space.search_space import SearchSpace

Make = Callable[..., SearchSpace]
MACHINE = Machine(cpus=2, gpus=2)
SLACK_SECONDS = 6.0  # Tune waits for a trial's epoch, and the machine may be busy

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("default"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session(MACHINE):
        yield


@dataclass(frozen=True)
class Case:
    """A limit, its values in three runs, and whether what is spent and counted is just beyond such a value."""

    key: str
    values: tuple[str, str, str]
    beyond: Callable[[Spending, Counts, float], bool]
    more: tuple[str, ...] = ()
    stops: bool = True  # running trials are ended

    def overrides(self) -> tuple[str, ...]:
        return (f"budget.{self.key}={self.values[0]}", "search.trials=200", "resources.gpus=1", *self.more)


def just_over(spent: float, limit: float, hourly: float) -> bool:
    """More is spent than the limit, by no more than what two trials spend in the slack."""
    return limit <= spent <= limit + 2 * hourly * SLACK_SECONDS / 3600


SLOWLY = ("parameters.pace=0.3",)
CASES = [
    Case("time", ("6s", "12s", "18s"), lambda s, c, v: v <= s.seconds <= v + SLACK_SECONDS, SLOWLY),
    Case("gpu_hours", ("0.001", "0.003", "0.005"), lambda s, c, v: just_over(s.gpu_hours, v, 1), SLOWLY),
    Case(
        "cost",
        ("0.01", "0.03", "0.05"),
        lambda s, c, v: just_over(s.priced_hours * 10, v, 10),
        ("budget.price=10", *SLOWLY),
    ),
    Case("trials_without_gain", ("2", "5", "9"), lambda s, c, v: v <= c.without_gain <= v + 1, stops=False),
    Case("target", ("0.2", "0.35", "0.5"), lambda s, c, v: (c.best or 0) >= v),
    Case(
        "failed_trials", ("2", "4", "6"), lambda s, c, v: v <= c.failed <= v + 1, ("parameters.trouble=raise",), False
    ),
]


def number(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_a_limit_ends_the_sweep_at_the_right_point_across_two_resumes(
    storage: RDBStorage, toy_space: Make, tmp_path: Path, case: Case
) -> None:
    space = toy_space(*case.overrides())
    ledger = create_ledger(storage, space, "toy")
    known = 0
    for value in case.values:
        space = replace(space, budget=with_limits(space.budget, [f"{case.key}={value}"]))
        ledger.extend(space)
        assert sweep_ending(ledger, ledger.records(), space) is None
        run_trials(Sweep(ledger, space, tmp_path / "toy", MACHINE), lambda record: None)
        records = ledger.records()
        ending = sweep_ending(ledger, records, space)
        assert ending is not None
        assert ending.key == case.key
        assert case.beyond(*measured(ledger), number(value))
        assert len(records) > known  # it went on
        assert all(record.state != "RUNNING" for record in records)
        cut: list[Any] = [record for record in records[known:] if record.ended_by]
        assert all(record.ended_by == case.key and record.reason == ending.reason for record in cut)
        assert case.stops or not cut
        known = len(records)


def measured(ledger: Ledger) -> tuple[Spending, Counts]:
    records = ledger.records()
    return spending_of(ledger.latest_attributes(), records), counts_of(records, "max")

"""Describe a sweep before it runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sweeper.cluster.capacity import Machine
from sweeper.monitor.plan import plan_lines
from sweeper.space.search_space import SearchSpace


@pytest.mark.parametrize(
    ("trials", "first", "title", "configurations"),
    [
        (8, 5, "first 5 configurations", 5),
        (2, 5, "first 2 configurations", 2),
        (1, 5, "the configuration", 1),
        (8, 1, "first configuration", 1),
        (2, 0, None, 0),
    ],
)
def test_the_title_counts_the_configurations_that_follow(
    toy_space: Callable[..., SearchSpace], trials: int, first: int, title: str | None, configurations: int
) -> None:
    lines = list(plan_lines(toy_space(f"search.trials={trials}"), Machine(2, 0), first))
    assert [line for line in lines if "configuration" in line] == ([title] if title else [])
    assert sum(line.startswith("  backbone=") for line in lines) == configurations

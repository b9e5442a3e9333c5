"""Describe a sweep before it runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sweeper.cluster.capacity import Machine
from sweeper.forecast.disk import disk_line
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


SCRATCH = ("job=qa", "objective=exact_match", "parameters={backbone: 'scratch:2x128x2', learning_rate: 1e-3}")


@pytest.mark.parametrize(
    ("changes", "total", "kept", "running"),
    [
        ({"parameters.num_train_epochs": 1}, 60, 3, 12),
        ({"parameters.num_train_epochs": 2}, 133, 3, 48),
        ({"parameters.num_train_epochs": 3}, 205, 3, 84),
        ({"parameters.num_train_epochs": 9}, 253, 3, 109),
        ({"parameters.num_train_epochs": 1, "parameters.eval_steps": 5}, 253, 3, 109),
        ({"parameters.num_train_epochs": 9, "parameters.fsdp": "true", "resources": "{workers: 2}"}, 326, 3, 145),
        ({"parameters.num_train_epochs": 1, "repeats": "{top: 5, seeds: [1]}"}, 84, 5, 12),
    ],
)
def test_the_disk_holds_weights_for_kept_checkpoints_and_training_state_for_running_trials(
    toy_space: Callable[..., SearchSpace], changes: dict[str, object], total: int, kept: int, running: int
) -> None:
    space = toy_space(*SCRATCH, *(f"{name}={value}" for name, value in changes.items()))
    assert disk_line(space, 2) == (
        f"disk: up to {total} MiB: 12 MiB for each kept checkpoint ({kept}), {running} MiB for each running trial (2)"
    )


def test_the_disk_space_of_a_job_of_ones_own_is_not_said_to_wait_for_a_download(
    toy_space: Callable[..., SearchSpace],
) -> None:
    assert disk_line(toy_space(), 2) == "disk: not known; a job of your own decides what its checkpoints hold"

from __future__ import annotations

import pytest

from sweeper.capacity import Machine, share
from sweeper.errors import EnvironmentFailure
from sweeper.section import Resources


@pytest.mark.parametrize(
    ("resources", "machine", "expected"),
    [
        (None, Machine(2, 0), (1, 0, 2)),
        (None, Machine(8, 2), (1, 1, 2)),  # a whole GPU where there is one
        (Resources(gpus=0), Machine(8, 2), (1, 0, 8)),
        (Resources(gpus=0.5), Machine(8, 2), (1, 0.5, 4)),
        (Resources(gpus=0.4), Machine(8, 2), (1, 0.4, 4)),  # two fit on a GPU, none across two
        (Resources(gpus=0.5), Machine(3, 2), (1, 0.5, 3)),  # the CPUs run out first
        (Resources(gpus=2), Machine(8, 3), (1, 2, 1)),
        (Resources(cpus=2), Machine(5, 0), (2, 0, 2)),
        (Resources(cpus=0.5), Machine(2, 0), (0.5, 0, 4)),
    ],
)
def test_how_many_trials_fit(resources: Resources | None, machine: Machine, expected: tuple[float, float, int]) -> None:
    found = share(resources, machine, trials=100)
    assert (found.cpus, found.gpus, found.slots) == expected


@pytest.mark.parametrize(
    ("resources", "message"),
    [(Resources(gpus=1), "wants 1 and this machine has 0; run on the CPU with resources.gpus=0"),
     (Resources(cpus=3), "resources.cpus: a trial wants 3 and this machine has 2")],
)  # fmt: skip
def test_what_can_never_run_is_refused_at_once(resources: Resources, message: str) -> None:
    with pytest.raises(EnvironmentFailure, match=message):
        share(resources, Machine(2, 0), 8)


def test_the_reason_is_said() -> None:
    assert share(None, Machine(2, 0), 8).why(Machine(2, 0)) == "2 at once: each reserves 1 CPU, of 2 CPU"
    wanted = share(Resources(gpus=0.5), Machine(8, 2), 8)
    assert wanted.why(Machine(8, 2)) == "4 at once: each reserves 1 CPU and 0.5 GPU, of 8 CPU and 2 GPU"


def test_few_trials_share_all_threads() -> None:
    assert (share(None, Machine(16, 0), 3).cpus, share(None, Machine(16, 0), 3).slots) == (5, 3)
    assert share(None, Machine(2, 0), 1).cpus == 2

"""How many trials run side by side, and why. Pure arithmetic over what a machine has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.errors import EnvironmentFailure
from sweeper.search_space import SearchSpace, possible_resources, resources_of
from sweeper.section import Resources


@dataclass(frozen=True)
class Machine:
    cpus: int
    gpus: int


@dataclass(frozen=True)
class Share:
    """What one trial reserves, and how many such trials a machine holds at once."""

    cpus: float
    gpus: float
    slots: int

    def why(self, machine: Machine) -> str:
        wants = f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")
        has = f"{machine.cpus} CPU" + (f" and {machine.gpus} GPU" if machine.gpus or self.gpus else "")
        return f"{self.slots} at once: each reserves {wants}, of {has}"


def local_machine() -> Machine:
    """The CPUs this process may run on and the GPUs CUDA shows it."""
    return Machine(len(os.sched_getaffinity(0)), _gpus())


def _gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    import torch

    return int(torch.cuda.device_count())


def share(resources: Resources | None, machine: Machine, trials: int) -> Share:
    """What each of `trials` trials reserves here. Left open, it takes a whole GPU where there is one, and else
    a CPU, or more only when there are fewer trials than CPUs: two trials with a thread each finish sooner
    than one after the other with two.

    Raises EnvironmentFailure for what this machine can never give.
    """
    gpus = resources.gpus if resources and resources.gpus is not None else float(machine.gpus > 0)
    spare = 1 if gpus else max(1, machine.cpus // trials)
    cpus = resources.cpus if resources and resources.cpus is not None else float(spare)
    if gpus > machine.gpus:
        cure = "run on the CPU with resources.gpus=0"
        raise EnvironmentFailure(f"resources.gpus: a trial wants {gpus:g} and this machine has {machine.gpus}; {cure}")
    if cpus > machine.cpus:
        raise EnvironmentFailure(
            f"resources.cpus: a trial wants {cpus:g} and this machine has {machine.cpus}; lower it"
        )
    by_cpu = int(machine.cpus / cpus)
    return Share(cpus, gpus, min(by_cpu, _by_gpu(gpus, machine.gpus)) if gpus else by_cpu)


def _by_gpu(wanted: float, gpus: int) -> int:
    """A fraction is taken from one GPU, never across two."""
    return int(gpus // wanted) if wanted >= 1 else gpus * int(1 / wanted)


def shares(space: SearchSpace, machine: Machine) -> list[Share]:
    """The different shares trials of this space may reserve. Raises EnvironmentFailure if one can never be given."""
    return [share(resources, machine, space.search.trials or 1) for resources in possible_resources(space)]


def share_of(space: SearchSpace, params: Mapping[str, Any], machine: Machine) -> Share:
    """What the trial with these parameters reserves."""
    return share(resources_of(space, params), machine, space.search.trials or 1)

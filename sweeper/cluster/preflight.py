"""Refuse a sweep whose trials would reserve GPUs that they cannot use and would therefore train on the CPU."""

from __future__ import annotations

import os

from sweeper.cluster.capacity import Machine, reservations
from sweeper.cluster.gpus import VISIBLE, survey_gpus, unusable_reason
from sweeper.errors import EnvironmentFailure
from sweeper.space.search_space import SearchSpace
from sweeper.trial.gpu import CHECK


def check_gpus(space: SearchSpace, machine: Machine) -> None:
    """Check the GPUs if a trial of this space reserves one. Raises EnvironmentFailure if a trial cannot use them."""
    if os.environ.get(CHECK) == "0" or not any(one.gpus for one in reservations(space, machine)):
        return
    if machine.nodes:
        from sweeper.cluster.nodes import gpu_reasons

        reasons = gpu_reasons()
    else:
        reasons = list(filter(None, [unusable_reason(survey_gpus(), machine.gpus, os.environ.get(VISIBLE))]))
    if reasons:
        raise EnvironmentFailure(reasons)

"""Estimate the disk space that the checkpoints of a sweep take at most at any time."""

from __future__ import annotations

import statistics

from jobs import get_job
from jobs.model.backbones import weight_bytes
from sweeper.forecast.forecast import Expected
from sweeper.space.cases import backbones, max_evaluations, may_shard
from sweeper.space.search_space import SearchSpace

STATE_COPIES = 2  # the two moments of AdamW have the size of the weights each
RUNNING_CHECKPOINTS = 3  # of a running trial: its best, its newest, and the one that is being written


def disk_bytes(space: SearchSpace, slots: int) -> Expected | None:
    """Return the bytes if all trials have the smallest, the mean or the largest backbone; None if none is here yet.

    Kept checkpoints have weights alone. `slots` trials run at once.
    """
    copies = space.kept_checkpoints + slots * _copies_of_running(space)
    sizes = [size for size in map(weight_bytes, backbones(space)) if size is not None]
    return Expected(*(copies * of for of in (min(sizes), statistics.fmean(sizes), max(sizes)))) if sizes else None


def disk_line(space: SearchSpace, slots: int) -> str:
    """Return the largest estimate as one line, with its parts."""
    sizes = [weight_bytes(name) for name in backbones(space)]
    most = disk_bytes(space, slots)
    if most is None and get_job(space.job).task is None:
        return "disk: not known; a job of your own decides what its checkpoints hold"
    if most is None:
        return "disk: not known before the backbones are downloaded"
    largest = max(size for size in sizes if size is not None) / 2**20
    running = largest * _copies_of_running(space)
    caveat = ", larger if a backbone that is not here yet is larger" if None in sizes else ""
    return (
        f"disk: up to {most.high / 2**20:,.0f} MiB: {largest:,.0f} MiB for each kept checkpoint "
        f"({space.kept_checkpoints}), {running:,.0f} MiB for each running trial ({slots}){caveat}"
    )


def _copies_of_running(space: SearchSpace) -> int:
    return running_copies(max_evaluations(space), STATE_COPIES + may_shard(space))


def running_copies(evaluations: int | None, state: int = STATE_COPIES) -> int:
    """Return the size of a running trial's checkpoints at their largest, in sizes of its weights.

    All checkpoints but the last one of `evaluations` have training state, `state` times as large as the weights. None
    means many evaluations.

    >>> running_copies(1), running_copies(2), running_copies(4)
    (1, 4, 9)
    """
    with_state = RUNNING_CHECKPOINTS if evaluations is None else min(evaluations - 1, RUNNING_CHECKPOINTS)
    return with_state * (1 + state) + (with_state < RUNNING_CHECKPOINTS)

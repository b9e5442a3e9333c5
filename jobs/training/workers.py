"""Coordinate the workers of one training: processes of a torch.distributed group, each with a rank.

A process without a group is rank 0 of 1. If one rank fails before a collective call, the others wait for it, so
`once` sends the failure to all ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


class WorkerError(RuntimeError):
    """Reports, on all other ranks, that rank 0 failed."""


def join_workers() -> None:
    """Join the process group described by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.

    Does nothing when this process has joined already or these variables are not set.
    """
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())


def is_distributed() -> bool:
    """Return true if this process belongs to a process group."""
    return bool(dist.is_available() and dist.is_initialized())


def count() -> int:
    """Return the number of workers."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Return the rank of this worker, counted from 0."""
    return dist.get_rank() if is_distributed() else 0


def barrier() -> None:
    """Wait until every worker has called this."""
    if is_distributed():
        dist.barrier()


def once(work: Callable[[], T]) -> T:
    """Run `work` on rank 0 and return its result on every rank. All ranks wait for it.

    An exception of `work` is raised on rank 0; the others raise WorkerError with its text.
    """
    if count() == 1:
        return work()
    if rank() > 0:
        received: T = _receive()
        return received
    try:
        result = work()
    except BaseException as error:
        _send(f"{type(error).__name__}: {error}", None)
        raise
    _send(None, result)
    return result


def _send(failure: str | None, result: Any) -> None:
    dist.broadcast_object_list([failure, result])


def _receive() -> Any:
    message: list[Any] = [None, None]
    dist.broadcast_object_list(message)
    if message[0] is not None:
        raise WorkerError(f"rank 0: {message[0]}")
    return message[1]


def gather_on_first(value: T) -> list[T]:
    """Return the values of all ranks in their order on rank 0, and an empty list on the others."""
    if count() == 1:
        return [value]
    values: list[Any] | None = [None] * count() if rank() == 0 else None
    dist.gather_object(value, values)
    return values or []

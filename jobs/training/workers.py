"""The workers of one training: processes that torch.distributed has joined, each with a rank. Alone, a process is
rank 0 of one. Where they meet nothing may fail on one alone, or the others would wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


class WorkerError(RuntimeError):
    """What rank 0 did for all failed; the other ranks say why."""


def join_workers() -> None:
    """Become one of the workers that the environment tells of (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
    MASTER_PORT), unless that is done already or there are none."""
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())


def is_distributed() -> bool:
    return bool(dist.is_available() and dist.is_initialized())


def count() -> int:
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def barrier() -> None:
    """Go on when every worker is here."""
    if is_distributed():
        dist.barrier()


def once(work: Callable[[], T]) -> T:
    """What `work` gives on rank 0, which alone does it, on every rank. No rank goes on before it is done.

    Raises what it raises on rank 0, and WorkerError with its text on the others.
    """
    if count() == 1:
        return work()
    if rank() > 0:
        told: T = _told()
        return told
    try:
        result = work()
    except BaseException as error:
        _tell(f"{type(error).__name__}: {error}", None)
        raise
    _tell(None, result)
    return result


def _tell(trouble: str | None, result: Any) -> None:
    dist.broadcast_object_list([trouble, result])


def _told() -> Any:
    message: list[Any] = [None, None]
    dist.broadcast_object_list(message)
    if message[0] is not None:
        raise WorkerError(f"rank 0: {message[0]}")
    return message[1]


def gather_on_first(value: T) -> list[T]:
    """The values of all ranks in their order, on rank 0; an empty list on the others."""
    if count() == 1:
        return [value]
    values: list[Any] | None = [None] * count() if rank() == 0 else None
    dist.gather_object(value, values)
    return values or []

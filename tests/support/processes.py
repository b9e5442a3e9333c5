"""Start processes that work at the same moment."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

SECONDS = 100.0


def together(count: int, work: Callable[..., object], *arguments: Any) -> list[Any]:
    """Run `work(number, barrier, queue, *arguments)` in `count` processes; return an item of the queue for each."""
    context = multiprocessing.get_context("fork")
    barrier, told = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=work, args=(number, barrier, told, *arguments), daemon=True) for number in range(count)
    ]
    for process in processes:
        process.start()
    said = [told.get(timeout=SECONDS) for _ in processes]
    for process in processes:
        process.join(SECONDS)
        assert process.exitcode == 0
    return said

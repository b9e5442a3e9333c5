"""Prepare batches in a thread while the device computes."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np
import torch

T = TypeVar("T")
END: Any = object()
AHEAD = 4  # batches to prepare ahead; one takes much less time than its step


class Ahead(Iterator[T], Generic[T]):
    """Yield the items of `source` in their order, at most `most` of them prepared ahead by one thread.

    An exception of `source` is raised where its item would be returned. If the first item draws random numbers, every
    item is prepared when it is asked for: otherwise the numbers would depend on the speed of the thread. `close` ends
    the thread.
    """

    def __init__(self, source: Iterator[T], most: int) -> None:
        self.source = source
        self.most = most
        self.thread: ThreadPoolExecutor | None = None
        self.items: deque[Future[T]] = deque()
        self.begun = False

    def __next__(self) -> T:
        if not self.begun:
            return self._first()
        if self.thread is None:
            return next(self.source)
        item = self.items.popleft().result()
        self._order()
        if item is END:
            self.close()
            raise StopIteration
        return item

    def close(self) -> None:
        """Wait for the item in preparation, drop the prepared ones and end the thread."""
        if self.thread:
            self.thread.shutdown(cancel_futures=True)
        self.thread, self.source = None, iter(())
        self.items.clear()

    def _first(self) -> T:
        states = _random_states()
        self.begun = True
        item = next(self.source)
        if _random_states() == states:
            # A thread begins with the first GPU; memory for its copies must belong to the GPU of this one.
            gpu = (torch.cuda.set_device, (torch.cuda.current_device(),)) if torch.cuda.is_initialized() else (None, ())
            self.thread = ThreadPoolExecutor(1, "batches", *gpu)
            for _ in range(self.most):
                self._order()
        return item

    def _order(self) -> None:
        if self.thread:
            self.items.append(self.thread.submit(next, self.source, END))


def _random_states() -> tuple[Any, ...]:
    """Return the states of the random numbers of Python, NumPy and torch."""
    state: Any = np.random.get_state()
    return random.getstate(), (state[1].tobytes(), *state[2:]), torch.get_rng_state().numpy().tobytes()

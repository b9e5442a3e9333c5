"""Measure how many seconds each phase of a trial takes, and tell how far it is. Standard library only.

A job marks its phases with `with phase("evaluation"):`. The caller measures them with `timed_by`; without it,
nothing is measured. Work that a thread does while training goes on, such as publishing a checkpoint, belongs to no
phase: `checkpoints` is the time for which training waits.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

START = "start"  # starting the process, importing, loading data and model
TRAINING = "training"  # also counts all work that a job does not mark as another phase
WAITING = "waiting"  # for resources, and for reports to be accepted
PHASES = (START, "features", TRAINING, "evaluation", "checkpoints", WAITING)


class Stopwatch:
    """Measures the seconds of one phase at a time, by a monotonic clock.

    >>> watch = Stopwatch("start")
    >>> watch.turn("training")
    'start'
    >>> watch.taken()
    {'start': 4.1, 'training': 0.0}
    """

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self.since = time.monotonic()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def turn(self, phase: str) -> str:
        """Switch to another phase and return the phase that ends."""
        now = time.monotonic()
        self.seconds[self.phase] += now - self.since
        before, self.phase, self.since = self.phase, phase, now
        return before

    def taken(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call, then start again at zero."""
        self.turn(self.phase)
        taken, self.seconds = dict(self.seconds), defaultdict(float)
        return taken


_watch: ContextVar[Stopwatch | None] = ContextVar("watch", default=None)


@contextmanager
def timed_by(watch: Stopwatch) -> Iterator[None]:
    """Measure all phases inside the block with `watch`."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the time of the block for phase `name`. Phases inside the block are counted separately."""
    watch = _watch.get()
    if watch is None:
        yield
        return
    before = watch.turn(name)
    try:
        yield
    finally:
        watch.turn(before)


_listener: ContextVar[Callable[[float], object] | None] = ContextVar("listener", default=None)


@contextmanager
def epochs_told_to(listener: Callable[[float], object]) -> Iterator[None]:
    """Call `listener` with each epoch that `tell_epoch` tells inside the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell_epoch(epoch: float) -> None:
    """Tell how far the training is: 1.25 is a quarter of the second epoch. Jobs may call it after every step.

    Without a listener, nothing happens.
    """
    if (listener := _listener.get()) is not None:
        listener(epoch)

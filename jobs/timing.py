"""Where a trial's time goes: seconds by phase, each second in one of them. Standard library only.

A job says `with phase("evaluation"):`; whoever runs it may hold a watch on it, and else nothing is measured.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

START = "start"  # the process, its imports, the data, the model
TRAINING = "training"  # and whatever a job does not name
WAITING = "waiting"  # for resources, and for whoever is reported to
PHASES = (START, "features", TRAINING, "evaluation", "checkpoints", WAITING)


class Stopwatch:
    """Measures one phase at a time, in seconds of a clock that nobody sets.

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
        """Go over to another phase; returns the one that ends."""
        now = time.monotonic()
        self.seconds[self.phase] += now - self.since
        before, self.phase, self.since = self.phase, phase, now
        return before

    def taken(self) -> dict[str, float]:
        """What each phase has taken since this was last asked."""
        self.turn(self.phase)
        taken, self.seconds = dict(self.seconds), defaultdict(float)
        return taken


_watch: ContextVar[Stopwatch | None] = ContextVar("watch", default=None)


@contextmanager
def timed_by(watch: Stopwatch) -> Iterator[None]:
    """Phases of what is done in this block are measured by this watch."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """The time of this block is that of a phase; what is another phase's within it is not."""
    watch = _watch.get()
    if watch is None:
        yield
        return
    before = watch.turn(name)
    try:
        yield
    finally:
        watch.turn(before)

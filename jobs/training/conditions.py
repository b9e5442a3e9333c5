"""Tell the caller of a training under which conditions it runs: device, precision, batch size. Standard library only.

A job notes them with `record_conditions(precision="bf16")`. The caller receives them with `conditions_in(store)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Conditions = dict[str, Any]  # names and plain values; the ledger and checkpoints hold them as JSON

_conditions: ContextVar[Conditions | None] = ContextVar("conditions", default=None)


@contextmanager
def conditions_in(store: Conditions) -> Iterator[None]:
    """Put all conditions that are noted inside the block into `store`."""
    token = _conditions.set(store)
    try:
        yield
    finally:
        _conditions.reset(token)


def record_conditions(**values: Any) -> None:
    """Note conditions of the training that runs; a later value replaces an earlier one. Without a caller do nothing."""
    store = _conditions.get()
    if store is not None:
        store.update(values)


def recorded_conditions() -> Conditions:
    """Return a copy of the conditions that are noted so far."""
    return dict(_conditions.get() or {})

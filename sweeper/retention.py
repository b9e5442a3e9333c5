"""Which checkpoints a sweep can do without. Pure; the caller deletes."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.job import Direction
from sweeper.ledger import TrialRecord


def disposable(records: Sequence[TrialRecord], direction: Direction, keep: int) -> list[str]:
    """Checkpoints nothing needs any more: a running trial needs its best and its newest one, and of the
    trials that have ended only the `keep` best need theirs. A repeat was run for its score alone.

    >>> disposable([complete(number=0, value=0.4), complete(number=1, value=0.6)], "max", keep=1)
    ['…/trials/0000/checkpoint-000100']
    """
    search = [record for record in records if record.repeat_of is None]
    needed = {record.checkpoint for record in best(search, direction)[:keep]}
    for record in records:
        if record.state == "RUNNING" and record.evaluations:
            needed |= {record.checkpoint, record.evaluations[-1]["checkpoint"]}
    every = (evaluation["checkpoint"] for record in records for evaluation in record.evaluations)
    return [checkpoint for checkpoint in every if checkpoint and checkpoint not in needed]


def best(records: Sequence[TrialRecord], direction: Direction) -> list[TrialRecord]:
    """The trials with a value that ended well or were stopped early, best first; the earlier of equals first."""
    sign = -1 if direction == "max" else 1
    ended = (record for record in records if record.state in ("COMPLETE", "PRUNED"))
    scored = ((sign * record.value, record.number, record) for record in ended if record.value is not None)
    return [record for *_, record in sorted(scored, key=lambda entry: entry[:2])]

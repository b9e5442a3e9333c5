"""Which checkpoints a sweep can do without, and their end."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from jobs import faults
from jobs.job import Direction
from sweeper.ledger.ledger import TrialRecord
from sweeper.storage import checkpoints as depot


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


def needy(records: Sequence[TrialRecord], direction: Direction, keep: int) -> list[TrialRecord]:
    """The trials that can still need a checkpoint: those that run, and the `keep` best. One that has ended and is
    none of these never will be."""
    search = [record for record in records if record.repeat_of is None]
    return [record for record in records if record.state == "RUNNING"] + best(search, direction)[:keep]


def best(records: Sequence[TrialRecord], direction: Direction) -> list[TrialRecord]:
    """The trials with a value that ended well or were stopped early, best first; the earlier of equals first."""
    sign = -1 if direction == "max" else 1
    ended = (record for record in records if record.state in ("COMPLETE", "PRUNED"))
    scored = ((sign * record.value, record.number, record) for record in ended if record.value is not None)
    return [record for *_, record in sorted(scored, key=lambda entry: entry[:2])]


def delete(checkpoints: Iterable[str]) -> None:
    """Remove checkpoints. The ledger has been written before, so that one cut short
    is one that nothing points to, and goes next time."""
    for checkpoint in checkpoints:
        faults.point("retention.delete")
        depot.delete([checkpoint])


def delete_copies(workdir: Path) -> None:
    """Remove the copies on this machine of an ended trial's checkpoints that are kept elsewhere."""
    for checkpoint in workdir.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)

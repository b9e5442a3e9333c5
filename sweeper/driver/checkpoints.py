"""What is left of a sweep, and where a trial that was cut short goes on: read from the ledger, checked on disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs import faults
from jobs.job import Direction
from sweeper.ledger.ranking import best_first, without_repeats
from sweeper.ledger.record import TrialRecord
from sweeper.storage import checkpoints
from sweeper.storage import checkpoints as depot


def resume_point(record: TrialRecord) -> Mapping[str, Any] | None:
    """The newest evaluation whose checkpoint is undamaged. A checkpoint without an evaluation in the ledger is
    no such point: going on from it would leave a gap among the evaluations."""
    return next(_resume_points(record), None)


def _resume_points(record: TrialRecord) -> Iterator[Mapping[str, Any]]:
    newest_first = reversed(record.evaluations)
    return (e for e in newest_first if e["checkpoint"] and not checkpoints.stored_damage(e["checkpoint"]))


def resume_checkpoints(record: TrialRecord, workdir: Path, storage: str | None = None) -> tuple[str, ...]:
    """The checkpoint to go on from, if any. Those that came later, or never reached the ledger, are removed: the
    trial will write them again, under the same names.

    Of a bucket's only the sizes are known, so that the earlier ones follow, for the trial to fall back on.
    """
    points = _resume_points(record)
    point = next(points, None)
    known = record.evaluations[: record.evaluations.index(point) + 1] if point else ()
    kept = {evaluation["checkpoint"] for evaluation in known if evaluation["checkpoint"]}
    names = {checkpoints.name_of(address) for address in kept}
    for checkpoint in workdir.glob("checkpoint-*"):
        if checkpoint.name not in names:
            shutil.rmtree(checkpoint)
    if storage and checkpoints.is_remote(storage):
        checkpoints.tidy(storage, kept)
    if point is None:
        return ()
    earlier = points if checkpoints.is_remote(point["checkpoint"]) else ()
    return (point["checkpoint"], *(one["checkpoint"] for one in earlier))


def unneeded_checkpoints(records: Sequence[TrialRecord], direction: Direction, keep: int) -> list[str]:
    """Checkpoints nothing needs any more: a running trial needs its best and its newest one, and of the
    trials that have ended only the `keep` best need theirs. A repeat was run for its score alone.

    >>> disposable([complete(number=0, value=0.4), complete(number=1, value=0.6)], "max", keep=1)
    ['…/trials/0000/checkpoint-000100']
    """
    # ranked without repeats: once a checkpoint is deleted, a better mean cannot bring it back
    needed = {record.checkpoint for record in best_first(without_repeats(records), direction)[:keep]}
    for record in records:
        if record.state == "RUNNING" and record.evaluations:
            needed |= {record.checkpoint, record.evaluations[-1]["checkpoint"]}
    every = (evaluation["checkpoint"] for record in records for evaluation in record.evaluations)
    return [checkpoint for checkpoint in every if checkpoint and checkpoint not in needed]


def trials_with_checkpoints(records: Sequence[TrialRecord], direction: Direction, keep: int) -> list[TrialRecord]:
    """The trials that can still need a checkpoint: those that run, and the `keep` best. One that has ended and is
    none of these never will be."""
    running = [record for record in records if record.state == "RUNNING"]
    return running + best_first(without_repeats(records), direction)[:keep]


def delete_checkpoints(checkpoints: Iterable[str]) -> None:
    """Remove checkpoints. The ledger has been written before, so that one cut short
    is one that nothing points to, and goes next time."""
    for checkpoint in checkpoints:
        faults.point("retention.delete")
        depot.delete_stored([checkpoint])


def delete_copies(workdir: Path) -> None:
    """Remove the copies on this machine of an ended trial's checkpoints that are kept elsewhere."""
    for checkpoint in workdir.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)

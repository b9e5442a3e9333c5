"""Decide from which checkpoint a trial resumes and which checkpoints may be deleted."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jobs import fault_injection
from jobs.checkpoint import UNFINISHED
from jobs.job import Direction
from sweeper.errors import EnvironmentFailure
from sweeper.ledger.ranking import best_first, without_repeats
from sweeper.ledger.record import TrialRecord
from sweeper.storage import checkpoint_store


def resume_point(record: TrialRecord) -> Mapping[str, Any] | None:
    """Return the newest evaluation in the ledger from whose checkpoint a trial can resume, or None.

    A checkpoint without an evaluation does not count: resuming from it would leave a gap among the evaluations.
    """
    return next(_resume_points(record), None)


def _resume_points(record: TrialRecord) -> Iterator[Mapping[str, Any]]:
    newest_first = reversed(record.evaluations)
    return (e for e in newest_first if e["checkpoint"] and checkpoint_store.is_resumable(e["checkpoint"]))


def resume_checkpoints(record: TrialRecord, workdir: Path, storage: str | None = None) -> tuple[str, ...]:
    """Return the addresses of the checkpoints to resume from, newest first; empty to start from the pretrained model.

    Deletes newer checkpoints, since the trial will write checkpoints with the same names again. A local checkpoint is
    checked completely, so one address is enough. In a bucket only file sizes are checked, so the older checkpoints
    follow as alternatives in case the newest is damaged.
    """
    points = _resume_points(record)
    point = next(points, None)
    known = record.evaluations[: record.evaluations.index(point) + 1] if point else ()
    kept = {evaluation["checkpoint"] for evaluation in known if evaluation["checkpoint"]}
    names = {checkpoint_store.name_of(address) for address in kept}
    for checkpoint in workdir.glob("checkpoint-*"):
        if checkpoint.name not in names:
            shutil.rmtree(checkpoint)
    if storage and checkpoint_store.is_remote(storage):
        checkpoint_store.tidy(storage, kept)
    if point is None:
        return ()
    earlier = points if checkpoint_store.is_remote(point["checkpoint"]) else ()
    return (point["checkpoint"], *(one["checkpoint"] for one in earlier))


def unneeded_checkpoints(records: Sequence[TrialRecord], direction: Direction, keep: int) -> list[str]:
    """Return the checkpoints that may be deleted.

    A running trial needs its best and its newest checkpoint. Of the finished trials, only the `keep` best need one.
    Repeats need none: only their scores are used.

    >>> unneeded_checkpoints([complete(number=0, value=0.4), complete(number=1, value=0.6)], "max", keep=1)
    ['…/trials/0000/checkpoint-000100']
    """
    # repeats are ignored here: they may raise a trial's mean only after its checkpoint was deleted
    needed = {record.checkpoint for record in best_first(without_repeats(records), direction)[:keep]}
    for record in records:
        if record.state == "RUNNING" and record.evaluations:
            needed |= {record.checkpoint, record.evaluations[-1]["checkpoint"]}
    every = (evaluation["checkpoint"] for record in records for evaluation in record.evaluations)
    return [checkpoint for checkpoint in every if checkpoint and checkpoint not in needed]


def trials_with_checkpoints(records: Sequence[TrialRecord], direction: Direction, keep: int) -> list[TrialRecord]:
    """Return the trials that may still need a checkpoint: the running ones and the `keep` best.

    A finished trial outside the `keep` best can never re-enter that set.
    """
    running = [record for record in records if record.state == "RUNNING"]
    return running + best_first(without_repeats(records), direction)[:keep]


def delete_checkpoints(checkpoints: Iterable[str]) -> None:
    """Delete checkpoints one by one. After an interruption, the next run finds and deletes the others."""
    for checkpoint in checkpoints:
        fault_injection.point("retention.delete")
        checkpoint_store.delete_stored([checkpoint])


def delete_leftovers(folder: str, kept: str | None) -> None:
    """Delete all checkpoints in a folder of a trial that has ended, except `kept`.

    There may be copies of checkpoints that are stored elsewhere, checkpoints that were never reported, and an
    unfinished one. Ignores errors, since nothing needs them any more.
    """
    if checkpoint_store.is_remote(folder):
        with suppress(EnvironmentFailure):
            checkpoint_store.tidy(folder, {kept} if kept else set())
        return
    needed = Path(kept) if kept and not checkpoint_store.is_remote(kept) else None
    for path in (*Path(folder).glob("checkpoint-*"), Path(folder, UNFINISHED)):
        if path.is_dir() and not (needed and needed.is_dir() and path.samefile(needed)):
            shutil.rmtree(path, ignore_errors=True)

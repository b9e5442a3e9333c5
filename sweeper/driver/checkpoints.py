"""What is left of a sweep, and where a trial that was cut short goes on: read from the ledger, checked on disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.driver.repeats import missing, searched
from sweeper.ledger.ledger import TrialRecord
from sweeper.space.search_space import SearchSpace
from sweeper.storage import checkpoints


def resume_point(record: TrialRecord) -> Mapping[str, Any] | None:
    """The newest evaluation whose checkpoint is undamaged. A checkpoint without an evaluation in the ledger is
    no such point: going on from it would leave a gap among the evaluations."""
    return next(_resume_points(record), None)


def _resume_points(record: TrialRecord) -> Iterator[Mapping[str, Any]]:
    newest_first = reversed(record.evaluations)
    return (e for e in newest_first if e["checkpoint"] and not checkpoints.damage(e["checkpoint"]))


def rewind(record: TrialRecord, workdir: Path, storage: str | None = None) -> tuple[str, ...]:
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


def new_trials(records: Sequence[TrialRecord], space: SearchSpace) -> int:
    """How many trials are still to be asked for, repeats included. Early on the finalists are not known yet,
    and may turn out to have had a seed already."""
    open_ended = max(0, (space.search.trials or 0) - len(searched(records)))
    if not open_ended or space.repeats is None:
        return open_ended + sum(1 for _ in missing(records, space))
    return open_ended + space.repeats.top * len(space.repeats.seeds) + len(searched(records)) - len(records)


def anything_left(records: Sequence[TrialRecord], space: SearchSpace) -> bool:
    return new_trials(records, space) > 0 or any(record.state == "RUNNING" for record in records)


def outlook(records: Sequence[TrialRecord], space: SearchSpace) -> str:
    """What running the sweep again will do, in one line.

    >>> outlook(ledger.records(), space)
    '3 of 8 trials are finished, 1 goes on from epoch 2, 4 are new'
    """
    running = [record for record in records if record.state == "RUNNING"]
    points = [resume_point(record) for record in running]
    epochs = sorted(f"{point['epoch']:g}" for point in points if point)
    new, afresh = new_trials(records, space), len(points) - len(epochs)
    parts = [
        f"{len(records) - len(running)} of {len(records) + new} trials are finished",
        epochs
        and f"{_verb(len(epochs), 'goes', 'go')} on from {'epoch' if len(epochs) == 1 else 'epochs'} "
        f"{' and '.join(epochs)}",
        afresh and f"{_verb(afresh, 'starts', 'start')} afresh",
        new and f"{_verb(new, 'is', 'are')} new",
        not (points or new) and "nothing is left to do",
    ]
    return ", ".join(str(part) for part in parts if part)


def _verb(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"

"""Choose the best trials to repeat with other seeds, and count the trials that remain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sweeper.budget.limits import Ending, ending_of
from sweeper.driver.checkpoints import resume_point
from sweeper.errors import ConfigError
from sweeper.ledger.database import existing_storage
from sweeper.ledger.ledger import Ledger, load_ledger
from sweeper.ledger.ranking import best_first, without_repeats
from sweeper.ledger.record import TrialRecord, trial_key
from sweeper.space.search_space import SearchSpace
from sweeper.storage.identity import places_of
from sweeper.storage.places import has_several_links
from sweeper.storage.settings import Stores


class RepeatSeed(NamedTuple):
    """Name a repeat to train: the number of the trial to repeat, and the new seed."""

    of: int
    seed: int


def missing_repeats(records: Sequence[TrialRecord], space: SearchSpace) -> Iterator[RepeatSeed]:
    """Yield the repeats that the search space requests and the ledger lacks, best trial first.

    A trial's own seed is skipped.
    """
    if space.repeats is None:
        return
    known = {record.key for record in records}
    for record in best_first(without_repeats(records), space.direction)[: space.repeats.top]:
        for seed in space.repeats.seeds:
            if trial_key(space.job, {**record.params, "seed": seed}, space.data_fingerprint) not in known:
                yield RepeatSeed(record.number, seed)


def expected_trials(space: SearchSpace) -> int:
    """Return the largest possible number of trials, repeats included."""
    repeats = space.repeats.top * len(space.repeats.seeds) if space.repeats else 0
    return (space.search.trials or 0) + repeats


def count_new_trials(records: Sequence[TrialRecord], space: SearchSpace) -> int:
    """Return the number of trials still to be created, repeats included.

    During the search this is an upper bound: one of the best trials may already have one of the repeats' seeds.
    """
    open_ended = max(0, (space.search.trials or 0) - len(without_repeats(records)))
    if not open_ended or space.repeats is None:
        return open_ended + sum(1 for _ in missing_repeats(records, space))
    return open_ended + space.repeats.top * len(space.repeats.seeds) + len(without_repeats(records)) - len(records)


def has_unfinished(records: Sequence[TrialRecord], space: SearchSpace) -> bool:
    return count_new_trials(records, space) > 0 or any(record.state == "RUNNING" for record in records)


def sweep_ending(ledger: Ledger, records: Sequence[TrialRecord], space: SearchSpace) -> Ending | None:
    """Return which limit of the budget in `space` has ended a sweep, None if none has."""
    remaining = count_new_trials(records, space)
    return ending_of(ledger.latest_attributes(), records, space.budget, space.direction, remaining)


def is_finished(stores: Stores, name: str, space: SearchSpace) -> bool:
    """Return True if a sweep exists and nothing of it is left to train, or its budget allows no more. Writes
    nothing."""
    if has_several_links(stores.ledger):  # in a copy made of hard links, an open ledger would be its original's
        return False
    try:
        ledger = load_ledger(existing_storage(stores.ledger, places_of(stores)), name)
        records = ledger.records()
    except ConfigError:  # there is no ledger, or no such sweep
        return False
    return bool(records) and (not has_unfinished(records, space) or sweep_ending(ledger, records, space) is not None)


def resume_summary(records: Sequence[TrialRecord], space: SearchSpace) -> str:
    """Return one line about the work that running the sweep again would do.

    >>> resume_summary(ledger.records(), space)
    '3 of 8 trials are finished, 1 resumes from epoch 2, 4 are new'
    """
    if not has_unfinished(records, space):
        return f"the sweep is finished: its {len(records)} trials have ended, nothing remains to do"
    running = [record for record in records if record.state == "RUNNING"]
    points = [resume_point(record) for record in running]
    epochs = sorted(f"{point['epoch']:g}" for point in points if point)
    new, afresh = count_new_trials(records, space), len(points) - len(epochs)
    parts = [
        f"{len(records) - len(running)} of {len(records) + new} trials are finished",
        epochs
        and f"{_verb(len(epochs), 'resumes', 'resume')} from {'epoch' if len(epochs) == 1 else 'epochs'} "
        f"{' and '.join(epochs)}",
        afresh and f"{_verb(afresh, 'starts', 'start')} again",
        new and f"{_verb(new, 'is', 'are')} new",
    ]
    return ", ".join(str(part) for part in parts if part)


def _verb(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"

"""Count a sweep's trials for the steps of its driver."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from sweeper.ledger.record import TrialRecord

ABANDONED = "abandoned"


@dataclass
class Tally:
    """Cache the counts that each step of a sweep needs, since reading all trials of a long sweep is slow.

    Only the driver adds or ends trials, so it can update the counts; `Ledger.records` counts again.

    keys      keys of all trials with parameters
    drawn     number of draws, without those that an interruption discarded; it determines the seed of the next draw
    searched  number of trials that are not repeats
    waiting   Optuna's ids of enqueued settings that have not run, in order
    """

    keys: set[str]
    drawn: int
    searched: int
    waiting: deque[int]

    def add(self, record: TrialRecord) -> None:
        self.keys.add(record.key)
        self.searched += record.repeat_of is None


def tally_of(trials: Sequence[optuna.trial.FrozenTrial], records: Sequence[TrialRecord]) -> Tally:
    """Count the trials of a study."""
    # Private in optuna 5.0: its storage methods require the id, and a trial has no public attribute for it.
    waiting = deque(trial._trial_id for trial in trials if trial.state == TrialState.WAITING)
    tally = Tally(set(), sum(ABANDONED not in trial.user_attrs for trial in trials), 0, waiting)
    for record in records:
        tally.add(record)
    return tally

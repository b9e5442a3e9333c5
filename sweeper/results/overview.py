"""What a sweep has found so far, read from its ledger once: what its plots and its report are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.job import Direction
from sweeper.driver.repeats import leaders, searched
from sweeper.ledger.ledger import Ledger, TrialRecord
from sweeper.results.comparison import changing, rows


class Absent(Exception):
    """There is nothing to draw; the message says why, in a sentence."""


@dataclass(frozen=True)
class Results:
    """What plots are made of: a ledger as it is now.

    parameters  the resolved search space's, by name
    """

    objective: str
    direction: Direction
    records: tuple[TrialRecord, ...]
    parameters: Mapping[str, Any]

    @property
    def ranked(self) -> list[TrialRecord]:
        """The trials that ended with a value, best first."""
        return leaders(self.records, self.direction)

    @property
    def search(self) -> list[TrialRecord]:
        """Without the repeats, which stand beside the trial they repeat."""
        return searched(self.records)

    @property
    def backbones(self) -> list[str]:
        """In the order in which they were first tried, which decides their colours."""
        return list(dict.fromkeys(backbone(record) for record in self.records))

    @property
    def leaders(self) -> list[TrialRecord]:
        """The best trial of each backbone, best first."""
        return list({backbone(record): record for record in reversed(self.ranked)}.values())[::-1]


def results(ledger: Ledger) -> Results:
    parameters = ledger.attributes["search_space"]["parameters"]
    return Results(ledger.objective, ledger.direction, tuple(ledger.records()), parameters)


def backbone(record: TrialRecord) -> str:
    return str(record.params.get("backbone", "all trials"))


def planned(record: TrialRecord) -> float | None:
    """The epochs a trial would have trained for, or None where its job has no such parameter."""
    epochs = record.params.get("num_train_epochs")
    return float(epochs) if isinstance(epochs, int | float) else None


def varying(found: Results, trials: Sequence[TrialRecord]) -> list[str]:
    return changing(rows(trials, found.direction)) if len(trials) > 1 else []


def numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def logarithmic(found: Results, name: str, values: Sequence[float]) -> bool:
    """Whether the search space draws this parameter by its logarithm, in any branch."""
    declared = found.parameters.get(name)
    branches = declared if isinstance(declared, list) else [declared]
    return min(values) > 0 and any(isinstance(branch, dict) and branch.get("log") for branch in branches)

"""What a sweep has found so far, read from its ledger once: what its plots and its report are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.storages import RDBStorage

from jobs.job import Direction
from sweeper.ledger.ledger import Ledger
from sweeper.ledger.ranking import best_first, without_repeats
from sweeper.ledger.record import TrialRecord
from sweeper.results.comparison import comparison_rows, differing_parameters


class NothingToShow(Exception):
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
        return best_first(self.records, self.direction)

    @property
    def search(self) -> list[TrialRecord]:
        """Without the repeats, which stand beside the trial they repeat."""
        return without_repeats(self.records)

    @property
    def backbones(self) -> list[str]:
        """In the order in which they were first tried, which decides their colours."""
        return list(dict.fromkeys(backbone(record) for record in self.records))

    @property
    def leaders(self) -> list[TrialRecord]:
        """The best trial of each backbone, best first."""
        return list({backbone(record): record for record in reversed(self.ranked)}.values())[::-1]


def sweep_results(ledger: Ledger) -> Results:
    parameters = ledger.attributes["search_space"]["parameters"]
    return Results(ledger.objective, ledger.direction, tuple(ledger.records()), parameters)


def backbone(record: TrialRecord) -> str:
    return str(record.params.get("backbone", "all trials"))


def planned_epochs(record: TrialRecord) -> float | None:
    """The epochs a trial would have trained for, or None where its job has no such parameter."""
    epochs = record.params.get("num_train_epochs")
    return float(epochs) if isinstance(epochs, int | float) else None


def varying_parameters(found: Results, trials: Sequence[TrialRecord]) -> list[str]:
    return differing_parameters(comparison_rows(trials, found.direction)) if len(trials) > 1 else []


def all_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def is_log_scaled(found: Results, name: str, values: Sequence[float]) -> bool:
    """Whether the search space draws this parameter by its logarithm, in any branch."""
    declared = found.parameters.get(name)
    branches = declared if isinstance(declared, list) else [declared]
    return min(values) > 0 and any(isinstance(branch, dict) and branch.get("log") for branch in branches)


def sweep_overview(storage: RDBStorage) -> Iterator[tuple[Any, ...]]:
    """One row per sweep: name, job, trials, running, failed, objective, best value."""
    from sweeper.ledger.ledger import load_ledger, sweep_names
    from sweeper.ledger.ranking import best_first

    for name in sweep_names(storage):
        ledger = load_ledger(storage, name)
        records = ledger.records()
        states = [record.state for record in records]
        ranked = best_first(records, ledger.direction)
        value = f"{ranked[0].value:.4f}" if ranked else "–"
        yield (
            name,
            ledger.attributes["job"],
            len(records),
            states.count("RUNNING"),
            states.count("FAIL"),
            ledger.objective,
            value,
        )

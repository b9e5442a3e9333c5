"""Read the results of a sweep from its ledger once, as the input of its plots and its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.job import Direction
from sweeper.ledger.database import LedgerStorage
from sweeper.ledger.ledger import Ledger, load_ledger, sweep_names
from sweeper.ledger.ranking import best_first, without_repeats
from sweeper.ledger.record import TrialRecord
from sweeper.results.comparison import comparison_rows, differing_parameters


class NothingToShow(Exception):
    """Signal that a plot has no data. The message gives the reason in one sentence."""


@dataclass(frozen=True)
class Results:
    """Hold a snapshot of a ledger.

    parameters  the parameters of the resolved search space, by name
    """

    objective: str
    direction: Direction
    records: tuple[TrialRecord, ...]
    parameters: Mapping[str, Any]

    @property
    def ranked(self) -> list[TrialRecord]:
        """Return the trials that ended with a value, best first."""
        return best_first(self.records, self.direction)

    @property
    def search(self) -> list[TrialRecord]:
        """Return the trials that are not repeats."""
        return without_repeats(self.records)

    @property
    def backbones(self) -> list[str]:
        """Return the backbones in the order of their first trials, which determines their colours."""
        return list(dict.fromkeys(backbone(record) for record in self.records))


def sweep_results(ledger: Ledger) -> Results:
    parameters = ledger.attributes["search_space"]["parameters"]
    return Results(ledger.objective, ledger.direction, tuple(ledger.records()), parameters)


def backbone(record: TrialRecord) -> str:
    return str(record.params.get("backbone", "all trials"))


def is_stopped_early(record: TrialRecord) -> bool:
    """Return True if early stopping ended the trial, and not a limit of the budget."""
    return record.state == "PRUNED" and record.ended_by is None


def planned_epochs(record: TrialRecord) -> float | None:
    """Return the planned number of epochs of a trial; None if its job has no parameter for it."""
    epochs = record.params.get("num_train_epochs")
    return float(epochs) if isinstance(epochs, int | float) else None


def varying_parameters(found: Results, trials: Sequence[TrialRecord]) -> list[str]:
    return differing_parameters(comparison_rows(trials, found.direction)) if len(trials) > 1 else []


def all_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def is_log_scaled(found: Results, name: str, values: Sequence[float]) -> bool:
    """Return True if the search space samples this parameter on a logarithmic scale, in any branch."""
    domain = found.parameters.get(name)
    branches = domain if isinstance(domain, list) else [domain]
    return min(values) > 0 and any(isinstance(branch, dict) and branch.get("log") for branch in branches)


def sweep_overview(storage: LedgerStorage) -> Iterator[tuple[Any, ...]]:
    """Yield one row per sweep: name, job, trials, running, failed, objective, best value."""
    for name in sweep_names(storage):
        ledger = load_ledger(storage, name)
        records = ledger.records()
        states = [record.state for record in records]
        ranked = best_first(records, ledger.direction)
        value = f"{ranked[0].value:.4f}" if ranked else "–"
        counts = len(records), states.count("RUNNING"), states.count("FAIL")
        yield name, ledger.attributes["job"], *counts, ledger.objective, value

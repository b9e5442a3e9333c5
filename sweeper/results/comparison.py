"""Finished trials as a table: those of one sweep, or the models of several side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapidfuzz import process

from jobs.job import Direction
from jobs.model.backbones import parameter_count
from sweeper.errors import ConfigError
from sweeper.ledger.ranking import Spread, rank_trials, seed_spread
from sweeper.results import table as sheet
from sweeper.results.table import Sheet
from sweeper.storage import checkpoints

if TYPE_CHECKING:
    from rich.table import Table

    from sweeper.ledger.ledger import Ledger
    from sweeper.ledger.record import TrialRecord

Row = dict[str, Any]
NOTHING = Spread(0, None, None)


def comparison_rows(records: Sequence[TrialRecord], direction: Direction) -> list[Row]:
    """One row per trial, best first; trials without a value come last, in the order of their numbers.

    Keys: trial, state, value, n, mean, std, params, metrics, test, epochs, duration_s, run_id, checkpoint, reason.
    `value` and `metrics` are those of the trial's best evaluation, `mean` and `std` (None for one) those of the value
    over its `n` seeds, `test` its score on the test questions if known, `duration_s` the seconds it trained,
    `checkpoint` the address of the best evaluation's if it was kept. Repeats count in their trial's row, and those rows
    come first; see `confirmation.ranking`.
    """
    repeats = [record for record in records if record.repeat_of is not None]
    kept = checkpoints.still_stored(record.checkpoint for record in records)
    return [
        {
            "trial": record.number,
            "state": record.state,
            "value": record.value,
            **(seed_spread(record, repeats) or NOTHING)._asdict(),
            "params": dict(record.params),
            "metrics": dict(record.metrics),
            "test": record.test,
            "epochs": record.epochs,
            "duration_s": round(record.seconds, 3),
            "run_id": record.run_id,
            "checkpoint": record.checkpoint if record.checkpoint in kept else None,
            "reason": record.reason,
        }
        for record in rank_trials(records, direction)
    ]


def changing(table: Sequence[Row]) -> list[str]:
    """The parameters that differ between the trials, in the job's order; all of a single trial's."""
    names = dict.fromkeys(name for row in table for name in row["params"])
    return [name for name in names if len(table) == 1 or len({repr(row["params"].get(name)) for row in table}) > 1]


def header(table: Sequence[Row], objective: str) -> list[str]:
    metrics = dict.fromkeys(name for row in table for name in row["metrics"] if name != objective)
    seeds = ["mean", "std", "n"] if any(row["n"] > 1 for row in table) else []
    return ["trial", "state", objective, *seeds, *metrics, *_tested(table), *changing(table), "epochs", "seconds"]


def _tested(table: Sequence[Row]) -> list[str]:
    return ["test"] if any(row["test"] is not None for row in table) else []


def trial_sheet(table: Sequence[Row], objective: str) -> Sheet:
    """One sweep's trials; the best one stands out."""
    names = header(table, objective)
    best = frozenset({0}) if table and not _failed(table[0]) else frozenset[int]()
    values = [[_flat(row, objective).get(name) for name in names] for row in table]
    return Sheet(names, values, _row_texts(table), best, caption=definition(table))


def comparison_cells(table: Sequence[Row], objective: str) -> list[list[str]]:
    """The table as text, a list per row, under `header`."""
    return [[sheet.cell(value) for value in row] for row in trial_sheet(table, objective).rows]


def _flat(row: Row, objective: str) -> Mapping[str, Any]:
    named = {objective: row["value"], "seconds": round(row["duration_s"], 1)}
    return {**row["params"], **row["metrics"], **row, **named}


def _row_texts(table: Sequence[Row]) -> frozenset[str]:
    settings = (name for row in table for name, value in row["params"].items() if isinstance(value, str))
    return frozenset({"sweep", "job", "state", *settings})


def definition(table: Sequence[Row]) -> str | None:
    """By which metric profiles exact_match and f1 were computed; None for jobs that have none."""
    profiles = dict.fromkeys(str(row["params"]["metric_profile"]) for row in table if "metric_profile" in row["params"])
    return f"exact_match and f1: {', '.join(profiles)}" if profiles else None


def comparison_table(table: Sequence[Row], objective: str) -> Table:
    """For a terminal. Numbers stand right; the best value is bold."""
    return sheet.rich_table(trial_sheet(table, objective))


def comparison_markdown(table: Sequence[Row], objective: str) -> str:
    return sheet.sheet_markdown(trial_sheet(table, objective))


def comparison_csv(table: Sequence[Row], objective: str) -> str:
    return sheet.sheet_csv(trial_sheet(table, objective))


def comparison_json(table: Sequence[Row]) -> str:
    return sheet.json_text(list(table))


def comparison_of(
    ledgers: Sequence[Ledger], every: bool = False, sort: str | None = None, reverse: bool = False
) -> tuple[list[Row], Sheet]:
    """What `sweeper compare` prints: rows for `comparison_json`, and the same as a Sheet. Of one sweep all its trials,
    of several those of `models`; ordered by `arranged` where there is a `sort`."""
    if len(ledgers) > 1:
        table = models(ledgers, every)
        table = arranged(table, sort, reverse) if sort else table
        return table, model_sheet(table)
    ledger = ledgers[0]
    table = comparison_rows(ledger.records(), ledger.direction)
    view = trial_sheet(table, ledger.objective)
    if not sort or not table:
        return table, view
    by_number = {row["trial"]: row for row in table}
    ordered = [by_number[row["trial"]] for row in arranged(models(ledgers, every=True), sort, reverse)]
    bold = frozenset(place for place, row in enumerate(ordered) if row is table[0]) if view.bold else view.bold
    return ordered, replace(trial_sheet(ordered, ledger.objective), bold=bold)


def models(ledgers: Sequence[Ledger], every: bool = False) -> list[Row]:
    """The rows of several sweeps in one table: for each sweep and backbone its best trial, or `every` trial.

    >>> print(sheet.markdown(model_sheet(models([load_ledger(storage, name) for name in ("readers", "selectors")]))))

    Keys: sweep, job, objective, direction, those of `comparison_rows`, backbone (None where the job has none),
    weights_m (millions of parameters, None where no checkpoint is kept on this machine to count them in), settings (the
    parameters that differ between these sweeps' trials of one job). Trials of one job and objective are ranked among
    each other, jobs stand in the order of their sweeps. Of a backbone whose trials all failed, the first is shown.
    """
    tables = [list(_sweep_rows(ledger)) for ledger in ledgers]
    settings = [name for name in varied([row for table in tables for row in table]) if name != "backbone"]
    shown = [row for table in tables for row in (table if every else _firsts(table))]
    return [
        row
        | {"backbone": row["params"].get("backbone"), "weights_m": _millions(row["checkpoint"])}
        | {"settings": {name: row["params"][name] for name in settings if name in row["params"]}}
        for row in _ranked(shown)
    ]


def _sweep_rows(ledger: Ledger) -> Iterator[Row]:
    """A sweep's trials: the best of those that ended well, then those with a value, then the others."""
    table = comparison_rows(ledger.records(), ledger.direction)
    known: Row = {"sweep": ledger.name, "job": str(ledger.attributes["job"])}
    known |= {"objective": ledger.objective, "direction": ledger.direction}
    return (known | row for row in sorted(table, key=_failed))


def _failed(row: Row) -> bool:
    return row["value"] is None or row["state"] == "FAIL"


def _firsts(table: Sequence[Row]) -> list[Row]:
    """The first row of each backbone."""
    by_backbone: dict[Any, Row] = {}
    for row in table:
        by_backbone.setdefault(row["params"].get("backbone"), row)
    return list(by_backbone.values())


def _ranked(table: Sequence[Row]) -> list[Row]:
    groups = list(dict.fromkeys((row["job"], row["objective"]) for row in table))

    def key(row: Row) -> tuple[int, bool, float]:
        failed = _failed(row)
        return groups.index((row["job"], row["objective"])), failed, 0 if failed else -_worth(row)

    return sorted(table, key=key)


def varied(table: Sequence[Row]) -> list[str]:
    """The parameters that differ between trials of one job: that jobs have different ones and other defaults says
    nothing of a setting."""
    seen: dict[tuple[str, str], set[str]] = {}
    for row in table:
        for name, value in row["params"].items():
            seen.setdefault((name, row["job"]), set()).add(repr(value))
    return list(dict.fromkeys(name for (name, _), values in seen.items() if len(values) > 1))


def _millions(checkpoint: str | None) -> float | None:
    try:
        count = parameter_count(Path(checkpoint)) if checkpoint and not checkpoints.is_remote(checkpoint) else None
    except (OSError, ValueError):  # damaged weights are no reason to show no table
        return None
    return round(count / 1e6, 3) if count else None


def model_header(table: Sequence[Row]) -> list[str]:
    """sweep, job, trial, state, backbone, weights_m where known, every score (no loss), the settings, epochs,
    seconds of training."""
    metrics = dict.fromkeys(name for row in table for name in (row["objective"], *row["metrics"]))
    scores = [name for name in metrics if not name.endswith("loss") or any(row["objective"] == name for row in table)]
    settings = dict.fromkeys(name for row in table for name in row["settings"])
    optional = [name for name in ("backbone", "weights_m") if any(row[name] is not None for row in table)]
    seeds = ["mean", "std", "n"] if any(row["n"] > 1 for row in table) else []
    known = [*optional, *scores, *seeds, *_tested(table), *settings]
    return ["sweep", "job", "trial", "state", *known, "epochs", "seconds"]


def model_sheet(table: Sequence[Row]) -> Sheet:
    """Return the table as a Sheet. The best row of each job and objective stands out."""
    names = model_header(table)
    values = [[_flat(row, row["objective"]).get(name) for name in names] for row in table]
    told = definition(table)
    if {"qa", "longformer"} <= {row["job"] for row in table}:
        told = f"{told or ''}; qa is given the relevant paragraph, longformer all of them".lstrip("; ")
    return Sheet(names, values, _row_texts(table), frozenset(_best_rows(table)), caption=told)


def _best_rows(table: Sequence[Row]) -> list[int]:
    """The places of the best row of each job and objective."""
    best: dict[Any, int] = {}
    for place, row in enumerate(table):
        group = row["job"], row["objective"]
        if not _failed(row) and (group not in best or _worth(row) > _worth(table[best[group]])):
            best[group] = place
    return list(best.values())


def _worth(row: Row) -> float:
    return float(row["value"]) * (-1 if row["direction"] == "min" else 1)


def arranged(table: Sequence[Row], column: str, reverse: bool = False) -> list[Row]:
    """The rows of `models` by one column, a metric or a parameter: scores from the highest, all else from the
    lowest or by the alphabet; the other way round with `reverse`. Rows without a value come last.

    Raises ConfigError when there is no such column, naming the nearest.
    """
    names = model_header(table)
    known = dict.fromkeys([*names, *(name for row in table for name in (*row["metrics"], *row["params"]))])
    if column not in known:
        nearest = process.extract(column, list(known), limit=1)[0][0]
        raise ConfigError(f"--sort {column}: no such column; did you mean {nearest!r}? There are {', '.join(names)}")
    values = [_flat(row, row["objective"]).get(column) for row in table]
    minimised = column.endswith("loss") or any((column, "min") == (row["objective"], row["direction"]) for row in table)
    falling = any(column in (row["objective"], *row["metrics"]) for row in table) and not minimised
    present = [(value, row) for value, row in zip(values, table, strict=True) if value is not None]
    ordered = sorted(present, key=lambda entry: _order(entry[0]), reverse=falling != reverse)
    return [row for _, row in ordered] + [row for value, row in zip(values, table, strict=True) if value is None]


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers before text: a parameter may be either."""
    return (True, str(value)) if not isinstance(value, int | float) else (False, value)

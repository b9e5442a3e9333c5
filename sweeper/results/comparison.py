"""Build comparison tables: the trials of one sweep, or the best models of several sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.backbone.folders import parameter_count
from jobs.job import STANDS_FOR, Direction
from jobs.params import AUTO, TrainingParams
from jobs.suggestions import unknown_name
from sweeper.errors import ConfigError
from sweeper.ledger.ranking import ENDED_WELL, NOTHING, Rank, rank_key, rank_trials, seed_spread
from sweeper.results.table import Table
from sweeper.storage import checkpoint_store

if TYPE_CHECKING:
    from sweeper.ledger.ledger import Ledger
    from sweeper.ledger.record import TrialRecord

Row = dict[str, Any]
PRECISION = "used_precision"
# parameters of all jobs that trials of earlier versions lack
NEW_SINCE = frozenset(one.name for one in fields(TrainingParams) if one.metadata.get(STANDS_FOR, ...) is None)
DIFFERENCE_DIGITS = 6  # decimals of a difference of scores; further ones are errors of floating point


def comparison_rows(records: Sequence[TrialRecord], direction: Direction) -> list[Row]:
    """Return one row per trial, best first. Trials without a value come last, by number.

    Keys: trial, state, value, n, mean, std, params, metrics, test, epochs, duration_s, gpu_memory_bytes,
    used_precision, used_sizes, run_id, checkpoint, reason.
    `value` and `metrics` belong to the trial's best evaluation. `mean` and `std` (None for one seed) summarize the
    value over `n` seeds. `test` is the score on the test questions, if known. `duration_s` is the training time in
    seconds. `gpu_memory_bytes` is the most memory that the trial took of its GPU, None without one. `checkpoint` is the
    address of the best evaluation's checkpoint, if it was kept. Repeats have no rows: they
    count in the row of the trial that they repeat. See `sweeper.ledger.ranking` for the order.
    """
    repeats = [record for record in records if record.repeat_of is not None]
    kept = checkpoint_store.still_stored(record.checkpoint for record in records)
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
            "gpu_memory_bytes": record.gpu_memory_bytes,
            "used_precision": _used_precisions(record, repeats),
            "used_sizes": dict(record.used_sizes),
            "run_id": record.run_id,
            "checkpoint": record.checkpoint if record.checkpoint in kept else None,
            "reason": record.reason,
        }
        for record in rank_trials(records, direction)
    ]


def _used_precisions(record: TrialRecord, repeats: Sequence[TrialRecord]) -> str | None:
    """Return the precisions of a trial and of the repeats that count in its row."""
    own = [record, *(one for one in repeats if one.repeat_of == record.number and one.state == "COMPLETE")]
    return " and ".join(dict.fromkeys(name for one in own for name in one.precisions)) or None


def differing_parameters(table: Sequence[Row]) -> list[str]:
    """Return the parameters whose values differ between trials, in the job's order; all of them for a single trial.

    A trial of an earlier version lacks parameters that are new since. All trials of its sweep have their defaults.
    """
    shown = [_shown_params(row) for row in table]
    names = dict.fromkeys(name for params in shown for name in params)
    values = {name: {repr(one.get(name)) for one in shown if name in one or name not in NEW_SINCE} for name in names}
    return [name for name in names if len(table) == 1 or len(values[name]) > 1]


def _shown_params(row: Row) -> Mapping[str, Any]:
    """Return the parameters of a trial, with the number that was used in place of `auto`."""
    used = {name: value for name, value in (row["used_sizes"] or {}).items() if row["params"].get(name) == AUTO}
    return {**row["params"], **used}


def trial_columns(table: Sequence[Row], objective: str) -> list[str]:
    """Return the column names of the table of one sweep's trials."""
    metrics = dict.fromkeys(name for row in table for name in row["metrics"] if name != objective)
    scores = [objective, *_seed_columns(table), *metrics, *_test_column(table)]
    return ["trial", "state", *scores, *differing_parameters(table), *_precision_column(table), *_cost_columns(table)]


def _precision_column(table: Sequence[Row]) -> list[str]:
    """Return the column of used precisions if a trial has another than fp32, which all have on a CPU."""
    return [PRECISION] if {row[PRECISION] for row in table} - {None, "fp32"} else []


def _cost_columns(table: Sequence[Row]) -> list[str]:
    return ["epochs", "seconds", *(["gpu_gib"] if any(row["gpu_memory_bytes"] for row in table) else [])]


def _seed_columns(table: Sequence[Row]) -> list[str]:
    return ["mean", "std", "n"] if any(row["n"] > 1 for row in table) else []


def _test_column(table: Sequence[Row]) -> list[str]:
    return ["test"] if any(row["test"] is not None for row in table) else []


def trial_table(table: Sequence[Row], objective: str) -> Table:
    """Return the table of one sweep's trials, with the best trial in bold."""
    names = trial_columns(table, objective)
    best = frozenset({0}) if table and _ended_well(table[0]) else frozenset[int]()
    values = [[_values_by_column(row, objective).get(name) for name in names] for row in table]
    optional = [name for name in _by_usefulness(table, names) if name not in ("trial", "state", objective)]
    caption = caption_of(table)
    return Table(names, values, _text_columns(table), best, None, caption, optional, _setting_names(table))


def _by_usefulness(table: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Return column names, the most useful first: settings, seeds and test scores, metrics, losses, costs."""
    settings = _setting_names(table)

    def place(name: str) -> int:
        if name in settings:
            return 0
        if name in ("job", "backbone", "mean", "std", "n", "test", PRECISION):
            return 1
        if name in ("epochs", "seconds", "gpu_gib", "weights_m"):
            return 4
        return 3 if name.endswith("loss") else 2

    return sorted(names, key=place)


def _setting_names(table: Sequence[Row]) -> frozenset[str]:
    return frozenset(name for row in table for name in row["params"])


def _values_by_column(row: Row, objective: str) -> Mapping[str, Any]:
    size = row["gpu_memory_bytes"]
    gib = None if size is None else round(size / 2**30, 2)
    shown = {objective: row["value"], "seconds": round(row["duration_s"], 1), "gpu_gib": gib}
    return {**_shown_params(row), **row["metrics"], **row, **shown}


def _text_columns(table: Sequence[Row]) -> frozenset[str]:
    settings = (name for row in table for name, value in _shown_params(row).items() if isinstance(value, str))
    return frozenset({"sweep", "job", "state", PRECISION, *settings})


def caption_of(table: Sequence[Row]) -> str | None:
    """Return what to say of all rows: the metric profiles and what makes scores less comparable; None for nothing."""
    return "; ".join(filter(None, (profile_caption(table), precision_caption(table)))) or None


def profile_caption(table: Sequence[Row]) -> str | None:
    """Return a caption that names the metric profiles of exact_match and f1; None for jobs without a profile."""
    profiles = dict.fromkeys(str(row["params"]["metric_profile"]) for row in table if "metric_profile" in row["params"])
    return f"exact_match and f1: {', '.join(profiles)}" if profiles else None


def precision_caption(table: Sequence[Row]) -> str | None:
    """Return a caption if trials that are compared were trained in different precisions, else None."""
    found: dict[Any, set[str]] = {}
    for row in table:
        if row[PRECISION] and row["value"] is not None:
            found.setdefault((row.get("job"), row.get("objective")), set()).add(row[PRECISION])
    mixed = sorted({name for names in found.values() if len(names) > 1 for name in names})
    return f"trained in {', '.join(mixed)}: scores of different precision are not exactly comparable" if mixed else None


def compare_sweeps(
    ledgers: Sequence[Ledger], every: bool = False, sort: str | None = None, reverse: bool = False
) -> tuple[list[Row], Table]:
    """Return the rows that `sweeper compare` prints as JSON, and the same rows as a Table.

    One sweep gives all its trials; several sweeps give the rows of `model_rows`. `sort` names the column to sort by.
    """
    if len(ledgers) > 1:
        table = model_rows(ledgers, every)
        table = sort_rows(table, sort, reverse) if sort else table
        return table, model_table(table)
    ledger = ledgers[0]
    table = comparison_rows(ledger.records(), ledger.direction)
    view = trial_table(table, ledger.objective)
    if not sort or not table:
        return table, view
    by_number = {row["trial"]: row for row in table}
    ordered = [by_number[row["trial"]] for row in sort_rows(model_rows(ledgers, every=True), sort, reverse)]
    bold = frozenset(index for index, row in enumerate(ordered) if row is table[0]) if view.bold else view.bold
    return ordered, replace(trial_table(ordered, ledger.objective), bold=bold)


def model_rows(ledgers: Sequence[Ledger], every: bool = False) -> list[Row]:
    """Return the best trial of each sweep and backbone in one list, or `every` trial.

    >>> model_rows([load_ledger(storage, "readers"), load_ledger(storage, "selectors")])[0]["trial"]
    3

    Keys: those of `comparison_rows`, and sweep, job, objective, direction, backbone (None if the job has none),
    weights_m (millions of parameters; None without a checkpoint on this machine), settings (the parameters that
    differ between trials of the same job). Trials with the same job, objective and metric profile are ranked together;
    jobs keep the order of their sweeps. If all trials of a backbone failed, its first trial is shown.
    """
    tables = [list(_sweep_rows(ledger)) for ledger in ledgers]
    settings = [name for name in varied_settings([row for table in tables for row in table]) if name != "backbone"]
    shown = [row for table in tables for row in (table if every else _first_per_backbone(table))]
    return [
        row
        | {"backbone": row["params"].get("backbone"), "weights_m": _millions(row["checkpoint"])}
        | {"settings": {name: row["params"][name] for name in settings if name in row["params"]}}
        for row in _rank_within_jobs(shown)
    ]


def _sweep_rows(ledger: Ledger) -> Iterator[Row]:
    """Yield a sweep's rows, best first."""
    table = comparison_rows(ledger.records(), ledger.direction)
    return (_sweep_values(ledger) | row for row in table)


def _sweep_values(ledger: Ledger) -> Row:
    job = str(ledger.attributes["job"])
    return {"sweep": ledger.name, "job": job, "objective": ledger.objective, "direction": ledger.direction}


def _ended_well(row: Row) -> bool:
    return row["value"] is not None and row["state"] in ENDED_WELL


def _first_per_backbone(table: Sequence[Row]) -> list[Row]:
    by_backbone: dict[Any, Row] = {}
    for row in table:
        by_backbone.setdefault(row["params"].get("backbone"), row)
    return list(by_backbone.values())


def _rank_within_jobs(table: Sequence[Row]) -> list[Row]:
    groups = list(dict.fromkeys(map(_ranked_group, table)))
    return sorted(table, key=lambda row: (groups.index(_ranked_group(row)), _rank_of_row(row)))


def _ranked_group(row: Row) -> tuple[Any, ...]:
    """Return what two rows must share for their scores to be comparable."""
    return row["job"], row["objective"], row["params"].get("metric_profile")


def _rank_of_row(row: Row) -> Rank:
    return rank_key(row["state"], row["n"], row["mean"], row["direction"])


def varied_settings(table: Sequence[Row]) -> list[str]:
    """Return the parameters whose values differ between trials of the same job.

    Trials of different jobs are not compared, because jobs have different parameters and defaults.
    """
    seen: dict[tuple[str, str], set[str]] = {}
    for row in table:
        for name, value in row["params"].items():
            seen.setdefault((name, row["job"]), set()).add(repr(value))
    return list(dict.fromkeys(name for (name, _), values in seen.items() if len(values) > 1))


def _millions(checkpoint: str | None) -> float | None:
    try:
        count = parameter_count(Path(checkpoint)) if checkpoint and not checkpoint_store.is_remote(checkpoint) else None
    except (OSError, ValueError):  # the table must not fail because of damaged weights
        return None
    return round(count / 1e6, 3) if count else None


def model_columns(table: Sequence[Row]) -> list[str]:
    """Return the column names of the table of models.

    Columns without a value are left out. Losses are left out unless a sweep has them as its objective.
    """
    metrics = dict.fromkeys(name for row in table for name in (row["objective"], *row["metrics"]))
    scores = [name for name in metrics if not name.endswith("loss") or any(row["objective"] == name for row in table)]
    settings = dict.fromkeys(name for row in table for name in row["settings"])
    optional = [name for name in ("backbone", "weights_m") if any(row[name] is not None for row in table)]
    known = [*optional, *scores, *_seed_columns(table), *_test_column(table), *settings, *_precision_column(table)]
    return ["sweep", "job", "trial", "state", *known, *_cost_columns(table)]


def model_table(table: Sequence[Row]) -> Table:
    """Return the table of models, with the best row of each job, objective and metric profile in bold."""
    names = model_columns(table)
    values = [[_values_by_column(row, row["objective"]).get(name) for name in names] for row in table]
    caption = caption_of(table)
    if {"qa", "longformer"} <= {row["job"] for row in table}:
        caption = f"{caption or ''}; qa is given the relevant paragraph, longformer all of them".lstrip("; ")
    kept = {"sweep", "trial", "state", *(row["objective"] for row in table)}
    optional = [name for name in _by_usefulness(table, names) if name not in kept]
    best = frozenset(_best_row_indices(table))
    return Table(names, values, _text_columns(table), best, None, caption, optional, _setting_names(table))


def reference_rows(ledgers: Sequence[Ledger]) -> list[Row]:
    """Return each backbone's best trial with its published score; published backbones without a trial come last.

    >>> reference_rows([load_ledger(storage, "qa_backbones")])[0]["difference"]
    -0.0021

    Keys: those of REFERENCE_KEYS. `reference` is the published score and `difference` what `mean` has more; both are
    None for a backbone without a published score. Raises ConfigError for a sweep whose search space has none at all.
    """
    published = {ledger.name: published_scores(ledger) for ledger in ledgers}
    tried = [_with_reference(row, published[row["sweep"]]) for row in model_rows(ledgers)]
    missing = [
        {**dict.fromkeys(REFERENCE_KEYS), **_sweep_values(ledger), **NOTHING._asdict(), "params": {}}
        | {"backbone": name, "reference": score}
        for ledger in ledgers
        for name, score in published[ledger.name].items()
        if not any(_same_name(name, row["backbone"]) for row in tried if row["sweep"] == ledger.name)
    ]
    return [*tried, *missing]


REFERENCE_KEYS = (
    "sweep", "job", "objective", "direction", "backbone", "trial", "state", "value", "n", "mean", "std", "params",
    "reference", "difference",
)  # fmt: skip


def published_scores(ledger: Ledger) -> dict[str, float]:
    """Return the published score of each backbone from the sweep's search space. Raises ConfigError without any."""
    found: dict[str, float] | None = ledger.attributes["search_space"].get("reference")
    if not found:
        raise ConfigError(
            f"sweep {ledger.name}: its search space has no published scores; write `reference: {{BACKBONE: SCORE}}` "
            "in its file and run the file again, which keeps the trials"
        )
    return found


def _with_reference(row: Row, published: Mapping[str, float]) -> Row:
    score = next((score for name, score in published.items() if _same_name(name, row["backbone"])), None)
    difference = None if score is None or row["mean"] is None else round(row["mean"] - score, DIFFERENCE_DIGITS)
    return {key: row.get(key) for key in REFERENCE_KEYS} | {"reference": score, "difference": difference}


def _same_name(published: str, backbone: str | None) -> bool:
    """Return True for the same last part: an owner on the hub or the place of a local folder does not matter."""
    return backbone is not None and Path(published).name == Path(backbone).name


def reference_table(table: Sequence[Row]) -> Table:
    """Return the table of each backbone's best trial beside its published score."""
    objectives = dict.fromkeys(row["objective"] for row in table)
    where = ["sweep", "job"] if len({row["sweep"] for row in table}) > 1 else []
    names = [*where, "backbone", "trial", "state", *objectives, *_seed_columns(table), "reference", "difference"]
    values = [[{**row, row["objective"]: row["value"]}.get(name) for name in names] for row in table]
    best = frozenset(_best_row_indices(table))
    optional = [name for name in ("state", "job", "mean", "std", "n") if name in names]
    return Table(
        names, values, frozenset({"sweep", "job", "backbone", "state"}), best, None, profile_caption(table), optional
    )


def _best_row_indices(table: Sequence[Row]) -> list[int]:
    best: dict[Any, int] = {}
    for index, row in enumerate(table):
        group = _ranked_group(row)
        if _ended_well(row) and (group not in best or _rank_of_row(row) < _rank_of_row(table[best[group]])):
            best[group] = index
    return list(best.values())


def sort_rows(table: Sequence[Row], column: str, reverse: bool = False) -> list[Row]:
    """Sort rows of `model_rows` by one column: scores descending, everything else ascending.

    `reverse` inverts this order. Rows without a value come last. Raises ConfigError when no column has this name;
    the message suggests the nearest one.
    """
    known = dict.fromkeys(
        [*model_columns(table), *(name for row in table for name in (*row["metrics"], *row["params"]))]
    )
    if column not in known:
        raise ConfigError(f"--sort: {unknown_name('column', column, known)}")
    values = [_values_by_column(row, row["objective"]).get(column) for row in table]
    minimised = column.endswith("loss") or any((column, "min") == (row["objective"], row["direction"]) for row in table)
    falling = any(column in (row["objective"], *row["metrics"]) for row in table) and not minimised
    present = [(value, row) for value, row in zip(values, table, strict=True) if value is not None]
    ordered = sorted(present, key=lambda entry: _sort_key(entry[0]), reverse=falling != reverse)
    return [row for _, row in ordered] + [row for value, row in zip(values, table, strict=True) if value is None]


def _sort_key(value: Any) -> tuple[bool, Any]:
    """Return a key that sorts numbers before text, since a column may contain both."""
    return (True, str(value)) if not isinstance(value, int | float) else (False, value)

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage
from rich.console import Console

from sweeper.driver.checkpoints import unneeded_checkpoints
from sweeper.errors import ConfigError
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, create_ledger
from sweeper.ledger.ranking import best_first
from sweeper.ledger.record import TrialRecord
from sweeper.results import comparison
from sweeper.results import table as tables
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace
from tests.support.commands import invoke
from tests.support.trials import record
from tests.support.written import Told, written

RECORDS = [
    record(0, 0.4),
    record(1, None, "FAIL", reason="why"),
    record(2, 0.9, "PRUNED"),
    record(3, 0.9),
    record(4, 0.1),
]


def markdown(rows: list[dict[str, Any]]) -> str:
    return tables.table_markdown(comparison.trial_table(rows, "height"))


def test_rows_are_best_first_and_trials_without_a_value_last() -> None:
    assert [row["trial"] for row in comparison.comparison_rows(RECORDS, "max")] == [2, 3, 0, 4, 1]
    assert [row["trial"] for row in comparison.comparison_rows(RECORDS, "min")] == [4, 0, 2, 3, 1]


def test_a_running_trial_is_ranked_behind_those_that_ended_well_and_is_never_the_best() -> None:
    running = record(9, 0.95, "RUNNING")
    rows = comparison.comparison_rows([running, *RECORDS, record(8, 0.99, "FAIL")], "max")
    assert [row["trial"] for row in rows] == [2, 3, 0, 4, 9, 8, 1]
    alone = comparison.comparison_rows([running], "max")
    assert comparison.trial_table(alone, "height").bold == frozenset()


def test_json_is_one_array_with_the_promised_keys() -> None:
    parsed = json.loads(tables.json_text(comparison.comparison_rows(RECORDS, "max")))
    assert list(parsed[0]) == [
        "trial",
        "state",
        "value",
        "n",
        "mean",
        "std",
        "params",
        "metrics",
        "test",
        "epochs",
        "duration_s",
        "gpu_memory_bytes",
        "used_precision",
        "used_sizes",
        "run_id",
        "checkpoint",
        "reason",
    ]
    assert parsed[0] == {
        "trial": 2, "state": "PRUNED", "value": 0.9, "n": 1, "mean": 0.9, "std": None,
        "params": {"backbone": "hill", "learning_rate": 0.01, "seed": 42},
        "metrics": {"height": 0.9, "eval_loss": 0.5}, "test": None,
        "epochs": 1.0, "duration_s": 2.5, "gpu_memory_bytes": None, "used_precision": None, "used_sizes": {},
        "run_id": "run-2", "checkpoint": None, "reason": None,
    }  # fmt: skip


def test_a_parameter_that_trials_of_an_earlier_version_lack_is_no_difference() -> None:
    """Plots and importance read the values of all trials."""
    earlier, later = {"learning_rate": 1e-3}, {"learning_rate": 2e-3, "optim": "adamw_torch_fused"}
    rows = comparison.comparison_rows([record(0, 0.4, params=earlier), record(1, 0.5, params=later)], "max")
    assert comparison.differing_parameters(rows) == ["learning_rate"]


def test_only_parameters_that_change_are_columns() -> None:
    rows = comparison.comparison_rows(RECORDS, "max")
    assert comparison.trial_columns(rows, "height") == [
        "trial",
        "state",
        "height",
        "eval_loss",
        "learning_rate",
        "epochs",
        "seconds",
    ]
    assert "backbone" in comparison.trial_columns(rows[:1], "height")
    assert comparison.trial_columns([], "height") == ["trial", "state", "height", "epochs", "seconds"]


def with_memory(*peaks: int | None) -> TrialRecord:
    """A trial with an evaluation for each number of bytes."""
    conditions = [{"conditions": {} if peak is None else {"gpu_memory_bytes": peak}} for peak in peaks]
    evaluations = tuple(
        {"height": 0.5, "epoch": float(n), "seconds": 1.0, **one} for n, one in enumerate(conditions, 1)
    )
    return replace(record(7, 0.5), evaluations=evaluations)


def test_the_memory_of_a_gpu_is_a_column_once_a_trial_has_taken_any() -> None:
    rows = comparison.comparison_rows([*RECORDS, with_memory(3 * 2**30, 5 * 2**30, 2**30)], "max")
    assert {row["trial"]: row["gpu_memory_bytes"] for row in rows} == {
        **dict.fromkeys(range(5)),
        7: 5 * 2**30,
    }
    view = comparison.trial_table(rows, "height")
    assert view.columns[-3:] == ["epochs", "seconds", "gpu_gib"]
    assert {row[0]: row[-1] for row in view.rows} == {**dict.fromkeys(range(5)), 7: 5.0}
    assert with_memory(None, 7, None).gpu_memory_bytes == 7
    assert with_memory().gpu_memory_bytes is None


def trained_in(number: int, *precisions: str, value: float | None = 0.5, **params: Any) -> TrialRecord:
    """A trial with an evaluation for each precision."""
    evaluations = tuple(
        {"height": 0.5, "epoch": float(n), "seconds": 1.0, "conditions": {"precision": one}}
        for n, one in enumerate(precisions, 1)
    )
    return replace(record(number, value, params=params), evaluations=evaluations)


REPEATED: list[tuple[int, str, Any]] = [(1, "fp16", "COMPLETE"), (2, "bf16", "COMPLETE"), (3, "fp32", "FAIL")]


def view_of(*records: TrialRecord) -> tables.Table:
    return comparison.trial_table(comparison.comparison_rows(records, "max"), "height")


def test_trials_of_different_precision_are_told_apart_and_their_scores_are_marked() -> None:
    view = view_of(trained_in(0, "bf16", "bf16"), trained_in(1, "fp32"), record(2, 0.1), trained_in(3, "bf16", "fp16"))
    place = list(view.columns).index("used_precision")
    assert {row[0]: row[place] for row in view.rows} == {0: "bf16", 1: "fp32", 2: None, 3: "bf16 and fp16"}
    marked = "trained in bf16, bf16 and fp16, fp32: scores of different precision are not exactly comparable"
    assert view.caption == marked
    assert marked in tables.table_markdown(view)
    assert "used_precision" in tables.table_csv(view).splitlines()[0]


def test_repeats_of_another_precision_count_in_the_row_of_their_trial() -> None:
    again = [replace(trained_in(n, one), repeat_of=0, state=state) for n, one, state in REPEATED]
    (row,) = comparison.comparison_rows([trained_in(0, "bf16"), *again], "max")
    assert (row["n"], row["used_precision"]) == (3, "bf16 and fp16")


def test_the_sizes_that_trials_found_for_auto_are_shown_in_its_place() -> None:
    def trial(number: int, size: Any, used: int | None, again: bool = False) -> TrialRecord:
        found = {"per_device_train_batch_size": used, "gradient_checkpointing": again} if used else {}
        evaluations = ({"height": 0.5, "epoch": 1.0, "seconds": 1.0, "conditions": {**found, "device": "T4"}},)
        params = {"per_device_train_batch_size": size, "gradient_checkpointing": False}
        return replace(record(number, 0.5, params=params), evaluations=evaluations)

    rows = comparison.comparison_rows([trial(0, "auto", 8), trial(1, "auto", 2, True), trial(2, 4, 4)], "max")
    view = comparison.trial_table(rows, "height")
    place = list(view.columns).index("per_device_train_batch_size")
    assert {row[0]: row[place] for row in view.rows} == {0: 8, 1: 2, 2: 4}
    assert [row["params"]["per_device_train_batch_size"] for row in rows] == ["auto", "auto", 4]
    assert rows[1]["used_sizes"] == {"per_device_train_batch_size": 2, "gradient_checkpointing": True}
    same = comparison.comparison_rows([trial(0, "auto", 8), trial(1, "auto", 8)], "max")
    assert "per_device_train_batch_size" not in comparison.trial_columns(same, "height")


def test_one_precision_is_a_constant_and_fp32_is_not_worth_a_column() -> None:
    same = view_of(trained_in(0, "bf16"), trained_in(1, "bf16"))
    assert tables.constant_columns(same)["used_precision"] == "bf16"
    assert same.caption is None
    for view in (view_of(trained_in(0, "fp32"), trained_in(1, "fp32")), view_of(*RECORDS), view_of(trained_in(0))):
        assert "used_precision" not in view.columns
        assert view.caption is None
    assert [row["used_precision"] for row in comparison.comparison_rows([trained_in(0, "fp32")], "max")] == ["fp32"]


def test_a_trial_without_a_score_or_of_another_job_is_not_compared() -> None:
    rows = comparison.comparison_rows([trained_in(0, "bf16"), trained_in(1, "fp32", value=None)], "max")
    assert comparison.precision_caption(rows) is None
    (first, second) = comparison.comparison_rows([trained_in(0, "bf16"), trained_in(1, "fp32")], "max")
    assert comparison.precision_caption([{**first, "job": "qa"}, {**second, "job": "mc"}]) is None
    assert comparison.precision_caption([{**first, "job": "qa"}, {**second, "job": "qa"}]) is not None


@pytest.mark.parametrize(("bf16", "known"), [(False, "fp32"), (True, None), (None, None)])
def test_a_trial_of_an_earlier_version_was_trained_in_fp32_unless_it_asked_for_bf16(
    bf16: bool | None, known: str | None
) -> None:
    trial = trained_in(0, "fp32", bf16=bf16)
    earlier = replace(trial, evaluations=({**trial.evaluations[0], "conditions": {}},))
    assert earlier.used_precision == known
    assert replace(earlier, evaluations=()).used_precision is None


def test_markdown_is_a_table() -> None:
    lines = markdown(comparison.comparison_rows(RECORDS[:2], "max")).splitlines()
    assert lines == [
        "| trial | state | height | eval_loss | learning_rate | epochs | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 0 | COMPLETE | 0.4 | 0.5 | 1 | 1 | 2.5 |",
        "| 1 | FAIL | – | – | 0.1 | 0 | 0 |",
    ]


def test_csv_keeps_full_precision_and_is_harmless_in_a_spreadsheet() -> None:
    nasty = [
        record(0, 0.123456789, params={"backbone": "=cmd|' /C calc'!A0", "x": 'a,"b"\nc'}),
        record(1, 0.1, params={"backbone": "b", "x": "d"}),
    ]
    lines = list(
        csv.DictReader(
            io.StringIO(tables.table_csv(comparison.trial_table(comparison.comparison_rows(nasty, "max"), "height")))
        )
    )
    assert lines[0]["height"] == "0.123456789"
    assert lines[0]["backbone"] == "'=cmd|' /C calc'!A0"
    assert lines[0]["x"] == 'a,"b"\nc'


def test_a_pipe_does_not_break_a_markdown_table() -> None:
    rows = comparison.comparison_rows([record(0, 0.5, params={"backbone": "a|b\nc"})], "max")
    assert "| a\\|b c |" in markdown(rows)


def test_the_terminal_shows_markup_as_text() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(
        tables.rich_table(
            comparison.trial_table(
                comparison.comparison_rows([record(0, 0.5, params={"backbone": "[red]x[/red]"})], "max"), "height"
            )
        )
    )
    assert "[red]x[/red]" in console.export_text()


def test_the_earlier_of_equals_is_best() -> None:
    assert [r.number for r in best_first(RECORDS, "max")] == [2, 3, 0, 4]


def test_checkpoints_of_the_best_trials_stay_and_others_go() -> None:
    assert unneeded_checkpoints(RECORDS, "max", keep=2) == ["0/a", "4/a"]
    assert unneeded_checkpoints(RECORDS, "min", keep=2) == ["2/a", "3/a"]
    assert unneeded_checkpoints(RECORDS, "max", keep=9) == []


def test_a_running_trial_keeps_its_best_and_its_newest_checkpoint() -> None:
    evaluations = tuple({"epoch": float(n), "seconds": 1.0, "checkpoint": f"5/{n}"} for n in range(1, 5))
    running = record(5, 0.2, "RUNNING", evaluations=evaluations, checkpoint="5/2")
    assert unneeded_checkpoints([*RECORDS, running], "max", keep=4) == ["5/1", "5/3"]
    ended = record(5, 0.2, "FAIL", evaluations=evaluations, checkpoint="5/2")
    assert unneeded_checkpoints([ended], "max", keep=4) == ["5/1", "5/2", "5/3", "5/4"]


def test_a_checkpoint_that_was_deleted_is_not_shown(tmp_path: Path) -> None:
    row = comparison.comparison_rows([record(0, 0.5, checkpoint=str(tmp_path / "gone"))], "max")[0]
    assert row["checkpoint"] is None


def test_the_definition_of_the_metrics_is_said_below_the_table() -> None:
    def trial(number: int, **params: Any) -> TrialRecord:
        return record(number, 0.5, params={"seed": 1, **params})

    table = comparison.comparison_rows([trial(0, metric_profile="strict"), trial(1, metric_profile="strict")], "max")
    assert markdown(table).endswith("|\n\nexact_match and f1: strict\n")
    assert "exact_match" not in tables.table_csv(comparison.trial_table(table, "height"))
    older = comparison.comparison_rows([trial(0), trial(1, metric_profile="drcd")], "max")
    assert comparison.profile_caption(older) == "exact_match and f1: drcd"
    assert "metric_profile" in comparison.trial_columns(older, "height")
    assert comparison.profile_caption(comparison.comparison_rows(RECORDS, "max")) is None


# The table that a report has: two readers' backbones, a selector's, and what a toy job leaves.
READERS = """
name: readers
job: qa
data: sample
objective: exact_match
parameters:
  backbone: {values: ["scratch:1x64x1", "scratch:2x128x2"]}
  learning_rate: {values: [1e-3, 1e-4]}
  metric_profile: drcd
search: {sampler: grid}
"""
SELECTORS = """
name: selectors
job: mc
data: sample
objective: accuracy
parameters: {backbone: "scratch:1x64x1", learning_rate: 1e-3, per_device_eval_batch_size: 3, seed: {values: [1, 2]}}
search: {sampler: grid}
"""


def ended(storage: RDBStorage, space: SearchSpace, outcomes: list[dict[str, float] | None]) -> Ledger:
    """A sweep whose trials ended with these metrics; None: failed before the first evaluation."""
    ledger = create_ledger(storage, space, space.name)
    for place, metrics in enumerate(outcomes):
        trial = ledger.ask(space)
        assert trial is not None
        if metrics:
            ledger.report(trial.number, {**metrics, "epoch": 1.0, "seconds": 10.0 + place}, None)
        ledger.finish(trial.number, "COMPLETE" if metrics else "FAIL")
    return ledger


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> list[Ledger]:
    """Made once: these tests only read."""
    tmp_path = tmp_path_factory.mktemp("sweeps")
    storage = open_storage("sqlite:///:memory:")

    def space(text: str) -> SearchSpace:
        path = tmp_path / "space.yaml"
        path.write_text(text, encoding="utf-8")
        return read_search_space(path, ())

    def reader(em: float) -> dict[str, float]:
        return {"exact_match": em, "f1": em + 0.1, "eval_loss": 1 - em, "train_loss": 0.1}

    return [
        ended(storage, space(READERS), [reader(0.2), reader(0.6), reader(0.5), None]),
        ended(storage, space(SELECTORS), [{"accuracy": 0.9, "eval_loss": 0.3}, {"accuracy": 0.95, "eval_loss": 0.2}]),
    ]


def test_several_sweeps_are_one_table_with_the_best_trial_of_each_backbone(sweeps: list[Ledger]) -> None:
    table = comparison.model_rows(sweeps)
    lines = tables.table_markdown(comparison.model_table(table)).splitlines()
    names = [column.strip() for column in lines[0].strip("|").split("|")]
    assert names[:8] == ["sweep", "job", "trial", "state", "backbone", "exact_match", "f1", "accuracy"]
    assert names[-2:] == ["epochs", "seconds"]
    assert names[8:-2] == ["learning_rate", "seed"]
    assert not {"eval_loss", "train_loss", "metric_profile", "weights_m", "max_answer_length"} & set(names)
    assert [(row["sweep"], row["backbone"], row["value"]) for row in table] == [
        ("readers", "scratch:1x64x1", 0.6),
        ("readers", "scratch:2x128x2", 0.5),
        ("selectors", "scratch:1x64x1", 0.95),
    ]
    assert lines[-1] == "exact_match and f1: drcd"
    assert comparison.model_table(table).bold == {0, 2}


def test_several_sweeps_are_ranked_as_one_is(toy_space: Callable[..., SearchSpace]) -> None:
    """Trial 0 of `repeated` has the best single value; by the means over two seeds its trial 1 is better."""
    storage = open_storage("sqlite:///:memory:")
    scores = [{"height": value, "eval_loss": 0.5} for value in (0.9, 0.6)]
    repeated = ended(storage, toy_space("name=repeated", "parameters.backbone=hill"), scores)
    for number, value in ((0, 0.1), (1, 0.7)):
        repeat = repeated.repeat(number, 1).number
        repeated.report(repeat, {"height": value, "eval_loss": 0.5, "epoch": 1.0, "seconds": 1.0}, None)
        repeated.finish(repeat, "COMPLETE")
    single = ended(storage, toy_space("name=single", "parameters.backbone=hill"), [{"height": 0.8, "eval_loss": 0.5}])
    running = single.repeat(0, 5)  # a repeat that runs counts nowhere
    single.report(running.number, {"height": 0.99, "eval_loss": 0.5, "epoch": 1.0, "seconds": 1.0}, None)
    rows = comparison.model_rows([single, repeated], every=True)
    assert [(row["sweep"], row["trial"]) for row in rows] == [("repeated", 1), ("repeated", 0), ("single", 0)]
    assert [row["trial"] for row in comparison.comparison_rows(repeated.records(), "max")] == [1, 0]
    best = comparison.model_rows([single, repeated])
    assert [(row["sweep"], row["trial"]) for row in best] == [("repeated", 1), ("single", 0)]
    by_value = comparison.sort_rows(rows, "height")
    assert [row["value"] for row in by_value] == [0.9, 0.8, 0.6]
    assert comparison.model_table(by_value).bold == {2}


def test_a_table_of_all_trials_ranks_those_of_one_job_and_ends_with_the_failed(sweeps: list[Ledger]) -> None:
    table = comparison.model_rows(sweeps, every=True)
    assert [row["value"] for row in table] == [0.6, 0.5, 0.2, None, 0.95, 0.9]
    assert [row["value"] for row in comparison.model_rows(sweeps[::-1], every=True)][:2] == [0.95, 0.9]
    values = {name: table[0]["settings"][name] for name in ("learning_rate", "seed")}
    assert values == {name: table[0]["params"][name] for name in ("learning_rate", "seed")}


def test_sweeps_of_one_job_are_ranked_together_and_failure_is_shown(
    toy_space: Callable[..., SearchSpace],
) -> None:
    storage = open_storage("sqlite:///:memory:")

    def sweep(name: str, backbone: str, outcomes: list[dict[str, float] | None]) -> Ledger:
        return ended(storage, toy_space(f"name={name}", f"parameters.backbone={backbone}"), outcomes)

    low = sweep("low", "hill", [{"height": 0.3, "eval_loss": 0.7}])
    none = sweep("none", "valley", [None])
    high = sweep("high", "valley", [{"height": 0.8, "eval_loss": 0.2}])
    table = comparison.model_rows([low, none, high])
    assert [(row["sweep"], row["state"]) for row in table] == [
        ("high", "COMPLETE"),
        ("low", "COMPLETE"),
        ("none", "FAIL"),
    ]
    assert comparison.model_table(table).caption is None
    assert comparison.model_table(comparison.sort_rows(table, "sweep", reverse=True)).bold == {2}


@pytest.mark.parametrize(
    ("column", "reverse", "values"),
    [
        ("f1", False, [0.6, 0.5, 0.2, None, 0.95, 0.9]),
        ("f1", True, [0.2, 0.5, 0.6, None, 0.95, 0.9]),
        ("accuracy", False, [0.95, 0.9, 0.6, 0.5, 0.2, None]),
        ("seconds", False, [None, 0.2, 0.9, 0.6, 0.95, 0.5]),
        ("sweep", True, [0.95, 0.9, 0.6, 0.5, 0.2, None]),
        ("eval_loss", False, [0.95, 0.9, 0.6, 0.5, 0.2, None]),
    ],
)
def test_any_column_sorts_the_table_and_rows_without_a_value_come_last(
    sweeps: list[Ledger], column: str, reverse: bool, values: list[float | None]
) -> None:
    table = comparison.sort_rows(comparison.model_rows(sweeps, every=True), column, reverse)
    assert [row["value"] for row in table] == values


def test_an_unknown_column_is_answered_with_the_nearest(sweeps: list[Ledger]) -> None:
    with pytest.raises(ConfigError, match="--sort: unknown column 'exactmatch'; did you mean 'exact_match'"):
        comparison.sort_rows(comparison.model_rows(sweeps), "exactmatch")


def test_weights_are_counted_in_the_checkpoint_that_was_kept(sweeps: list[Ledger], tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    kept, damaged = tmp_path / "kept", tmp_path / "damaged"
    for folder in (kept, damaged):
        folder.mkdir()
    save_file({"a": np.zeros((1000, 1200), "float16"), "b": np.zeros(34_000, "float32")}, kept / "model.safetensors")
    (damaged / "model.safetensors").write_bytes(b"weights, or what was left of them")
    assert comparison._millions(str(kept)) == 1.234
    assert comparison._millions(str(damaged)) is None
    table = comparison.model_rows(sweeps)
    known = [{**row, "weights_m": 1.234} for row in table[:1]] + table[1:]
    assert "weights_m" in comparison.model_columns(known)
    assert [row["weights_m"] for row in comparison.sort_rows(known[::-1], "weights_m")] == [1.234, None, None]


def test_json_of_several_sweeps_adds_to_the_keys_of_one(sweeps: list[Ledger]) -> None:
    parsed = json.loads(tables.json_text(comparison.model_rows(sweeps)))
    single = json.loads(tables.json_text(comparison.comparison_rows(sweeps[0].records(), "max")))
    assert set(parsed[0]) - set(single[0]) == {
        "sweep",
        "job",
        "objective",
        "direction",
        "backbone",
        "weights_m",
        "settings",
    }
    assert {key: parsed[0][key] for key in single[0]} == single[0]


def test_csv_of_several_sweeps_has_the_table(sweeps: list[Ledger]) -> None:
    text = tables.table_csv(comparison.model_table(comparison.model_rows(sweeps)))
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [(line["sweep"], line["exact_match"], line["accuracy"]) for line in lines][::2] == [
        ("readers", "0.6", ""),
        ("selectors", "", "0.95"),
    ]


def test_one_sweep_has_the_table_it_had_and_may_be_sorted(sweeps: list[Ledger]) -> None:
    readers = sweeps[0]
    table, view = comparison.compare_sweeps([readers])
    assert table == comparison.comparison_rows(readers.records(), "max")
    assert view == comparison.trial_table(table, "exact_match")
    ordered, other = comparison.compare_sweeps([readers], sort="trial")
    assert [row["trial"] for row in ordered] == [0, 1, 2, 3]
    assert (other.columns, other.bold) == (view.columns, {1})
    assert comparison.compare_sweeps([readers], sort="seconds")[0][0]["state"] == "FAIL"


def test_several_sweeps_may_be_sorted_and_shown_in_full(sweeps: list[Ledger]) -> None:
    table, view = comparison.compare_sweeps(sweeps, every=True, sort="accuracy", reverse=True)
    assert [row["value"] for row in table] == [0.9, 0.95, 0.6, 0.5, 0.2, None]
    assert view == comparison.model_table(table)


def test_a_test_score_is_shown_where_it_is_known() -> None:
    assert "test" not in comparison.trial_columns(comparison.comparison_rows(RECORDS, "max"), "height")
    table = comparison.comparison_rows([record(0, 0.4, test=0.35), record(1, 0.2)], "max")
    assert "test" in comparison.trial_columns(table, "height")
    assert [row["test"] for row in table] == [0.35, None]


PUBLISHED = {"hfl/chinese-pert-large": 0.8315, "hfl/chinese-lert-base": 0.7999, "bert-base-chinese": 0.8072}


def beside_published(storage: RDBStorage, folder: Path, backbones: list[str], **changes: Any) -> list[dict[str, Any]]:
    """The rows of a sweep with one trial for each backbone; the first scores 0.5, each other one 0.1 more."""
    told = [Told([0.5 + place / 10], {"backbone": name}) for place, name in enumerate(backbones)]
    return comparison.reference_rows([written(storage, folder, told, reference=PUBLISHED, **changes)])


def test_each_backbones_best_trial_stands_beside_its_published_score(storage: RDBStorage, tmp_path: Path) -> None:
    names = ["bert-base-chinese", "hfl/chinese-lert-base", "bert-base-chinese"]
    rows = beside_published(storage, tmp_path, names)
    assert [(row["backbone"], row["trial"], row["value"], row["reference"], row["difference"]) for row in rows] == [
        ("bert-base-chinese", 2, 0.7, 0.8072, -0.1072),
        ("hfl/chinese-lert-base", 1, 0.6, 0.7999, -0.1999),
        ("hfl/chinese-pert-large", None, None, 0.8315, None),
    ]
    assert tables.table_markdown(comparison.reference_table(rows)).splitlines() == [
        "| backbone | trial | state | exact_match | reference | difference |",
        "| --- | --- | --- | --- | --- | --- |",
        "| bert-base-chinese | 2 | COMPLETE | 0.7 | 0.8072 | -0.1072 |",
        "| hfl/chinese-lert-base | 1 | COMPLETE | 0.6 | 0.7999 | -0.1999 |",
        "| hfl/chinese-pert-large | – | – | – | 0.8315 | – |",
    ]


@pytest.mark.parametrize(
    "backbone",
    ["/models/chinese-pert-large", "~/chinese-pert-large/", "./chinese-pert-large", "mirror/chinese-pert-large"],
)
def test_a_local_folder_has_the_published_score_of_its_name(backbone: str, storage: RDBStorage, tmp_path: Path) -> None:
    rows = beside_published(storage, tmp_path, [backbone])
    assert (rows[0]["backbone"], rows[0]["reference"]) == (backbone, 0.8315)
    assert [row["backbone"] for row in rows[1:]] == ["hfl/chinese-lert-base", "bert-base-chinese"]


@pytest.mark.parametrize("backbone", ["/models/chinese-pert-base", "hfl/chinese-pert", "scratch:2x128x2"])
def test_another_backbone_has_no_published_score(backbone: str, storage: RDBStorage, tmp_path: Path) -> None:
    rows = beside_published(storage, tmp_path, [backbone])
    assert (rows[0]["reference"], rows[0]["difference"], len(rows)) == (None, None, 4)


def test_repeated_trials_are_compared_with_their_mean_over_seeds(storage: RDBStorage, tmp_path: Path) -> None:
    ledger = written(storage, tmp_path, [Told([0.8], {"backbone": "bert-base-chinese"})], reference=PUBLISHED)
    repeat = ledger.repeat(0, 1).number
    ledger.report(repeat, {"exact_match": 0.7, "epoch": 1.0, "seconds": 1.0}, None)
    ledger.finish(repeat, "COMPLETE")
    rows = comparison.reference_rows([ledger])
    assert (rows[0]["value"], rows[0]["mean"], rows[0]["n"]) == (0.8, 0.75, 2)
    assert rows[0]["difference"] == -0.0572
    assert {"mean", "std", "n"} <= set(comparison.reference_table(rows).columns)


def test_a_sweep_without_published_scores_says_how_to_add_them(storage: RDBStorage, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sweep written: .* no published scores; write `reference: .*keeps the tria"):
        comparison.reference_rows([written(storage, tmp_path, [Told([0.5])])])


def test_published_scores_of_several_sweeps_are_one_table(storage: RDBStorage, tmp_path: Path) -> None:
    told = [Told([0.9], {"backbone": "bert-base-chinese"})]
    readers = written(storage, tmp_path / "a", told, reference=PUBLISHED)
    selectors = written(
        storage, tmp_path / "b", told, name="other", job="mc", objective="accuracy", reference={"bert-base-chinese": 1}
    )
    rows = comparison.reference_rows([readers, selectors])
    view = comparison.reference_table(rows)
    lines = list(csv.DictReader(io.StringIO(tables.table_csv(view))))
    assert list(lines[0]) == [
        "sweep", "job", "backbone", "trial", "state", "exact_match", "accuracy", "reference", "difference"
    ]  # fmt: skip
    assert [(line["sweep"], line["difference"]) for line in lines[:2]] == [("written", "0.0928"), ("other", "-0.1")]
    assert view.bold == {0, 1}
    assert list(json.loads(tables.json_text(rows))[0]) == list(comparison.REFERENCE_KEYS)


def test_the_command_prints_published_scores_in_each_form_and_has_its_own_order(here: Path) -> None:
    told = [Told([0.9], {"backbone": str(here / "bert-base-chinese")})]
    written(open_storage(f"sqlite:///{here}/sweeps/ledger.db"), here, told, reference=PUBLISHED)
    assert [row["reference"] for row in json.loads(invoke("compare", "written", "--reference", "--json").stdout)] == [
        0.8072, 0.8315, 0.7999
    ]  # fmt: skip
    assert invoke("compare", "written", "--reference", "--csv").stdout.startswith("backbone,trial,state,exact_match,")
    assert invoke("compare", "written", "--reference", "--md").stdout.startswith("| backbone | trial | state |")
    assert "0.0928" in invoke("compare", "written", "--reference").stdout
    for other in ("--all", "--sort=f1", "--reverse", "--html"):
        wrong = invoke("compare", "written", "--reference", other)
        assert (wrong.exit_code, "--reference: has its own rows" in wrong.output) == (2, True)

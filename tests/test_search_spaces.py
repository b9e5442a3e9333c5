"""The shipped search spaces: each asks a question, says how to run it, and holds the report's recipes.

A new file needs no edit here; one that repeats figures of the report joins REPORT.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sweeper.cluster.capacity import Machine
from sweeper.monitor.plan import first_configurations, plan_lines
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace, params_of
from tests.support.network import refuse_connections

FOLDER = Path(__file__).parents[1] / "search_spaces"
PATHS = sorted(FOLDER.rglob("*.yaml"))
EDITORS = "# yaml-language-server: $schema=./schema.json"
MACHINES = [Machine(cpus=2, gpus=0), Machine(cpus=64, gpus=8)]

READER = {
    "max_length": 512, "learning_rate": 3e-5, "lr_scheduler_type": "linear", "warmup_ratio": 0.0, "warmup_steps": 1500,
    "effective_batch_size": 8, "num_train_epochs": 5,
}  # fmt: skip
TO_THE_END = {"num_train_epochs": 10, "eval_steps": 0}  # evaluated after every epoch
FROM_SCRATCH = {
    "backbone": "scratch:6x384x6@bert-base-chinese", "learning_rate": 5e-5, "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.0, "warmup_steps": 200, "weight_decay": 0.01, "effective_batch_size": 2,
}  # fmt: skip
LONG = {
    "max_length": 4096, "doc_stride": 256, "num_train_epochs": 1, "learning_rate": 5e-5, "lr_scheduler_type": "linear",
    "warmup_ratio": 0.1, "warmup_steps": 0, "effective_batch_size": 2,
}  # fmt: skip

# The report's figure, the file that repeats it, and the parameters it belongs to.
REPORT: list[tuple[str, str, dict[str, Any]]] = [
    ("83.15 %", "qa_backbones", {"backbone": "hfl/chinese-pert-large", **READER}),
    ("83.02 %", "qa_backbones", {"backbone": "hfl/chinese-macbert-large", **READER}),
    ("82.02 %", "qa_backbones", {"backbone": "hfl/chinese-lert-large", **READER}),
    ("81.85 %", "qa_backbones", {"backbone": "hfl/chinese-roberta-wwm-ext", **READER}),
    ("80.72 %", "qa_backbones", {"backbone": "bert-base-chinese", **READER}),
    ("79.99 %", "qa_backbones", {"backbone": "hfl/chinese-lert-base", **READER}),
    ("80.36, 81.32, 82.39, 82.95, 83.15", "qa_long_training", {"backbone": "hfl/chinese-pert-large", **READER}),
    ("num_train_epochs: 10", "qa_long_training", {"backbone": "hfl/chinese-pert-large", **READER, **TO_THE_END}),
    ("96.4 %", "mc_backbones", {"backbone": "hfl/chinese-lert-base", "num_train_epochs": 4}),
    ("95.4 %", "mc_backbones", {"backbone": "bert-base-chinese", "num_train_epochs": 1}),
    ("51.9 %", "mc_from_scratch", {**FROM_SCRATCH, "num_train_epochs": 1}),
    ("79.99 %", "qa_from_scratch", FROM_SCRATCH),
    ("55.1 %", "longformer", {"backbone": "schen/longformer-chinese-base-4096", **LONG}),
    ("55.1 %", "longformer", {"backbone": "bert-base-chinese", **LONG}),
]


@cache
def space(name: str) -> SearchSpace:
    return read_search_space(FOLDER / f"{name}.yaml")


def opening(path: Path) -> list[str]:
    """The comment lines before the first key, less the one for editors."""
    first, *rest = path.read_text(encoding="utf-8").split("\nname:")[0].splitlines()
    assert first == EDITORS, f"{path.name}: the first line is for editors: write {EDITORS}"
    return rest


def test_the_folder_holds_the_shipped_search_spaces() -> None:
    assert len(PATHS) >= 9, f"{FOLDER} holds {len(PATHS)} search spaces; nine are shipped"
    assert all(path.parent == FOLDER for path in PATHS), "a search space in a deeper folder is not found by its name"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_search_space_has_its_files_name_and_opens_with_a_question(path: Path) -> None:
    assert space(path.stem).name == path.stem, f"{path.name}: write name: {path.stem}"
    assert re.fullmatch(r"# [A-Z].+\?", opening(path)[0]), f"{path.name}: ask the sweep's question in the second line"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_commands_a_file_opens_with_can_be_given(path: Path) -> None:
    commands = [line.split() for line in opening(path) if line.startswith("#   sweeper ")]
    told = {command[2] for command in commands}
    assert told == {"plan", "run"}, (
        f"{path.name}: give `#   sweeper plan {path.name}` and `#   sweeper run  {path.name}`"
    )
    for command in commands:
        assert command[3] == path.name, f"{path.name}: its own name belongs into {' '.join(command)}"
        overrides = [word for word in command[4:] if "=" in word and word != "data=path/to/data"]
        assert not overrides or read_search_space(path, overrides)


@pytest.mark.parametrize(
    "machine",
    [pytest.param(MACHINES[0], id="plain"), pytest.param(MACHINES[1], id="gpus", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", [path.stem for path in PATHS])
def test_a_search_space_plans_without_network_on_any_machine(
    name: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, first = refuse_connections(monkeypatch), min(3, space(name).search.trials)
    plan = list(plan_lines(space(name), machine, first))
    title = f"{name}: {space(name).search.trials} trials of {space(name).job} on {space(name).data}"
    assert plan[0].startswith(title)
    assert len(plan[plan.index(f"first {first} configurations") :]) == 1 + first + 1
    assert tried == []


@pytest.mark.parametrize(("figure", "name", "expected"), REPORT)
def test_the_reports_settings_are_among_the_first(figure: str, name: str, expected: dict[str, Any]) -> None:
    first = [vars(params_of(space(name), params)) for params in first_configurations(space(name), 6)]
    assert any(expected.items() <= params.items() for params in first)
    assert figure in (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["qa_backbones", "mc_backbones"])
def test_published_scores_are_the_figures_of_the_report(name: str) -> None:
    figures = {params["backbone"]: figure for figure, file, params in REPORT if file == name}
    assert {backbone: f"{100 * score:g} %" for backbone, score in space(name).reference.items()} == figures


def test_the_reports_best_reader_goes_first() -> None:
    assert (
        vars(params_of(space("qa_backbones"), first_configurations(space("qa_backbones"), 1)[0])).items()
        >= REPORT[0][2].items()
    )

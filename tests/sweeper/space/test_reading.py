"""Check which search-space files are refused, at which line, and what an accepted file gives."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sweeper
from jobs.dataset.data import read_data
from sweeper.errors import ConfigError, DataFailure, Failure
from sweeper.space import reading
from sweeper.space.cases import list_cases
from sweeper.space.domains import Branch, Choice, Constant, Range
from sweeper.space.reading import find_file
from sweeper.space.search_space import assign, params_of
from sweeper.space.sections import Resources
from tests.support.free_job import HERE, P, R, S, document, documents, failure_of, first, no_data, read_text, space

pytestmark = pytest.mark.usefixtures("without_data")


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        # keys
        ({"repeat": "{top: 3}"}, ":7: repeat: unknown key 'repeat'; did you mean 'repeats'?"),
        ({"repeats": "{top: 3}"}, ":7: repeats.seeds: is missing; add it"),
        ({"repeats": "{top: 0, seeds: [1]}"}, ":7: repeats.top: found 0; must be greater"),
        ({"repeats": "{seeds: []}"}, ":7: repeats.seeds: is empty; give at least one"),
        ({"repeats": "{seeds: [1, 2, 1]}"}, ":7: repeats.seeds: found a seed twice in [1, 2, 1]; give each once"),
        ({"repeats": "{seeds: [-1]}"}, ":7: repeats.seeds.0: found -1; must be greater"),
        ({"repeats": "{seed: [1]}"}, ":7: repeats.seed: unknown key 'seed'; did you mean 'seeds'? "),
        ({"repeats": "{trials: 1}"}, ":7: repeats.trials: unknown key 'trials' here; it belongs under search"),
        ({S: "{trials: 1, seeds: 1}"}, ":6: search.seeds: unknown key 'seeds'; did you mean 'seed'? known here: "),
        (
            {"learning_rate": "1e-3"},
            ":7: learning_rate: unknown key 'learning_rate' here; it belongs under parameters",
        ),
        (
            {S: "{trials: 1, learning_rate: 1}"},
            ":6: search.learning_rate: unknown key 'learning_rate' here; it belongs under parameters",
        ),
        (
            {S: "{trials: 1, mode: max}"},
            ":6: search.mode: unknown key 'mode'; known here: enqueue, learn_from, sampler, seed, trials",
        ),
        ({S: "{trails: 1, trials: 1}"}, ":6: search.trails: unknown key 'trails'; did you mean 'trials'?"),
        (
            {P: "{trials: 1}"},
            ":5: parameters.trials: unknown parameter 'trials' here; it belongs under search",
        ),
        (
            {P: "{lerning_rate: 1}"},
            ":5: parameters.lerning_rate: unknown parameter 'lerning_rate'; did you mean 'learning_rate'?",
        ),
        ({P: "{Backbone: x}"}, "did you mean 'backbone'? known here: backbone, balanced,"),
        ({"name": None}, ":1: name: is missing"),
        ({"data": None}, ":1: data: is missing"),
        ({"objective": None}, ":1: objective: is missing"),
        ({P: None}, ":1: parameters: is missing"),
        ({S: None}, ":1: search: is missing"),
        ({S: "{}"}, ":6: search.trials: is missing; write how many trials to run"),
        ({"name": ""}, ":1: name: found null; must be text"),
        ({"data": '""'}, ":3: data: is empty"),
        ({P: ""}, ":5: parameters: found null; must be a mapping"),
        ({S: ""}, ":6: search: found null; must be a mapping"),
        ({"keep": ""}, ":7: keep: found null; must be a mapping"),
        # types
        ({P: "[1]"}, ":5: parameters: found [1]; must be a mapping"),
        ({S: "[trials, 3]"}, ':6: search: found ["trials", 3]; must be a mapping'),
        (
            {S: "{trials: '3'}"},
            ':6: search.trials: found "3"; must be a whole number in plain decimal digits',
        ),
        ({S: "{trials: 3.0}"}, ":6: search.trials: found 3.0; must be a whole number"),
        (
            {S: "{trials: 0x10}"},
            ':6: search.trials: found "0x10"; must be a whole number in plain decimal digits',
        ),
        ({S: "{trials: 1_000}"}, ':6: search.trials: found "1_000"; must be a whole number'),
        (
            {S: "{trials: 3, sampler: [tpe]}"},
            ":6: search.sampler: found [\"tpe\"]; must be 'tpe', 'gp', 'cmaes', 'qmc', 'random' or 'grid'",
        ),
        ({S: "{trials: 3, sampler: tpee}"}, ":6: search.sampler: found \"tpee\"; did you mean 'tpe'?"),
        ({S: "{trials: 3, sampler: newton}"}, ":6: search.sampler: found \"newton\"; must be 'tpe'"),
        ({S: "{trials: 3, enqueue: [1]}"}, ":6: search.enqueue.0: found 1; must be a mapping"),
        ({P: "{backbone: 5}"}, ":5: parameters.backbone: found 5; must be text"),
        ({P: "{backbone: [a, b]}"}, ":5: parameters.backbone: a list holds branches"),
        ({P: "{backbone: []}"}, ":5: parameters.backbone: a list holds branches"),
        ({P: "{backbone: }"}, ":5: parameters.backbone: found null; must be text"),
        ({P: "{seed: true}"}, ":5: parameters.seed: found true; must be a whole number"),
        (
            {P: "{seed: 1:30}"},
            ':5: parameters.seed: found "1:30"; must be a whole number in plain decimal digits',
        ),
        ({P: "{seed: 2024-01-01}"}, ':5: parameters.seed: found "2024-01-01"; must be a whole number'),
        ({P: "{learning_rate: true}"}, ":5: parameters.learning_rate: found true; must be a number"),
        (
            {P: "{learning_rate: '1e-3'}"},
            ':5: parameters.learning_rate: found "1e-3"; must be a number in plain decimal digits',
        ),
        (
            {P: "{learning_rate: 1e999}"},
            ":5: parameters.learning_rate: found Infinity; must be a finite number",
        ),
        ({P: "{learning_rate: 2}"}, ":5: parameters.learning_rate: found 2; must be less than or equal to 1"),
        ({P: "{balanced: yes}"}, ':5: parameters.balanced: found "yes"; must be true or false'),
        ({P: "{balanced: 1}"}, ":5: parameters.balanced: found 1; must be true or false"),
        (
            {P: "{shape: linaer}"},
            ":5: parameters.shape: found \"linaer\"; did you mean 'linear'? must be 'linear' or 'cosine'",
        ),
        # ranges and choices
        (
            {P: "{learning_rate: {min: 0, max: 1, step: -0.1}}"},
            ":5: parameters.learning_rate.step: found -0.1; must be above",
        ),
        (
            {P: "{learning_rate: {min: 0.1, max: 1, step: 0.1, log: true}}"},
            ":5: parameters.learning_rate.step: a logarithmic range has no step",
        ),
        (
            {P: "{learning_rate: {min: 0, max: 1, step: .nan}}"},
            ":5: parameters.learning_rate.step: found NaN; must be a finite number",
        ),
        (
            {P: "{learning_rate: {min: 0, max: 1, log: 1}}"},
            ":5: parameters.learning_rate.log: found 1; must be true or false",
        ),
        (
            {P: "{learning_rate: {min: 0, max: .inf}}"},
            ":5: parameters.learning_rate.max: found Infinity; must be a finite number",
        ),
        (
            {P: "{learning_rate: {min: 0, max: 1.5}}"},
            ":5: parameters.learning_rate.max: found 1.5; must be less than or equal to 1",
        ),
        (
            {P: "{learning_rate: {min: 0, max: x}}"},
            ':5: parameters.learning_rate.max: found "x"; must be a finite number',
        ),
        ({P: "{learning_rate: {max: 1}}"}, ":5: parameters.learning_rate.min: is missing"),
        ({P: "{learning_rate: {log: true}}"}, ":5: parameters.learning_rate.max: is missing"),
        ({P: "{seed: {min: 1, max: 2.5}}"}, ":5: parameters.seed.max: found 2.5; must be a whole number"),
        (
            {P: "{seed: {min: 1, max: 9, step: 0.5}}"},
            ":5: parameters.seed.step: found 0.5; must be a whole number",
        ),
        ({P: "{seed: {min: true, max: 9}}"}, ":5: parameters.seed.min: found true; must be a finite number"),
        (
            {P: "{backbone: {min: 1, max: 2}}"},
            ":5: parameters.backbone: backbone is not a number and has no range",
        ),
        ({P: "{shape: {min: 1, max: 2}}"}, ":5: parameters.shape: shape is not a number and has no range"),
        (
            {P: "{seed: {values: 3}}"},
            ":5: parameters.seed.values: found 3; must be a list of at least one value",
        ),
        (
            {P: "{learning_rate: {values: [1, 1.0]}}"},
            ":5: parameters.learning_rate.values.1: 1.0 stands twice",
        ),
        ({P: "{seed: {values: [1, x]}}"}, ':5: parameters.seed.values.1: found "x"; must be a whole number'),
        (
            {P: "{seed: {values: [[1]]}}"},
            ":5: parameters.seed.values.0: found a list; must be a single value",
        ),
        ({P: "{seed: {values: [1], min: 1}}"}, ":5: parameters.seed: mixes values and a range; keep one"),
        ({P: "{seed: {}}"}, ":5: parameters.seed: has no values"),
        ({P: "{seed: {value: 1}}"}, ":5: parameters.seed.value: `value` stands in a list of branches only"),
        ({P: "{seed: {mni: 1, max: 2}}"}, ":5: parameters.seed.mni: unknown key 'mni'; did you mean 'min'?"),
        ({S: "{trials: 1, seed: -1}"}, ":6: search.seed: found -1; must be greater than or equal to 0"),
        (
            {P: "{max_length: 9000}"},
            ":5: parameters.max_length: found 9000; must be less than or equal to 8192",
        ),
        ({P: "{doc_stride: 600}"}, ":5: parameters.doc_stride: 600 is not below max_length 512"),
        # branches
        (
            {P: "{seed: {when: {backbone: x}, min: 1, max: 2}}"},
            ":5: parameters.seed.when: `when` stands in a list of branches only",
        ),
        (
            {P: "{seed: [{when: {bakbone: x}, value: 1}]}"},
            ":5: parameters.seed.0.when.bakbone: unknown parameter 'bakbone'; did you mean 'backbone'?",
        ),
        (
            {P: "{seed: [{when: {}, value: 1}]}"},
            ":5: parameters.seed.0.when: found {}; name other parameters",
        ),
        (
            {P: "{seed: [{when: base, value: 1}]}"},
            ':5: parameters.seed.0.when: found "base"; name other parameters',
        ),
        (
            {P: "{seed: [{when: {backbone: {a: b}}, value: 1}]}"},
            ':5: parameters.seed.0.when.backbone: found {"a": "b"}; must be one value, glob or comparison',
        ),
        (
            {P: "{seed: [{when: {backbone: }, value: 1}]}"},
            ":5: parameters.seed.0.when.backbone: found null; must be one value",
        ),
        (
            {P: "{seed: [{value: 1}, {when: {backbone: x}, value: 2}]}"},
            ":5: parameters.seed.1: is never reached",
        ),
        (
            {P: "{seed: [{when: {backbone: x}, value: 1}, {when: {backbone: x, shape: y}, value: 2}]}"},
            ":5: parameters.seed.1: is never reached",
        ),
        (
            {P: "{seed: [{when: {seed: 1}, value: 1}]}"},
            ":5: parameters.seed: `when` forms a cycle: seed → seed",
        ),
        (
            {P: "{seed: [{when: {max_length: 1}, value: 1}], max_length: [{when: {seed: 1}, value: 9}]}"},
            "`when` forms a cycle: ",
        ),
        (
            {P: "{seed: [{value: 1, when: {backbone: x}, values: [1]}]}"},
            ":5: parameters.seed.0: mixes value and values; keep one",
        ),
        ({P: "{seed: [{when: {backbone: x}}]}"}, ":5: parameters.seed.0: has no values"),
        (
            {P: "{seed: [{vaule: 1}]}"},
            ":5: parameters.seed.0.vaule: unknown key 'vaule'; did you mean 'value'?",
        ),
        # meaning
        (
            {"objective": "scroe"},
            ":4: objective: unknown metric 'scroe'; did you mean 'score'? known here: loss, score",
        ),
        ({"objective": "[score]"}, ':4: objective: found ["score"]; must be text'),
        ({"job": "qaa"}, ":2: job: unknown job 'qaa'; did you mean 'qa'? known here:"),
        ({"job": "../qa"}, ":2: job: unknown job '../qa'"),
        (
            {"job": "nowhere.at_all:JOB"},
            ":2: job: nowhere.at_all:JOB cannot be imported (ModuleNotFoundError: No module named 'nowhere')",
        ),
        ({"job": f"{HERE}:JOBS"}, "cannot be imported (AttributeError"),
        ({"job": f"{HERE}:NOT_A_JOB"}, f":2: job: {HERE}:NOT_A_JOB is int, not a jobs.job.Job"),
        ({"job": ".relative:JOB"}, ":2: job: unknown job '.relative:JOB'"),
        ({"job": "5"}, ":2: job: found 5; must be text"),
        ({P: "{backbone: ../../etc}"}, ":5: parameters.backbone: there is no backbone '../../etc'"),
        ({P: "{backbone: {values: [base, a/b]}}"}, ":5: parameters.backbone: there is no backbone 'a/b'"),
        (
            {"early_stopping": "{scheduler: ahsa}"},
            ":7: early_stopping.scheduler: found \"ahsa\"; did you mean 'asha'?",
        ),
        (
            {"early_stopping": "{grace_period: 0}"},
            ":7: early_stopping.grace_period: found 0; must be greater",
        ),
        (
            {"early_stopping": "{reduction_factor: 1}"},
            ":7: early_stopping.reduction_factor: found 1; must be greater",
        ),
        ({"early_stopping": "{max_t: 1}"}, ":7: early_stopping.max_t: unknown key 'max_t'"),
        ({"early_stopping": "asha"}, ':7: early_stopping: found "asha"; must be a mapping'),
        ({"budget": "{time: 5400}"}, ":7: budget.time: found 5400; write a time above zero as 12h"),
        ({"budget": "{time: 0s}"}, ':7: budget.time: found "0s"; write a time above zero'),
        ({"budget": "{time: 3 days}"}, ':7: budget.time: found "3 days"; write a time above zero'),
        ({"budget": "{failed_trials: 0}"}, ":7: budget.failed_trials: found 0; must be greater"),
        ({R: "{gpus: -1}"}, ":7: resources.gpus: found -1; must be greater than or equal to 0"),
        (
            {R: "{gpus: 1.5}"},
            ":7: resources.gpus: found 1.5; above one GPU only whole numbers can be reserved",
        ),
        ({R: "{gpus: some}"}, ':7: resources.gpus: found "some"; write a number, or auto'),
        ({R: "{gpus: [auto]}"}, ':7: resources.gpus: found ["auto"]; must be a number'),
        ({R: "{cpus: auto}"}, ':7: resources.cpus: found "auto"; must be a number'),
        ({R: "{cpus: 0}"}, ":7: resources.cpus: found 0; must be greater than 0"),
        ({R: "{cpus: .inf}"}, ":7: resources.cpus: found Infinity; must be a finite number"),
        ({R: "{cpus: true}"}, ":7: resources.cpus: found true; must be a number"),
        (
            {R: "{workers: 2, gpus: 0.5}"},
            ":7: resources: 2 workers cannot share a GPU; write a whole number of gpus",
        ),
        ({R: "{workers: 0}"}, ":7: resources.workers: found 0; must be greater than or equal to 1"),
        (
            {R: "{gpu: 1}"},
            ":7: resources.gpu: unknown key 'gpu'; did you mean 'gpus'? known here: cpus, gpus, workers",
        ),
        (
            {R: "{when: {seed: 1}, gpus: 1}"},
            ":7: resources.when: unknown key 'when' here; it belongs in a list of branches",
        ),
        (
            {R: "[{when: {sed: 1}, gpus: 1}]"},
            ":7: resources.0.when.sed: unknown parameter 'sed'; did you mean 'seed'?",
        ),
        ({R: "[{gpus: 1}, {when: {seed: 1}, gpus: 0}]"}, ":7: resources.1: is never reached"),
        ({R: "[]"}, ":7: resources: is empty"),
        ({R: "[2]"}, ":7: resources.0: found 2; must be a mapping"),
        ({R: "two"}, ':7: resources: found "two"; must be a mapping'),
        ({"keep": "{checkpoints: 0}"}, ":7: keep.checkpoints: found 0; must be greater"),
        ({S: "{trials: 1, enqueue: [{}]}"}, ":6: search.enqueue.0: is empty"),
        (
            {S: "{trials: 1, enqueue: [{sed: 1}]}"},
            ":6: search.enqueue.0.sed: unknown parameter 'sed'; did you mean 'seed'?",
        ),
        (
            {S: "{trials: 1, enqueue: [{seed: x}]}"},
            ':6: search.enqueue.0.seed: found "x"; must be a whole number',
        ),
        (
            {S: "{trials: 1, enqueue: [{seed: {values: [1]}}]}"},
            ":6: search.enqueue.0.seed: found a mapping; must be a single",
        ),
        (
            {S: "{trials: 1, enqueue: [{seed: 1}, {doc_stride: 512}]}"},
            ":6: search.enqueue.1.doc_stride: 512 is not below max_length 512",
        ),
        (
            {P: "{learning_rate: {min: 0, max: 1}}", S: "{sampler: grid}"},
            ":5: parameters.learning_rate: has too many values for a grid",
        ),
        (
            {P: "{seed: {min: 0, max: 1000}}", S: "{sampler: grid}"},
            ":5: parameters.seed: has too many values for a grid",
        ),
        (
            {P: "{seed: {min: 0, max: 999}, warmup_steps: {min: 0, max: 999}}", S: "{sampler: grid}"},
            ":6: search.trials: a grid of 1000000 trials is more than 100000",
        ),
        *(
            ({"name": name}, f":1: name: found {shown}; use 1 to 64 of")
            for name, shown in [
                (".hidden", '".hidden"'),
                ("a b", '"a b"'),
                ("a%2fb", '"a%2fb"'),
                ("問題", '"問題"'),
                ('"a\\nb"', '"a\\nb"'),
                ('""', '""'),
            ]
        ),
        *(({"name": name}, f':1: name: "{name}" is reserved by Windows') for name in ("con", "NUL", "Lpt9")),
    ],
)
def test_a_mistake_is_refused_with_line_key_and_cure(
    sections: dict[str, Any], expected: str, check: Callable[..., tuple[str, ...]]
) -> None:
    lines = check(document(**sections))
    assert len([line for line in lines if expected in line]) == 1
    assert all("\n" not in line for line in lines)


def test_all_mistakes_are_told_at_once(check: Callable[..., tuple[str, ...]]) -> None:
    lines = check(
        document(
            name="a/b",
            objective="accuracy",
            parameters="\n  sed: 1\n  seed: x\n  learning_rate: {min: 2, max: .nan}\n  backbone: 5",
            search="{sampler: tpee, trials: 0, enqueue: [{sed: 1}]}",
            resources="[{gpus: -1}, {gpsu: 1}]",
        ),
        "keep.checkpoints=0",
        "budget=soon",
    )
    assert [line.split(": ", 2)[:2] for line in lines] == [
        [":1", "name"],
        [":4", "objective"],
        [":6", "parameters.sed"],
        [":7", "parameters.seed"],
        [":8", "parameters.learning_rate.min"],
        [":8", "parameters.learning_rate.max"],
        [":9", "parameters.backbone"],
        [":10", "search.sampler"],
        [":10", "search.trials"],
        [":10", "search.enqueue.0.sed"],
        [":11", "resources.1"],
        [":11", "resources.0.gpus"],
        [":11", "resources.1.gpsu"],
        ["", "override 'budget=soon'"],
        ["", "override 'keep.checkpoints=0'"],
    ]


@pytest.mark.parametrize("section", [{"repeats": "{seeds: [x]}"}, {"notify": "{events: [finish]}"}])
def test_a_list_with_a_wrong_entry_is_not_called_empty(
    section: dict[str, str], check: Callable[..., tuple[str, ...]]
) -> None:
    (line,) = check(document(**section))
    assert ".0: found" in line


def test_an_unknown_job_does_not_hide_other_mistakes(check: Callable[..., tuple[str, ...]]) -> None:
    lines = check(document(job="qaa", parameters="{anything: {min: 2, max: 1}}", search="{trials: 0}"))
    assert [line.split(": ")[1] for line in lines] == ["job", "parameters.anything.max", "search.trials"]


def test_a_wrong_first_value_does_not_hide_other_mistakes_nor_invent_any(
    check: Callable[..., tuple[str, ...]],
) -> None:
    lines = check(document(parameters="{backbone: {values: [a/b, base, c/d]}, doc_stride: 600, max_length: 512}"))
    assert lines == (
        ":5: parameters.backbone: there is no backbone 'a/b'",
        ":5: parameters.doc_stride: 600 is not below max_length 512",
        ":5: parameters.backbone: there is no backbone 'c/d'",
    )


def test_a_whole_file_is_read() -> None:
    found = space(
        parameters="""
  backbone: {values: [base, large]}
  learning_rate:
    - {when: {backbone: "l*"}, min: 1e-5, max: 4e-5, log: true}
    - {min: 2e-5, max: 8e-5, log: true}
  num_train_epochs: 5""",
        search="{sampler: random, trials: 24, seed: 7, enqueue: [{backbone: large, dropout: 1}]}",
        early_stopping="{scheduler: asha, grace_period: 2, reduction_factor: 4}",
        budget="{time: 1h30m, failed_trials: 5}",
        resources='[{when: {backbone: "l*"}, gpus: 1}, {gpus: 0.5, cpus: 2}]',
        keep="{checkpoints: 2}",
    )
    assert (found.name, found.job, found.data, found.objective) == ("demo", f"{HERE}:JOB", "sample", "score")
    assert found.direction == "max"
    assert found.parameters == {
        "backbone": (Branch({}, Choice(("base", "large"))),),
        "learning_rate": (
            Branch({"backbone": "l*"}, Range(1e-5, 4e-5, log=True)),
            Branch({}, Range(2e-5, 8e-5, log=True)),
        ),
        "num_train_epochs": (Branch({}, Constant(5)),),
    }
    assert (found.search.sampler, found.search.trials, found.search.seed) == ("random", 24, 7)
    assert found.search.enqueue == ({"backbone": "large", "dropout": 1.0},)
    assert found.early_stopping is not None
    assert found.early_stopping.model_dump() == {
        "scheduler": "asha",
        "grace_period": 2,
        "reduction_factor": 4,
    }
    assert (found.budget.time, found.budget.failed_trials) == (5400, 5)
    assert [reservation.resources for reservation in found.resources] == [
        Resources(gpus=1.0),
        Resources(gpus=0.5, cpus=2.0),
    ]
    assert found.keep.checkpoints == 2
    assert found.data_fingerprint == no_data("sample").fingerprint


QA = """
name: qa_backbones
job: qa
data: sample
objective: exact_match
parameters:
  backbone: {values: [bert-base-chinese, hfl/chinese-lert-base, hfl/chinese-lert-large]}
  learning_rate:
    - {when: {backbone: "*-large"}, min: 1e-5, max: 4e-5, log: true}
    - {min: 2e-5, max: 8e-5, log: true}
  warmup_ratio: {min: 0.0, max: 0.2}
  max_length: 512
  doc_stride: 128
search: {trials: 24, enqueue: [{backbone: hfl/chinese-pert-large, learning_rate: 3e-5}]}
"""


def test_a_space_of_the_reader_job_is_read() -> None:
    found = read_text(QA)
    assert found.job == "qa"
    assert [str(case.domains["learning_rate"]) for case in list_cases(found)] == [
        "2e-5 … 8e-5 log",
        "1e-5 … 4e-5 log",
    ]
    assert params_of(found, assign(found, first)).doc_stride == 128


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("parameters.seed=4294967296", "parameters.seed: found 4294967296; must be less than 4294967296"),
        ("parameters.warmup_steps=100", "parameters.warmup_steps: set together with warmup_ratio"),
        ("parameters.lr=1e-5", "parameters.lr: unknown parameter 'lr'"),
    ],
)
def test_a_mistake_in_a_space_of_the_reader_job_is_refused(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_text(QA, override)
    assert expected in str(caught.value)


def test_a_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path)
    assert space(data="set").data == str(tmp_path / "set")


def test_the_data_is_read_and_its_fingerprint_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "read_data", read_data)
    assert space().data_fingerprint == read_data("sample").fingerprint


def test_a_missing_folder_is_a_mistake_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "drcd").mkdir()
    with pytest.raises(DataFailure) as caught:
        space(data=str(tmp_path / "drdc"))
    assert caught.value.exit_code == 3
    (line,) = caught.value.lines
    assert line.endswith(
        f"demo.yaml:3: data: there is no folder {str(tmp_path / 'drdc')!r}; did you mean 'drcd' beside it?"
    )


@pytest.mark.parametrize("data", ["x" * 300, "/nowhere/at/all", "~nobody/x", "x" * 300 + "/y"])
def test_no_folder_name_ends_in_anything_but_a_line(data: str) -> None:
    with pytest.raises(
        DataFailure, match=r"demo.yaml:3: data: there is no folder .*; name a folder, or write `sample`"
    ):
        space(data=data)


def test_wrong_data_is_told_in_its_own_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "read_data", read_data)
    with pytest.raises(DataFailure) as caught:
        space(data=str(tmp_path))
    assert len(caught.value.lines) == 3
    assert all(line.startswith(str(tmp_path)) for line in caught.value.lines)


def test_a_missing_folder_is_told_beside_the_other_mistakes(
    tmp_path: Path, check: Callable[..., tuple[str, ...]]
) -> None:
    lines = check(document(data=str(tmp_path / "missing"), objective="accuracy"))
    assert [line.split(": ")[1] for line in lines] == ["data", "objective"]
    lines = check(document(data=str(tmp_path), objective="accuracy"))
    assert [line.split(": ")[1] for line in lines] == ["objective"]


def test_a_file_is_found_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweeper, "__file__", str(tmp_path / "lib" / "sweeper" / "__init__.py"))
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "lib" / "search_spaces").mkdir(parents=True)
    for path in (
        "near.yaml",
        "search_spaces/mine.yaml",
        "lib/search_spaces/mine.yaml",
        "lib/search_spaces/quickstart.yaml",
    ):
        (tmp_path / path).touch()
    assert find_file("near") == find_file("near.yaml") == Path("near.yaml")
    assert find_file("mine") == find_file("mine.yaml") == Path("search_spaces/mine.yaml")
    assert find_file("quickstart") == tmp_path / "lib/search_spaces/quickstart.yaml"
    assert find_file(str(tmp_path / "near")) == tmp_path / "near.yaml"
    with pytest.raises(
        ConfigError, match=r"^\"qickstart.yaml\": .*did you mean 'quickstart'\? known here: mine, quickstart$"
    ):
        find_file("qickstart.yaml")
    inside = tmp_path / "lib" / "sweeper" / "search_spaces"  # where a wheel has them
    inside.mkdir(parents=True)
    (inside / "quickstart.yaml").touch()
    assert find_file("quickstart") == inside / "quickstart.yaml"
    assert find_file("search_spaces/quickstart.yaml") == inside / "quickstart.yaml"  # as the README's links say
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        find_file("search_spaces/quikstart.yaml")
    assert find_file("search_spaces") == Path("search_spaces")  # which `read_search_space` refuses as a directory
    for name in ("", "x" * 300, "a\0b"):
        with pytest.raises(ConfigError, match="no such file"):
            find_file(name)


def test_checking_a_file_imports_nothing_heavy() -> None:
    code = (
        "import sys, sweeper.space.search_space, sweeper.space.json_schema, jobs.qa\n"
        "print(sorted({'torch', 'transformers', 'ray', 'optuna', 'mlflow', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(documents(), st.data())
@settings(max_examples=80, deadline=None)
def test_a_spoiled_file_is_refused_or_valid_but_never_crashes(sections: dict[str, str], data: st.DataObject) -> None:
    text = document(**sections)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 4))
        added = data.draw(st.text("{}[]:,-*&!'\"#|>%@\t\n .~0159eabn問\0", max_size=4))
        text = text[:at] + added + text[at + length :]
    assert all(line and "\n" not in line for line in failure_of(text))


@given(st.text(max_size=70))
@settings(max_examples=100, deadline=None)
def test_a_name_that_is_accepted_is_a_plain_file_name(name: str) -> None:
    try:
        accepted = read_text(document(), f"name={json.dumps(name)}").name
    except Failure:
        return
    assert accepted == name
    assert Path("root", name).resolve().parent == Path("root").resolve()
    assert name.isascii()
    assert not name.startswith(".")

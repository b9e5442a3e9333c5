"""Search-space files: what is refused and where, and what an accepted space means."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import pytest
import yaml
from annotated_types import Ge, Le
from hypothesis import given, settings
from hypothesis import strategies as st

import sweeper
from jobs.dataset.data import Data, read_data
from jobs.job import Job, ParamError
from sweeper.errors import ConfigError, DataFailure, Failure
from sweeper.space import reading
from sweeper.space.cases import backbones, list_cases, max_epochs, possible_resources
from sweeper.space.document import plain_scalar
from sweeper.space.domains import contains
from sweeper.space.reading import find_file, read_search_space
from sweeper.space.search_space import (
    Branch,
    Choice,
    Constant,
    Domain,
    Range,
    Resources,
    SearchSpace,
    assign,
    draw_labels,
    grid,
    params_of,
    resolved,
    resources_of,
    searched_parameters,
    to_yaml,
)


@dataclass(frozen=True, kw_only=True)
class Params:
    backbone: str = "base"
    seed: Annotated[int, Ge(0)] = 42
    learning_rate: Annotated[float, Ge(0), Le(1)] = 1e-3
    warmup_steps: Annotated[int, Ge(0)] = 0
    num_train_epochs: Annotated[int, Ge(1)] = 3
    max_length: Annotated[int, Ge(1), Le(8192)] = 512
    doc_stride: Annotated[int, Ge(0)] = 64
    balanced: bool = False
    shape: Literal["linear", "cosine"] = "linear"
    dropout: Annotated[float, Ge(0), Le(1)] | None = None

    def __post_init__(self) -> None:
        if "/" in self.backbone:
            raise ParamError("backbone", f"there is no backbone {self.backbone!r}")
        if self.doc_stride >= self.max_length:
            raise ParamError("doc_stride", f"{self.doc_stride} is not below max_length {self.max_length}")
        if self.warmup_steps and self.learning_rate > 0.5:
            raise ParamError("warmup_steps", "no warm-up reaches such a learning_rate")


JOB = Job("free", Params, {"score": "max", "loss": "min"}, lambda: None)
NOT_A_JOB = 5
HERE = "tests.sweeper.space.test_search_space"


def document(**sections: Any) -> str:
    """A valid file, its sections replaced or, with None, left out."""
    whole = {
        "name": "demo",
        "job": f"{HERE}:JOB",
        "data": "sample",
        "objective": "score",
        "parameters": "{learning_rate: 1e-3}",
        "search": "{trials: 4}",
    }
    return "".join(f"{key}: {text}\n" for key, text in {**whole, **sections}.items() if text is not None)


def read_text(text: str, *overrides: str) -> SearchSpace:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "demo.yaml"
        path.write_text(text, encoding="utf-8")
        return read_search_space(path, overrides)


def space(**sections: Any) -> SearchSpace:
    return read_text(document(**sections))


def parameters(text: str, **sections: Any) -> SearchSpace:
    return space(parameters=text, **sections)


def no_data(location: str) -> Data:
    return Data(location, (), (), (), ())


@pytest.fixture(autouse=True, scope="module")
def _no_data() -> Iterator[None]:
    """Reading data is another module's; two tests below do it in earnest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "read_data", no_data)
        yield


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """The lines with which a file is refused."""

    def lines(text: str, *overrides: str) -> tuple[str, ...]:
        path = tmp_path / "demo.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            read_search_space(path, overrides)
        assert caught.value.exit_code == 2
        assert list(tmp_path.iterdir()) == [path]
        return tuple(line.removeprefix(str(path)) for line in caught.value.lines)

    return lines


P, S, R = "parameters", "search", "resources"


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
            ":6: search.mode: unknown key 'mode'; known here: enqueue, sampler, seed, trials",
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
            ":6: search.sampler: found [\"tpe\"]; must be 'tpe', 'random' or 'grid'",
        ),
        ({S: "{trials: 3, sampler: tpee}"}, ":6: search.sampler: found \"tpee\"; did you mean 'tpe'?"),
        ({S: "{trials: 3, sampler: bayes}"}, ":6: search.sampler: found \"bayes\"; must be 'tpe'"),
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
            {P: "{seed: [{when: {backbone: [a, b]}, value: 1}]}"},
            ':5: parameters.seed.0.when.backbone: found ["a", "b"]; must be one value or glob',
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


def test_an_unknown_job_does_not_hide_other_mistakes(check: Callable[..., tuple[str, ...]]) -> None:
    lines = check(document(job="qaa", parameters="{anything: {min: 2, max: 1}}", search="{trials: 0}"))
    assert [line.split(": ")[1] for line in lines] == ["job", "parameters.anything.max", "search.trials"]


def test_relations_are_tried_on_every_choice_end_and_branch(check: Callable[..., tuple[str, ...]]) -> None:
    lines = check(
        document(
            parameters="""
  backbone: {values: [base, large]}
  max_length: {values: [512, 384, 256]}
  doc_stride: [{when: {backbone: large}, min: 64, max: 300}, {value: 260}]
  warmup_steps: {min: 0, max: 10}
  learning_rate: 0.7"""
        )
    )
    assert lines == (
        ":8: parameters.doc_stride: 260 is not below max_length 256",
        ":8: parameters.doc_stride: 300 is not below max_length 256",
        ":9: parameters.warmup_steps: no warm-up reaches such a learning_rate",
    )


def test_values_that_no_branch_brings_together_are_no_mistake() -> None:
    text = """
  max_length: {values: [512, 256]}
  doc_stride: [{when: {max_length: 512}, value: 300}, {value: 100}]"""
    assert parameters(text).parameters["max_length"] == (Branch({}, Choice((512, 256))),)


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


def test_what_is_left_out_has_its_default() -> None:
    found = space()
    assert (found.search.sampler, found.search.seed, found.search.enqueue) == ("tpe", 42, ())
    assert (found.early_stopping, found.budget.time, found.budget.failed_trials) == (None, None, None)
    assert (found.resources, found.keep.checkpoints) == ((), 3)


def test_an_optional_section_can_be_switched_off() -> None:
    text = document(early_stopping="{grace_period: 2}", budget="{time: 1h}", resources="{gpus: 1}")
    found = read_text(text, "early_stopping=null", "budget=null", "resources=null")
    assert (found.early_stopping, found.budget.time, found.resources) == (None, None, ())


@pytest.mark.parametrize(
    ("text", "seconds"), [("12h", 43200), ("90m", 5400), ("45s", 45), ("1h30m", 5400), ("1h1s", 3601)]
)
def test_a_time_budget_is_kept_in_seconds(text: str, seconds: int) -> None:
    assert space(budget=f"{{time: {text}}}").budget.time == seconds


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


def test_wrong_data_is_told_only_when_the_file_is_right(tmp_path: Path, check: Callable[..., tuple[str, ...]]) -> None:
    lines = check(document(data=str(tmp_path / "missing"), objective="accuracy"))
    assert [line.split(": ")[1] for line in lines] == ["objective"]


def test_the_type_of_a_parameter_decides_the_type_of_its_range() -> None:
    found = parameters(
        "{learning_rate: {min: 0, max: 1}, seed: {min: 0, max: 9}, dropout: {min: 0, max: 1, step: 1}}"
    ).parameters
    assert found["learning_rate"][0].domain == Range(0.0, 1.0)
    assert found["seed"][0].domain == Range(0, 9, integer=True)
    assert found["dropout"][0].domain == Range(0.0, 1.0, step=1.0)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("{min: 0, max: 0.25, step: 0.1}", Range(0.0, 0.2, step=0.1)),
        ("{min: 0, max: 0.3, step: 0.1}", Range(0.0, 0.3, step=0.1)),
        ("{min: 0.05, max: 1, step: 0.5}", Range(0.05, 0.55, step=0.5)),
    ],
)
def test_a_stepped_range_ends_with_its_last_step(text: str, domain: Range) -> None:
    assert parameters(f"{{learning_rate: {text}}}").parameters["learning_rate"][0].domain == domain


def test_a_step_as_wide_as_the_range_stays_valid_when_written_and_read_again() -> None:
    found = parameters("{learning_rate: {min: 0.2506146099471325, max: 0.5, step: 0.24938539005286747}}")
    assert read_text(to_yaml(found)) == found


def test_parameters_come_after_those_their_conditions_name() -> None:
    found = parameters(
        """
  backbone: [{when: {doc_stride: 7}, value: large}, {value: base}]
  doc_stride: [{when: {seed: 1, shape: cosine}, value: 7}, {value: 8}]
  shape: cosine
  seed: {values: [1, 2]}"""
    )
    assert list(found.parameters) == ["seed", "shape", "doc_stride", "backbone"]


def first(_: str, domain: Domain) -> Any:
    return domain.values[0] if isinstance(domain, Choice) else domain.low if isinstance(domain, Range) else None


def test_assign_takes_the_first_branch_that_matches() -> None:
    found = parameters(
        """
  backbone: {values: [base, large, huge]}
  shape: [{when: {backbone: "*e"}, value: cosine}, {value: linear}]
  learning_rate:
    - {when: {backbone: "?ase"}, min: 1e-3, max: 2e-3}
    - {when: {backbone: large, shape: cosine}, value: 0.5}
    - {when: {backbone: "[h]uge"}, values: [0.7]}"""
    )
    answers = {backbone: assign(found, first, {"backbone": backbone}) for backbone in ("base", "large", "huge")}
    assert answers == {
        "base": {"backbone": "base", "shape": "cosine", "learning_rate": 1e-3},
        "large": {"backbone": "large", "shape": "cosine", "learning_rate": 0.5},
        "huge": {"backbone": "huge", "shape": "cosine", "learning_rate": 0.7},
    }


def test_a_parameter_without_a_matching_branch_keeps_its_default() -> None:
    found = parameters("{backbone: {values: [base, large]}, seed: [{when: {backbone: large}, value: 1}]}")
    assert assign(found, first) == {"backbone": "base"}
    assert params_of(found, assign(found, first)).seed == 42


def test_conditions_may_name_a_parameter_that_stands_at_its_default() -> None:
    found = parameters("{seed: [{when: {max_length: 512}, value: 1}, {value: 2}]}")
    assert assign(found, first) == {"seed": 1}


@pytest.mark.parametrize(
    ("value", "glob", "matches"),
    [
        ("1e-5", "0.00001", True),
        ("1e-5", "1e-5", True),
        ("1e-5", '"1e-*"', True),
        ("1e-5", "1.0e-5", True),
        ("1e-5", "1e-4", False),
        ("0.5", '".5"', True),
        ("1", "1", True),
        ("1", '"1.0"', True),
    ],
)
def test_numbers_match_by_text_and_by_value(value: str, glob: str, matches: bool) -> None:
    found = parameters(f"{{learning_rate: {value}, seed: [{{when: {{learning_rate: {glob}}}, value: 1}}]}}")
    assert ("seed" in assign(found, first)) is matches


def test_booleans_match_as_the_file_writes_them() -> None:
    found = parameters("{balanced: {values: [true, false]}, seed: [{when: {balanced: true}, value: 1}, {value: 2}]}")
    assert assign(found, lambda *_: True)["seed"] == 1
    assert assign(found, lambda *_: False)["seed"] == 2


def test_matching_minds_case() -> None:
    found = parameters("{backbone: base, seed: [{when: {backbone: BASE}, value: 1}, {value: 2}]}")
    assert assign(found, first)["seed"] == 2


def test_fixed_values_stand_and_steer_the_branches() -> None:
    found = parameters(
        "{backbone: base, seed: [{when: {backbone: other}, value: 1}, {value: 2}], shape: {values: [cosine]}}"
    )
    assert assign(found, first, {"backbone": "other", "max_length": 99}) == {
        "backbone": "other",
        "max_length": 99,
        "seed": 1,
        "shape": "cosine",
    }


BRANCHES = "{{backbone: {{values: [base, large]}}, {name}: [{{when: {{backbone: base}}, {one}}}, {{{two}}}]}}"


@pytest.mark.parametrize(
    ("name", "one", "two", "expected"),
    [
        ("learning_rate", "min: 0.1, max: 0.2", "min: 0.3, max: 0.4", ["learning_rate", "learning_rate"]),
        ("learning_rate", "min: 0.1, max: 0.2", "value: 1", ["learning_rate"]),
        ("learning_rate", "min: 0.1, max: 0.2", "values: [0.3]", ["learning_rate.0", "learning_rate.1"]),
        ("learning_rate", "values: [0.2, 0.3]", "values: [0.3]", ["learning_rate.0", "learning_rate.1"]),
        ("learning_rate", "values: [0.3]", "values: [0.3]", ["learning_rate", "learning_rate"]),
        (
            "learning_rate",
            "min: 0.1, max: 0.2",
            "min: 0.3, max: 0.4, log: true",
            ["learning_rate.0", "learning_rate.1"],
        ),
        ("seed", "min: 1, max: 2", "min: 3, max: 9, step: 2", ["seed", "seed"]),
    ],
)
def test_one_label_never_stands_for_two_kinds_of_domain(name: str, one: str, two: str, expected: list[str]) -> None:
    found = parameters(BRANCHES.format(name=name, one=one, two=two))
    assert [label for key, label, _ in draw_labels(found) if key == name] == expected
    asked: list[str] = []

    def suggest(label: str, domain: Domain) -> Any:
        asked.append(label)
        return first(label, domain)

    for backbone in ("base", "large"):
        assign(found, suggest, {"backbone": backbone})
    assert [label for label in asked if label != "backbone"] == expected


def test_the_searched_parameters_are_those_that_are_not_constant() -> None:
    found = parameters(
        """
  seed: {values: [1, 2]}
  shape: cosine
  learning_rate: [{when: {seed: 1}, value: 1}, {min: 0, max: 1}]"""
    )
    assert searched_parameters(found) == ["seed", "learning_rate"]


def test_domains_read_as_text() -> None:
    assert str(Range(1e-5, 4e-5, log=True)) == "1e-5 … 4e-5 log"
    assert str(Range(0, 8, step=2, integer=True)) == "0 … 8 step 2"
    assert str(Choice(("a", 1, 0.5, True, None))) == "a, 1, 0.5, true, null"
    assert str(Constant("x")) == "x"


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Constant(1), [1], [2]),
        (Choice(("a", "b")), ["a", "b"], ["c", 1]),
        (Range(0.0, 1.0), [0, 0.5, 1.0], [-0.1, 1.1, "0.5", True]),
        (Range(1, 9, integer=True), [1, 5, 9], [1.5, 0, 10]),
        (Range(1, 9, step=4, integer=True), [1, 5, 9], [2, 6]),
        (Range(0.0, 0.3, step=0.1), [0.0, 0.1, 0.2, 0.1 + 0.1 + 1e-12], [0.15]),
    ],
)
def test_a_domain_contains_what_it_can_give(domain: Domain, inside: list[Any], outside: list[Any]) -> None:
    assert all(contains(domain, value) for value in inside)
    assert not any(contains(domain, value) for value in outside)


def test_a_grid_has_every_combination_in_order_and_honours_conditions() -> None:
    found = parameters(
        """
  backbone: {values: [base, large]}
  seed: {min: 1, max: 5, step: 2}
  learning_rate: [{when: {backbone: large}, min: 0.1, max: 0.3, step: 0.1}]
  shape: cosine""",
        search="{sampler: grid}",
    )
    base = [{"backbone": "base", "seed": s, "shape": "cosine"} for s in (1, 3, 5)]
    large = [
        {"backbone": "large", "seed": s, "shape": "cosine", "learning_rate": r}
        for s in (1, 3, 5)
        for r in (0.1, 0.2, 0.3)
    ]
    assert list(grid(found)) == base + large
    assert found.search.trials == 12


@pytest.mark.parametrize(("trials", "expected"), [("5", 5), ("50", 13)])
def test_a_grid_runs_its_combinations_and_what_is_enqueued_or_fewer(trials: str, expected: int) -> None:
    text = f"{{sampler: grid, trials: {trials}, enqueue: [{{seed: 99}}]}}"
    assert parameters("{seed: {min: 1, max: 12}}", search=text).search.trials == expected


def test_a_continuous_space_has_no_grid() -> None:
    with pytest.raises(ValueError, match="learning_rate has no grid"):
        list(grid(parameters("{learning_rate: {min: 0, max: 1}}")))


def test_resources_are_those_of_the_first_matching_branch() -> None:
    found = space(resources='[{when: {backbone: "*-large"}, gpus: 1}, {when: {max_length: 512}, gpus: 0.5}]')
    assert resources_of(found, {"backbone": "x-large"}) == Resources(gpus=1.0)
    assert resources_of(found, {"backbone": "x"}) == Resources(gpus=0.5)
    assert resources_of(found, {"backbone": "x", "max_length": 99}) is None
    assert possible_resources(found) == [Resources(gpus=0.5)]
    assert resources_of(space(), {}) is None


def test_branches_tell_each_combination_that_can_occur() -> None:
    found = parameters(
        """
  backbone: {values: [a-base, a-large, b-base, b-large]}
  learning_rate:
    - {when: {backbone: "*-large"}, min: 1e-5, max: 4e-5, log: true}
    - {min: 2e-5, max: 8e-5, log: true}
  seed: [{when: {backbone: "c-*"}, value: 1}]""",
        resources='[{when: {backbone: "b-*"}, gpus: 1}, {gpus: 0}]',
    )
    told = [
        ({name: str(domain) for name, domain in case.domains.items()}, case.resources) for case in list_cases(found)
    ]
    small, large = "2e-5 … 8e-5 log", "1e-5 … 4e-5 log"
    assert told == [
        ({"backbone": "a-base", "learning_rate": small}, Resources(gpus=0.0)),
        ({"backbone": "a-large", "learning_rate": large}, Resources(gpus=0.0)),
        ({"backbone": "b-base", "learning_rate": small}, Resources(gpus=1.0)),
        ({"backbone": "b-large", "learning_rate": large}, Resources(gpus=1.0)),
    ]


def test_conditions_with_the_same_outcome_make_one_case() -> None:
    found = parameters(
        """
  backbone: {values: [a, b, c]}
  seed: [{when: {backbone: "[ab]", shape: linear}, value: 1}, {when: {backbone: b}, value: 2}, {value: 3}]"""
    )
    assert [str(case.domains["backbone"]) for case in list_cases(found)] == ["a, b", "c"]


def test_a_condition_on_a_range_cuts_it() -> None:
    found = parameters(
        """
  learning_rate: {min: 0, max: 1}
  seed: {min: 0, max: 1000000}
  num_train_epochs: {min: 1, max: 4}
  shape:
    - {when: {learning_rate: 0.5, seed: 7}, value: cosine}
    - {when: {num_train_epochs: 1}, value: linear}"""
    )
    told = [{name: str(domain) for name, domain in case.domains.items()} for case in list_cases(found)]
    assert {"learning_rate": "0.5", "seed": "7", "num_train_epochs": "1 … 4", "shape": "cosine"} in told
    assert len(told) == 3


@pytest.mark.parametrize(
    "sections",
    [
        {"parameters": f"{{seed: {{values: {list(range(1001))}}}}}"},
        {"parameters": f"{{seed: [{'{value: 1}, ' * 1001}]}}"},
        {"resources": f"[{'{gpus: 1}, ' * 1001}]"},
        {"search": f"{{trials: 3, enqueue: [{'{seed: 1}, ' * 1001}]}}"},
    ],
)
def test_endless_lists_are_refused(sections: dict[str, str], check: Callable[..., tuple[str, ...]]) -> None:
    (line,) = check(document(**sections))
    assert line.endswith("has more than 1000 entries; is it the right file?")


def test_too_many_cases_are_refused(check: Callable[..., tuple[str, ...]]) -> None:
    names = ["seed", "warmup_steps", "max_length"]
    watched = [f"{name}: {{min: 100, max: 120}}" for name in names]
    conditions = [f"{{when: {{{name}: {value}}}, value: base}}" for name in names for value in range(100, 120)]
    lines = check(document(parameters=f"{{{', '.join(watched)}, backbone: [{', '.join(conditions)}]}}"))
    assert lines == (":5: parameters: the `when` conditions make more than 1000 cases; use fewer different ones",)


def test_the_most_epochs_are_those_any_trial_can_have() -> None:
    def most(backbone: str, **sections: str) -> int:
        epochs = "[{when: {backbone: big}, min: 4, max: 9}, {when: {backbone: mid}, value: 5}]"
        return max_epochs(parameters(f"{{backbone: {backbone}, num_train_epochs: {epochs}}}", **sections))

    assert max_epochs(space()) == 3
    assert most("{values: [big, mid]}") == 9
    assert most("mid") == 5
    assert most("{values: [small, mid]}") == 5
    assert most("small") == 3
    assert most("small", search="{trials: 1, enqueue: [{backbone: big}]}") == 9
    assert most("big", search="{trials: 1, enqueue: [{num_train_epochs: 20}]}") == 20


def test_the_backbones_of_a_space_are_named_once_each() -> None:
    found = parameters("{backbone: {values: [a, b]}}", search="{trials: 1, enqueue: [{backbone: c}, {backbone: a}]}")
    assert backbones(found) == ["a", "b", "c"]
    assert backbones(space()) == ["base"]


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


# Properties

NAMES = ["backbone", "seed", "learning_rate", "num_train_epochs", "balanced", "shape"]
unit = st.floats(0, 1, allow_nan=False)


@st.composite
def domains(draw: st.DrawFn, name: str) -> str:
    """A parameter's domain as a file writes it."""
    values = {
        "backbone": st.sampled_from(["base", "x-large", "010", "1e-5", "no", "*", "a: b"]).map(repr),
        "seed": st.integers(0, 10**9).map(str),
        "learning_rate": unit.map(repr),
        "num_train_epochs": st.integers(1, 50).map(str),
        "balanced": st.sampled_from(["true", "false"]),
        "shape": st.sampled_from(["linear", "cosine"]),
    }[name]
    form = draw(st.sampled_from(["value", "values", "range"]))
    if form == "range" and name in ("seed", "learning_rate", "num_train_epochs"):
        return draw(ranges(values, name == "learning_rate"))
    if form == "value":
        return f"value: {draw(values)}"
    listed = draw(st.lists(values, min_size=1, max_size=3, unique_by=plain_scalar))
    return f"values: [{', '.join(listed)}]"


@st.composite
def ranges(draw: st.DrawFn, values: st.SearchStrategy[str], real: bool) -> str:
    ends = draw(st.lists(values, min_size=2, max_size=2, unique_by=float))
    low, high = sorted(ends, key=float)
    extra = draw(st.sampled_from(["", ", log: true", ", step: "]))
    if extra == ", log: true":
        return f"min: {low}, max: {high}" + (extra if float(low) > 0 else "")
    if extra == ", step: ":
        width = float(high) - float(low)
        share = draw(st.floats(0.001, 1))
        extra += repr(width * share) if real else str(max(1, int(width * share)))
    return f"min: {low}, max: {high}{extra}"


@st.composite
def documents(draw: st.DrawFn) -> dict[str, str]:
    """A valid file: section → text, parameters in any order, conditions on earlier names only."""
    names = draw(st.permutations(NAMES))[: draw(st.integers(1, 5))]
    lines = []
    for index, name in enumerate(names):
        branch = draw(domains(name))
        if index and draw(st.booleans()):
            other = draw(st.sampled_from(names[:index]))
            glob = draw(st.sampled_from(["base", "*e", "1*", "true", "7", "1e-5", "?"]))
            lines.append(f"  {name}: [{{when: {{{other}: {glob!r}}}, {draw(domains(name))}}}, {{{branch}}}]")
        else:
            lines.append(f"  {name}: [{{{branch}}}]")
    optional = {
        "early_stopping": st.sampled_from([None, "{}", "{grace_period: 2}"]),
        "repeats": st.sampled_from([None, "{seeds: [1]}", "{top: 2, seeds: [4, 0]}"]),
        "budget": st.sampled_from([None, "{time: 90m}", "{failed_trials: 2}", "{time: 3601s, failed_trials: 1}"]),
        "resources": st.sampled_from([None, "{gpus: 0.5}", '[{when: {backbone: "x*"}, gpus: 2}, {cpus: 1.5}]', "[{}]"]),
        "search": st.sampled_from(
            ["{trials: 3}", "{sampler: random, trials: 9, seed: 1, enqueue: [{seed: 5}, {backbone: '010'}]}"]
        ),
        "keep": st.sampled_from([None, "{checkpoints: 1}"]),
    }
    drawn = {key: text for key, value in optional.items() if (text := draw(value))}
    return {"parameters": "\n" + "\n".join(lines), **drawn}


@given(documents())
@settings(max_examples=60, deadline=None)
def test_a_resolved_space_written_and_read_again_is_the_same(sections: dict[str, str]) -> None:
    found = space(**sections)
    again = read_text(to_yaml(found))
    assert again == found
    assert resolved(again) == resolved(found)
    assert yaml.safe_load(to_yaml(found)) == resolved(found)


def draws(seed: int) -> Callable[[str, Domain], Any]:
    """A value that depends on label, domain and seed alone, and lies in the domain."""

    def suggest(label: str, domain: Domain) -> Any:
        chance = random.Random(f"{seed} {label} {domain}")
        if isinstance(domain, Choice):
            return chance.choice(domain.values)
        assert isinstance(domain, Range)
        step = domain.step or (1 if domain.integer else None)
        if step is None:
            return chance.uniform(domain.low, domain.high)
        steps = chance.randrange(round((domain.high - domain.low) / step) + 1)
        return min(domain.high, domain.low + step * steps)

    return suggest


@given(documents(), st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_assign_gives_each_parameter_a_value_of_the_branch_it_matched(sections: dict[str, str], seed: int) -> None:
    found = space(**sections)
    chosen = assign(found, draws(seed))
    cases = [case.domains for case in list_cases(found)]
    assert params_of(found, chosen).seed == chosen.get("seed", 42)
    for name, value in chosen.items():
        assert any(contains(branch.domain, value) for branch in found.parameters[name])
        assert any(name in case and contains(case[name], value) for case in cases)


@given(documents(), st.integers(0, 100), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_keys_changes_nothing(sections: dict[str, str], seed: int, chance: random.Random) -> None:
    lines = sections["parameters"].strip("\n").split("\n")
    chance.shuffle(lines)
    one, other = space(**sections), space(**{**sections, "parameters": "\n" + "\n".join(lines)})
    assert list(one.parameters) == list(other.parameters)
    assert one == other
    assert assign(one, draws(seed)) == assign(other, draws(seed))


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


def failure_of(text: str) -> tuple[str, ...]:
    """The lines with which a file is refused; none if it is valid."""
    try:
        read_text(text)
    except (ConfigError, DataFailure) as failure:
        return failure.lines or ("",)
    return ()


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

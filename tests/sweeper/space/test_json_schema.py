"""The JSON Schema of search-space files agrees with what is checked, and the committed one is current."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema.protocols import Validator

from jobs import JOBS
from jobs.params import TrainingParams
from sweeper.space.document import parse_document
from sweeper.space.json_schema import json_schema, json_schema_text
from sweeper.space.sections import duration

COMMITTED = Path(__file__).parents[3] / "search_spaces" / "schema.json"
GOOD = """
name: demo
job: toy
data: sample
objective: height
parameters:
  backbone: {values: [hill, valley]}
  learning_rate:
    - {when: {backbone: "v*"}, min: 1e-5, max: 4e-5, log: true}
    - {min: 2e-5, max: 8e-5, step: 1e-5}
    - {value: 1}
  warmup_ratio: 0.1
  seed: {min: 1, max: 9}
  trouble: none
search: {sampler: tpe, trials: 24, seed: 42, enqueue: [{backbone: hill, learning_rate: 3e-5}]}
early_stopping: {scheduler: asha, grace_period: 1, reduction_factor: 3}
budget: {time: 1h30m, failed_trials: 5}
resources: [{when: {backbone: valley}, gpus: 1}, {gpus: 0.5}]
keep: {checkpoints: 3}
"""


@pytest.fixture(scope="module")
def validator() -> Validator:
    """A validator of files for the toy job and the project's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(JOBS, "toy", "tests.toy:JOB")
        schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def document(*overrides: str) -> dict[str, Any]:
    return parse_document(GOOD, Path("demo.yaml"), overrides).values


def test_a_good_file_is_valid(validator: Validator) -> None:
    validator.validate(document())


@pytest.mark.parametrize(
    "override",
    [
        "search={sampler: grid}",
        "resources={gpus: 0, cpus: 1.5, workers: 1}",
        "resources={gpus: auto, cpus: 2}",
        "resources=[{when: {backbone: valley}, gpus: auto, workers: 2}, {gpus: 0.5}]",
        "resources={gpus: 2, workers: 4}",
        "budget.preemptions=0",
        "resources=null",
        "early_stopping=null",
        "job=tests.toy:JOB",
        "parameters.seed={values: [1, 2]}",
        "parameters.trouble={values: [none, nan]}",
        "parameters.seed=[{when: {num_train_epochs: ['>2', 1]}, value: 1}]",
        "budget.time=45s",
        "budget={cost: 5, price: 0.5}",
        "budget={cost: null, gpu_hours: 0.5, target: 0.9, trials_without_gain: 3}",
        "notify={}",
        "notify={events: [budget, new_best], new_best_every: 2h}",
    ],
)
def test_what_the_reader_accepts_is_valid(override: str, validator: Validator) -> None:
    validator.validate(document(override))


@pytest.mark.parametrize(
    "override",
    [
        "nmae=x",
        "name=a/b",
        "name=.hidden",
        "name=" + "x" * 65,
        "job=qaa",
        "objective=accuracy",
        "data=''",
        "parameters={}",
        "parameters.sed=1",
        "parameters.seed=x",
        "parameters.seed=-1",
        "parameters.seed={min: 1}",
        "parameters.seed={min: 1, max: 2, stop: 3}",
        "parameters.seed={min: 1.5, max: 2}",
        "parameters.seed={values: []}",
        "parameters.seed={values: [1, 1]}",
        "parameters.seed={value: 1}",
        "parameters.seed={values: [1], min: 1, max: 2}",
        "parameters.seed=[{when: {backbone: hill}}]",
        "parameters.seed=[]",
        "parameters.seed=[1, 2]",
        "parameters.seed=[{when: {}, value: 1}]",
        "parameters.seed=[{when: {num_train_epochs: []}, value: 1}]",
        "parameters.trouble=some",
        "parameters.trouble={min: 1, max: 2}",
        "search={sampler: tpe}",
        "search.trials=0",
        "search.sampler=bayes",
        "search.enqueue=[{sed: 1}]",
        "search.enqueue=[{seed: x}]",
        "early_stopping.reduction_factor=1",
        "budget.time=''",
        "budget.time=1:30",
        "budget.cost=5",
        "budget.gpu_hours=0",
        "budget.trials_without_gain=1.5",
        "notify.url=json://host",
        "notify={events: []}",
        "notify={events: [finish]}",
        "notify.new_best_every=15",
        "resources={workers: 0}",
        "resources={gpu: 1}",
        "resources=[{when: {}, gpus: 1}]",
        "resources={gpus: some}",
        "keep.checkpoints=0",
        "repeats={top: 3}",
    ],
)
def test_what_the_reader_refuses_is_invalid(override: str, validator: Validator) -> None:
    assert not validator.is_valid(document(override))


def test_a_parameter_is_described_with_its_bounds_and_default() -> None:
    definitions = json_schema()["$defs"]
    seed = definitions["qa_parameters"]["properties"]["seed"]
    assert seed["description"] == TrainingParams.__dataclass_fields__["seed"].metadata["help"]
    assert seed["default"] == 42
    assert seed["anyOf"][0] == {"$ref": "#/$defs/qa_values/properties/seed"}
    assert definitions["qa_values"]["properties"]["seed"] == {
        "type": "integer",
        "minimum": 0,
        "exclusiveMaximum": 2**32,
    }


def test_the_committed_schema_is_current() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == json_schema_text(), "write it anew with `sweeper schema`"


def test_the_schema_is_told_as_one_json_text() -> None:
    assert json.loads(json_schema_text()) == json_schema()


@pytest.mark.parametrize(("seconds", "text"), [(45, "45s"), (5400, "1h30m"), (43200, "12h"), (3661, "1h1m1s")])
def test_a_duration_is_written_as_the_file_has_it(seconds: int, text: str) -> None:
    assert duration(seconds) == text

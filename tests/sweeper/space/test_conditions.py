"""A condition that nothing can meet is refused, and so are trials whose scores have different definitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.job import Job
from jobs.params import knob
from sweeper.errors import ConfigError
from sweeper.space.cases import list_cases
from sweeper.space.reading import find_file, read_search_space, restored
from sweeper.space.search_space import resolved
from tests.support.free_job import P, R, S, document, parameters, read_text, space

pytestmark = pytest.mark.usefixtures("without_data")
Check = Callable[..., tuple[str, ...]]
MODELS = "backbone: {values: [bert-base, lert-large, pert-large]}"


@dataclass(frozen=True, kw_only=True)
class RulerParams:
    backbone: str = "base"
    seed: int = 42
    num_train_epochs: int = 3
    threshold: float = knob(0.5, "an answer above it is right", defines_metrics=True)


RULER = Job("ruler", RulerParams, {"score": "max"}, lambda: None)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (
            {P: f'{{{MODELS}, seed: [{{when: {{backbone: "*-lagre"}}, value: 1}}, {{value: 2}}]}}'},
            ":5: parameters.seed.0.when.backbone: \"*-lagre\" matches no value of backbone; did you mean 'lert-large'? "
            "its values: bert-base, lert-large, pert-large",
        ),
        (
            {P: f"{{{MODELS}, seed: [{{when: {{backbone: bert-bse}}, value: 1}}]}}"},
            "did you mean 'bert-base'? its values: ",
        ),
        (
            {P: "{learning_rate: {min: 1e-5, max: 1e-4}, seed: [{when: {learning_rate: 1e-3}, value: 1}]}"},
            "matches no value of learning_rate; did you mean '0.0001'? its values: 1e-5 … 0.0001",
        ),
        (
            {P: "{learning_rate: {min: 1e-5, max: 1e-4}, seed: [{when: {learning_rate: small}, value: 1}]}"},
            '"small" matches no value of learning_rate; its values: 1e-5 … 0.0001',
        ),
        (
            {P: "{num_train_epochs: {min: 2, max: 9}, seed: [{when: {num_train_epochs: 10}, value: 1}]}"},
            "did you mean '9'? its values: 2, 3, 4, 5, 6, 7, 8, 9",
        ),
        (
            {P: "{num_train_epochs: {min: 2, max: 9, step: 3}, seed: [{when: {num_train_epochs: 3}, value: 1}]}"},
            "its values: 2, 5, 8",
        ),
        (
            {P: "{balanced: true, seed: [{when: {balanced: yes}, value: 1}]}"},
            '"yes" matches no value of balanced; its values: true',
        ),
        (
            {P: "{seed: [{when: {shape: cosine}, value: 1}]}"},
            'parameters.seed.0.when.shape: "cosine" matches no value of shape; ',
        ),
        (
            {P: "{learning_rate: 1e-3}", R: '[{when: {backbone: "*-large"}, gpus: 1}, {gpus: 0}]'},
            ':7: resources.0.when.backbone: "*-large" matches no value of backbone; its values: base',
        ),
        (
            {P: f'{{{MODELS}, seed: [{{when: {{backbone: "*"}}, value: 1}}, {{when: {{backbone: b*}}, value: 2}}]}}'},
            ":5: parameters.seed.1: is never reached: no trial matches it and none of the branches before it",
        ),
        (
            {
                P: f'{{{MODELS}, seed: [{{when: {{backbone: "bert*"}}, value: 1}}, {{when: {{backbone: "*-large"}}, '
                "value: 2}, {when: {num_train_epochs: 3}, value: 3}, {value: 4}]}"
            },
            ":5: parameters.seed.2: is never reached",
        ),
        (
            {
                P: f"{{{MODELS}, num_train_epochs: [{{when: {{backbone: bert-base}}, value: 1}}, {{value: 2}}], "
                'seed: [{when: {backbone: "*-large", num_train_epochs: 1}, value: 3}]}'
            },
            ":5: parameters.seed.0: is never reached",
        ),
    ],
)
def test_a_condition_that_nothing_meets_is_refused_with_the_nearest_value(
    check: Check, sections: dict[str, str], expected: str
) -> None:
    (line,) = check(document(**sections))
    assert expected in line


@pytest.mark.parametrize(
    "sections",
    [
        {P: f'{{{MODELS}, seed: [{{when: {{backbone: "*"}}, value: 1}}, {{value: 2}}]}}'},
        {P: "{learning_rate: {min: 1e-5, max: 1e-4}, seed: [{when: {learning_rate: 5e-5}, value: 1}]}"},
        {P: '{learning_rate: {min: 1e-6, max: 1e-2}, seed: [{when: {learning_rate: "*e-5"}, value: 1}]}'},
        {
            P: "{learning_rate: {min: 1e-5, max: 1e-4}, seed: [{when: {learning_rate: 1e-5}, value: 1}, "
            "{when: {learning_rate: 1e-4}, value: 2}, {when: {balanced: false}, value: 3}]}"
        },
        {P: "{num_train_epochs: {min: 1, max: 10000}, seed: [{when: {num_train_epochs: 77}, value: 1}]}"},
        {P: '{backbone: {values: ["a[1]", b]}, seed: [{when: {backbone: "a[1]"}, value: 1}, {value: 2}]}'},
        {P: "{seed: [{when: {num_train_epochs: 3}, value: 1}]}"},
        {P: "{seed: [{when: {backbone: huge}, value: 1}]}", S: "{trials: 2, enqueue: [{backbone: huge}]}"},
        {P: "{learning_rate: 1e-3}", "repeats": "{seeds: [7]}", R: "[{when: {seed: 7}, cpus: 1}, {cpus: 2}]"},
    ],
)
def test_a_condition_that_something_meets_is_accepted(sections: dict[str, str]) -> None:
    assert space(**sections).name == "demo"


def test_a_condition_may_be_meant_for_a_value_that_an_override_replaced(check: Check) -> None:
    text = document(
        parameters=f'{{{MODELS}, seed: [{{when: {{backbone: "*-large"}}, value: 1}}, {{value: 2}}]}}',
        resources='[{when: {backbone: "*-large"}, cpus: 2}, {cpus: 1}]',
    )
    assert read_text(text, "parameters.backbone=bert-base").name == "demo"
    (line,) = check(text.replace("*-large", "*-lagre", 1), "parameters.backbone=bert-base")
    assert 'parameters.seed.0.when.backbone: "*-lagre" matches no value' in line
    (line,) = check(text, "parameters.seed.0.when.backbone=huge")
    assert 'parameters.seed.0.when.backbone: "huge" matches no value of backbone' in line


def test_a_condition_may_be_meant_for_a_setting_that_an_override_dropped(check: Check) -> None:
    text = document(
        parameters="{seed: [{when: {backbone: huge}, value: 1}, {value: 2}]}",
        search="{trials: 2, enqueue: [{backbone: huge}]}",
    )
    assert read_text(text, "search.enqueue=[]").name == "demo"
    (line,) = check(text.replace("enqueue: [{backbone: huge}]", "enqueue: []"))
    assert "matches no value of backbone" in line


def test_both_ends_of_a_range_may_have_a_branch_beside_the_rest() -> None:
    found = parameters(
        "{learning_rate: {min: 1e-5, max: 1e-4}, seed: [{when: {learning_rate: 1e-5}, value: 1}, "
        "{when: {learning_rate: 1e-4}, value: 2}, {value: 3}]}"
    )
    assert [str(case.domains["seed"]) for case in list_cases(found)] == ["1", "2", "3"]


def test_a_stored_space_is_not_checked_again() -> None:
    found = parameters(f'{{{MODELS}, seed: [{{when: {{backbone: "*-large"}}, value: 1}}, {{value: 2}}]}}')
    values = resolved(found)
    values["parameters"]["backbone"] = "bert-base"
    assert restored(values, "", "sweep demo").parameters["backbone"][0].domain.value == "bert-base"


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("parameters.metric_profile={values: [strict, drcd]}", "parameters.metric_profile"),
        (
            "parameters.metric_profile=[{when: {backbone: '*:1x*'}, value: drcd}, {value: strict}]",
            "parameters.metric_profile",
        ),
        ("parameters.metric_profile=[{when: {backbone: '*:1x*'}, value: drcd}]", "parameters.metric_profile"),
        ("search.enqueue=[{metric_profile: drcd}]", "search.enqueue.0.metric_profile"),
    ],
)
def test_scores_of_one_sweep_have_one_definition(override: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_search_space(find_file("quickstart"), [override])
    (line,) = caught.value.lines
    assert f"{key}: trials would be scored by " in line
    assert line.endswith(" and their scores could not be compared; give all the same value")
    for good in ("parameters.metric_profile=drcd", "parameters.metric_profile={values: [drcd]}"):
        assert read_search_space(find_file("quickstart"), [good, "search.enqueue=[{metric_profile: drcd}]"])


def test_a_job_of_ones_own_declares_what_defines_its_metrics(check: Check, tmp_path: Path) -> None:
    job = f"{__name__}:RULER"
    for text in ("{threshold: {min: 0.1, max: 0.9}}", "{threshold: {values: [0.1, 0.2]}}"):
        (line,) = check(document(job=job, parameters=text))
        assert line.startswith(":5: parameters.threshold: trials would be scored by 0.1 and 0.")
    assert space(job=job, parameters="{threshold: 0.3}").name == "demo"

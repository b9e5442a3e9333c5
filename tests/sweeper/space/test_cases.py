"""Check the combinations of branches that a space can give."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sweeper.space.cases import backbones, idle_lines, list_cases, max_epochs
from sweeper.space.domains import Branch, Choice
from sweeper.space.sections import Resources
from tests.support.free_job import document, parameters, read_text, space

pytestmark = pytest.mark.usefixtures("without_data")


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


def test_branches_tell_each_combination_that_can_occur() -> None:
    found = parameters(
        """
  backbone: {values: [a-base, a-large, b-base, b-large]}
  learning_rate:
    - {when: {backbone: "*-large"}, min: 1e-5, max: 4e-5, log: true}
    - {min: 2e-5, max: 8e-5, log: true}
  seed: [{when: {backbone: "c-*"}, value: 1}]""",
        resources='[{when: {backbone: "b-*"}, gpus: 1}, {gpus: 0}]',
        search="{trials: 4, enqueue: [{backbone: c-base}]}",
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
  seed: [{when: {backbone: "[ab]", shape: linear}, value: 1}, {when: {backbone: b}, value: 2}, {value: 3}]""",
        search="{trials: 4, enqueue: [{backbone: b, shape: cosine}]}",
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
        text = document(
            parameters=f"{{backbone: {{values: [big, mid, small]}}, num_train_epochs: {epochs}}}", **sections
        )
        return max_epochs(read_text(text, f"parameters.backbone={backbone}"))

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


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ("{values: [1, 2]}", True),
        ("1", True),
        ("[{when: {backbone: base}, values: [1, 2]}]", False),
        ("[{when: {backbone: base}, values: [1, 2]}, {value: 3}]", True),
    ],
)
def test_a_parameter_is_told_to_have_no_effect_where_it_meets_such_a_backbone(steps: str, told: bool) -> None:
    found = parameters(f"{{backbone: {{values: [base, flat]}}, doc_stride: 8, warmup_steps: {steps}}}")
    assert idle_lines(found) == (["warmup_steps has no effect with flat: nothing warms up there"] if told else [])

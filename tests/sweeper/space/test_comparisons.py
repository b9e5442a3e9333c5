"""A condition of `when` may compare numbers, and may be a list of which one has to hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.errors import ConfigError
from sweeper.space.cases import domain_parts, list_cases
from sweeper.space.domains import COMPARE, Choice, Range, contains, cut_range, fits
from sweeper.space.reading import restored
from sweeper.space.search_space import assign, resolved, resources_of
from tests.support.free_job import P, R, S, document, parameters, read_text, space

pytestmark = pytest.mark.usefixtures("without_data")
Check = Callable[..., tuple[str, ...]]
EPOCHS = "num_train_epochs: {values: [1, 2, 3, 5]}"
MODELS = "backbone: {values: [bert, lert, pert]}"
NUMBERS = st.integers(-30, 30) | st.floats(-30, 30).map(lambda one: round(one, 3))


@pytest.mark.parametrize(
    ("value", "condition", "held"),
    [
        (3, ">2", True),
        (2, ">2", False),
        (2, ">= 2", True),
        (1e-5, "<1e-4", True),
        (2, "<=1.5", False),
        (2, "!=2", False),
        (2.0, "!=2.5", True),
        (None, "!=2", False),
        (True, ">0", False),
        (">2", ">2", True),
        (">2 deep", ">2*", True),
        ("3", ">2", False),
        (">", ">", True),
        ("bert", ("lert", "b*"), True),
        (7, ("1", ">5"), True),
        (4, ["1", ">5"], False),
    ],
)
def test_a_comparison_holds_for_numbers_and_text_keeps_its_meaning(value: Any, condition: Any, held: bool) -> None:
    assert fits(value, condition) is held


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'{{{EPOCHS}, seed: [{{when: {{num_train_epochs: ">"}}, value: 1}}]}}', 'found ">"; write a number after >'),
        (f'{{{EPOCHS}, seed: [{{when: {{num_train_epochs: ">=x"}}, value: 1}}]}}', 'found ">=x"; write a number aft'),
        (f'{{{EPOCHS}, seed: [{{when: {{num_train_epochs: ">.inf"}}, value: 1}}]}}', "write a number after >, such"),
        (f'{{{EPOCHS}, seed: [{{when: {{num_train_epochs: ">5"}}, value: 1}}]}}', '">5" matches no value of num_train'),
        (f'{{{EPOCHS}, seed: [{{when: {{num_train_epochs: "=>2"}}, value: 1}}]}}', "did you mean '>=2'? its values: 1"),
        (
            f'{{{EPOCHS}, seed: [{{when: {{num_train_epochs: [">2", "<1"]}}, value: 1}}]}}',
            ':5: parameters.seed.0.when.num_train_epochs.1: "<1" matches no value of num_train_epochs; its values: 1',
        ),
        (
            f'{{{MODELS}, seed: [{{when: {{backbone: ">2"}}, value: 1}}]}}',
            '.when.backbone: ">2" compares numbers, and backbone has none; name its values or globs: bert, lert, pert',
        ),
        (
            f"{{{MODELS}, seed: [{{when: {{backbone: []}}, value: 1}}]}}",
            ":5: parameters.seed.0.when.backbone: is empty",
        ),
        (
            f"{{{MODELS}, seed: [{{when: {{backbone: [bert, ]}}, value: 1}}, {{when: {{backbone: }}, value: 2}}]}}",
            "null",
        ),
        (
            f"{{{MODELS}, seed: [{{when: {{backbone: [[bert]]}}, value: 1}}]}}",
            'backbone.0: found ["bert"]; must be one',
        ),
        (f"{{{MODELS}, seed: [{{when: {{backbone: [bert, lrt]}}, value: 1}}]}}", 'backbone.1: "lrt" matches no value'),
        (
            f"{{{MODELS}, seed: [{{when: {{backbone: [bert, lert]}}, value: 1}}, "
            "{when: {backbone: lert}, value: 2}]}",
            ":5: parameters.seed.1: is never reached: no trial matches it",
        ),
        (
            f'{{{EPOCHS}, seed: [{{when: {{num_train_epochs: ">1"}}, value: 1}}, '
            '{when: {num_train_epochs: ">=3"}, value: 2}]}',
            ":5: parameters.seed.1: is never reached: no trial matches it",
        ),
        (
            '{learning_rate: {min: 0, max: 1}, seed: [{when: {learning_rate: ">=0.5"}, value: 1}, '
            '{when: {learning_rate: "<0.5"}, value: 2}, {when: {learning_rate: "!=0.5"}, value: 3}]}',
            ":5: parameters.seed.2: is never reached: no trial matches it",
        ),
        ("{learning_rate: {min: 0, max: 1}, seed: [{when: {learning_rate: '>1'}, value: 1}]}", '">1" matches no value'),
    ],
)
def test_a_wrong_condition_is_refused_with_line_and_key(check: Check, text: str, expected: str) -> None:
    (line,) = check(document(parameters=text))
    assert expected in line


@pytest.mark.parametrize("sign", [">2", "!=2"])
def test_a_comparison_without_quotes_is_told_about_them(check: Check, sign: str) -> None:
    flow = f"{{{EPOCHS}, seed: [{{when: {{num_train_epochs: {sign}}}, value: 1}}]}}"
    (line,) = check(document(parameters=flow))
    assert "needs quotes" in line
    block = f"\n  num_train_epochs: 3\n  seed:\n    - when:\n        num_train_epochs: {sign}\n      value: 1"
    assert any("in quotes" in line for line in check(document(parameters=block)))


def test_the_cases_of_a_compared_range_are_its_pieces() -> None:
    found = parameters(
        '{max_length: {min: 65, max: 8192}, seed: [{when: {max_length: ">512"}, value: 1}, '
        '{when: {max_length: "<=100"}, value: 2}, {value: 3}]}'
    )
    cases = {str(case.domains["seed"]): str(case.domains["max_length"]) for case in list_cases(found)}
    assert cases == {"1": "513 … 8192", "2": "65 … 100", "3": "101 … 512"}
    found = parameters('{dropout: {min: 0, max: 0.5}, seed: [{when: {dropout: ">0"}, value: 1}, {value: 3}]}')
    cases = {str(case.domains["seed"]): str(case.domains["dropout"]) for case in list_cases(found)}
    assert cases == {"1": "0.0 … 0.5", "3": "0.0"}


def test_values_that_a_comparison_keeps_apart_are_no_mistake(check: Check) -> None:
    text = (
        '{max_length: {min: 65, max: 8192}, doc_stride: [{when: {max_length: ">512"}, min: 64, max: 512}, {value: 64}]}'
    )
    assert space(parameters=text).name == "demo"
    (line,) = check(document(parameters=text.replace(">512", ">=512")))
    assert "parameters.doc_stride: 512 is not below max_length 512" in line


def test_resources_and_branches_follow_comparisons_and_lists() -> None:
    found = space(
        **{
            P: f'{{{EPOCHS}, {MODELS}, seed: [{{when: {{num_train_epochs: [1, ">3"], backbone: [bert, "p*"]}}, '
            "value: 1}, {value: 2}]}",
            R: '[{when: {num_train_epochs: ">=3"}, cpus: 4}, {cpus: 1}]',
        }
    )

    def trial(epochs: int, backbone: str) -> tuple[int, float | None]:
        drawn = assign(found, lambda label, domain: {"num_train_epochs": epochs, "backbone": backbone}[label])
        resources = resources_of(found, drawn)
        assert resources is not None
        return drawn["seed"], resources.cpus

    assert [trial(1, "bert"), trial(5, "pert"), trial(5, "lert"), trial(2, "bert")] == [(1, 1), (1, 4), (2, 4), (2, 1)]


def test_conditions_survive_being_stored() -> None:
    found = space(
        **{
            P: f'{{{EPOCHS}, {MODELS}, seed: [{{when: {{num_train_epochs: [1, ">3"], backbone: [bert]}}, value: 1}}, '
            '{when: {num_train_epochs: "!=2"}, value: 2}, {value: 3}]}',
            R: "[{when: {backbone: [bert, lert]}, cpus: 1}, {cpus: 2}]",
        }
    )
    assert restored(resolved(found), found.data_fingerprint, "sweep demo") == found
    assert resolved(found)["parameters"]["seed"][0]["when"] == {"num_train_epochs": ["1", ">3"], "backbone": ["bert"]}


def test_a_grid_counts_each_side_of_a_comparison() -> None:
    text = f'{{{EPOCHS}, seed: [{{when: {{num_train_epochs: ">2"}}, values: [1, 2, 3]}}, {{value: 4}}]}}'
    assert space(**{P: text, S: "{sampler: grid}"}).search.trials == 2 * 3 + 2


def test_an_override_may_compare() -> None:
    text = document(parameters=f'{{{EPOCHS}, seed: [{{when: {{num_train_epochs: ">2"}}, value: 1}}, {{value: 2}}]}}')
    found = read_text(text, 'parameters.seed.0.when.num_train_epochs=["<2", 5]')
    assert found.parameters["seed"][0].when == {"num_train_epochs": ("<2", "5")}
    with pytest.raises(ConfigError, match="in quotes"):
        read_text(text, "parameters.seed.0.when.num_train_epochs=>2")


@settings(max_examples=60)
@given(
    st.tuples(NUMBERS, NUMBERS).filter(lambda ends: ends[0] < ends[1]).map(lambda ends: Range(*map(float, ends)))
    | st.tuples(st.integers(-5, 5), st.integers(2000, 3000)).map(lambda ends: Range(*ends, integer=True))
    | st.tuples(st.integers(-5, 5), st.integers(2000, 3000)).map(
        lambda e: Range(e[0], e[0] + e[1] * 2, False, 2, True)
    ),
    st.lists(st.tuples(st.sampled_from(sorted(COMPARE)), NUMBERS).map(lambda pair: f"{pair[0]}{pair[1]}"), max_size=4),
    st.data(),
)
def test_every_number_of_a_compared_range_lies_in_the_part_that_it_agrees_with(
    domain: Range, conditions: list[str], data: st.DataObject
) -> None:
    parts = {tuple(fits(first, one) for one in conditions): part for part, first in domain_parts(domain, conditions)}
    pieces = cut_range(domain, [1.0, 2.5])
    values = st.floats(domain.low, domain.high)
    if domain.integer:
        values = st.integers(0, int((domain.high - domain.low) / (domain.step or 1))).map(
            lambda n: int(domain.low + n * (domain.step or 1))
        )
    number = data.draw(values)
    assert contains(parts[tuple(fits(number, one) for one in conditions)], number)
    assert sum(contains(piece, number) for piece in pieces) == 1
    assert all(isinstance(piece, Range | Choice) for piece in pieces)

"""Check assignments, grids and resources, and properties of all spaces."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sweeper.space.cases import list_cases, possible_resources
from sweeper.space.domains import Choice, Domain, Range, contains
from sweeper.space.search_space import assign, grid, params_of, resolved, resources_of, searched_parameters, to_yaml
from sweeper.space.sections import Resources
from tests.support.free_job import document, documents, first, parameters, read_text, space

pytestmark = pytest.mark.usefixtures("without_data")


def test_parameters_come_after_those_their_conditions_name() -> None:
    found = parameters(
        """
  backbone: [{when: {doc_stride: 7}, value: large}, {value: base}]
  doc_stride: [{when: {seed: 1, shape: cosine}, value: 7}, {value: 8}]
  shape: cosine
  seed: {values: [1, 2]}"""
    )
    assert list(found.parameters) == ["seed", "shape", "doc_stride", "backbone"]


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


def test_fixed_values_stand_and_steer_the_branches() -> None:
    found = parameters(
        "{backbone: base, seed: [{when: {backbone: other}, value: 1}, {value: 2}], shape: {values: [cosine]}}",
        search="{trials: 2, enqueue: [{backbone: other}]}",
    )
    assert assign(found, first, {"backbone": "other", "max_length": 99}) == {
        "backbone": "other",
        "max_length": 99,
        "seed": 1,
        "shape": "cosine",
    }


def test_the_searched_parameters_are_those_that_are_not_constant() -> None:
    found = parameters(
        """
  seed: {values: [1, 2]}
  shape: cosine
  learning_rate: [{when: {seed: 1}, value: 1}, {min: 0, max: 1}]"""
    )
    assert searched_parameters(found) == ["seed", "learning_rate"]


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
    text = document(
        parameters="{backbone: {values: [x, x-large]}}",
        resources='[{when: {backbone: "*-large"}, gpus: 1}, {when: {max_length: 512}, gpus: 0.5}]',
    )
    found = read_text(text, "parameters.backbone=x")
    assert resources_of(found, {"backbone": "x-large"}) == Resources(gpus=1.0)
    assert resources_of(found, {"backbone": "x"}) == Resources(gpus=0.5)
    assert resources_of(found, {"backbone": "x", "max_length": 99}) is None
    assert possible_resources(found) == [Resources(gpus=0.5)]
    assert resources_of(space(), {}) is None


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
@example({"parameters": "{learning_rate: {min: 0.0, max: 0.6579211957782275, step: 0.6579211957782275}}"}, 0)
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

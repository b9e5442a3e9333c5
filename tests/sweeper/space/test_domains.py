"""Check what ranges and choices hold, and which values match conditions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeper.space.domains import Choice, Constant, Domain, Range, contains
from sweeper.space.search_space import assign, draw_labels, to_yaml
from tests.support.free_job import first, parameters, read_text

pytestmark = pytest.mark.usefixtures("without_data")


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
    values = f"{{values: [{value}, 1e-4]}}"
    found = parameters(f"{{learning_rate: {values}, seed: [{{when: {{learning_rate: {glob}}}, value: 1}}]}}")
    assert ("seed" in assign(found, first)) is matches


def test_booleans_match_as_the_file_writes_them() -> None:
    found = parameters("{balanced: {values: [true, false]}, seed: [{when: {balanced: true}, value: 1}, {value: 2}]}")
    assert assign(found, lambda *_: True)["seed"] == 1
    assert assign(found, lambda *_: False)["seed"] == 2


def test_matching_minds_case() -> None:
    found = parameters("{backbone: {values: [base, BASE]}, seed: [{when: {backbone: BASE}, value: 1}, {value: 2}]}")
    assert assign(found, first)["seed"] == 2


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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(1e-3, 1e3), st.integers(-7, 0), st.integers(1, 1000))
def test_a_value_of_a_fine_grid_far_from_zero_is_in_it(low: float, exponent: int, steps: int) -> None:
    step = 10.0**exponent
    domain = Range(low, low + 1000 * step, step=step)
    assert contains(domain, low + steps * step)
    assert steps == 1000 or not contains(domain, low + (steps + 0.5) * step)

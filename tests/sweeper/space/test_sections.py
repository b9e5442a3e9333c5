"""Check the sections of a file: defaults, and how values are read."""

from __future__ import annotations

import pytest

from tests.support.free_job import document, read_text, space

pytestmark = pytest.mark.usefixtures("without_data")


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

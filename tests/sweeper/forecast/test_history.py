"""Seconds of recorded trials correct the calculated ones."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.forecast.history import OTHER_SPREAD, SAME_SPREAD, learned_seconds, sightings
from sweeper.forecast.speed import TrialSeconds
from sweeper.ledger.record import TrialRecord
from tests.support.trials import record

CALCULATED = TrialSeconds(first=5.0, start=0.5, epoch=10.0, evaluation=2.0, spread=1.7)
PARAMS = {"backbone": "small", "max_length": 128}


def trained(number: int, epochs: int, epoch_s: float, start_s: float = 1.0, **changes: Any) -> TrialRecord:
    """Return a trial whose epochs took `epoch_s` seconds of training and 4 s for the evaluation and its checkpoint."""
    evaluations = tuple(
        {
            "epoch": float(epoch),
            "height": 0.5,
            "timing": {"start": start_s if epoch == 1 else 0.0, "training": epoch_s, "evaluation": 3, "checkpoints": 1},
            "conditions": changes.get("conditions", {}),
        }
        for epoch in range(1, epochs + 1)
    )
    given = {key: value for key, value in changes.items() if key != "conditions"}
    return record(number, 0.5, evaluations=evaluations, **{"params": PARAMS, **given})


def seconds(records: list[TrialRecord], params: dict[str, Any] = PARAMS, **place: Any) -> TrialSeconds:
    return learned_seconds(CALCULATED, sightings(records, lambda _: place, lambda _: CALCULATED), params)


def test_trials_of_the_same_shape_give_their_median() -> None:
    found = seconds([trained(0, 2, 20.0, start_s=6.0), trained(1, 1, 21.0), trained(2, 3, 22.0, start_s=1.5)])
    assert (found.epoch, found.evaluation) == (pytest.approx(21.0), pytest.approx(4.0))
    assert (found.first, found.start) == (6.0, 1.5)
    assert found.spread == pytest.approx(SAME_SPREAD)


def test_trials_that_differ_among_themselves_widen_the_range() -> None:
    found = seconds([trained(0, 1, 10.0), trained(1, 1, 20.0), trained(2, 1, 40.0)])
    assert (found.epoch, found.spread) == (20.0, 2.0)


def test_other_trials_count_if_none_has_the_same_shape() -> None:
    other = {"backbone": "large", "max_length": 128}
    found = seconds([trained(0, 1, 15.0)], other)
    assert (found.epoch, found.spread) == (15.0, OTHER_SPREAD)
    both = [trained(0, 1, 15.0), trained(1, 1, 40.0, params=other)]
    assert seconds(both, other).epoch == 40.0


def test_trials_of_an_earlier_version_have_the_same_shape_without_its_new_switches() -> None:
    switches = {"gradient_checkpointing": False, "torch_compile": False}
    assert seconds([trained(0, 1, 15.0)], {**PARAMS, **switches}).spread == SAME_SPREAD
    assert seconds([trained(0, 1, 15.0)], {**PARAMS, **switches, "torch_compile": True}).spread == OTHER_SPREAD


@pytest.mark.parametrize("conditions", [{"device": "NVIDIA A100"}, {"precision": "bf16"}, {"cpus": 4}])
def test_trials_elsewhere_or_in_another_precision_teach_nothing(conditions: dict[str, Any]) -> None:
    here = {"device": "CPU", "precision": "fp32", "cpus": 1}
    assert sightings([trained(0, 1, 15.0, conditions=conditions)], lambda _: here, lambda _: CALCULATED) == []
    assert len(sightings([trained(0, 1, 15.0)], lambda _: here, lambda _: CALCULATED)) == 1


def test_trials_without_timing_and_copied_ones_teach_nothing() -> None:
    records = [record(0, 0.5), trained(1, 1, 15.0, origin="other/1"), record(2, None, "FAIL")]
    assert sightings(records, lambda _: {}, lambda _: CALCULATED) == []


@pytest.mark.parametrize("epoch_s", [0.0, float("inf")])
def test_a_trial_whose_training_took_no_time_teaches_nothing(epoch_s: float) -> None:
    assert sightings([trained(0, 1, epoch_s)], lambda _: {}, lambda _: CALCULATED) == []

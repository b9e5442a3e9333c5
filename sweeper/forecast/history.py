"""Learn from the ledger how long trials take: compare their recorded seconds with the calculated ones."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.timing import START, TRAINING
from sweeper.forecast.speed import TrialSeconds
from sweeper.ledger.record import TrialRecord

SAME_SPREAD = 1.15  # trials with the same backbone and lengths; more if they differ among themselves
OTHER_SPREAD = 1.5  # trials with other backbones or lengths on the same device
SHAPE = ("backbone", "max_length", "doc_stride", "attention_window", "gradient_checkpointing", "torch_compile")


@dataclass(frozen=True)
class Sighting:
    """Hold what a recorded trial took, as a share of what is calculated for it.

    shape        values of SHAPE, which decide the work of an input
    epoch        recorded seconds of training for each calculated second
    evaluation   the same for evaluations with their checkpoints
    start        seconds to the first step
    """

    shape: tuple[Any, ...]
    epoch: float
    evaluation: float
    start: float

    @property
    def usable(self) -> bool:
        """Return True if the training took time that was measured; a job may count all of it for other phases."""
        return 0 < self.epoch < float("inf")


Place = Callable[[Mapping[str, Any]], Mapping[str, Any]]
Calculate = Callable[[Mapping[str, Any]], TrialSeconds]


def shape_of(params: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the values of SHAPE. A switch that is off counts as one that an earlier version did not have."""
    return tuple(params.get(name) or None for name in SHAPE)


def sightings(records: Iterable[TrialRecord], place: Place, calculate: Calculate) -> list[Sighting]:
    """Return what is learned from the trials that ran under the conditions of the trials to forecast.

    place      returns the conditions of a trial with these params; a trial of an earlier version has recorded none
    calculate  returns the calculated seconds of a trial with these params on the data of `records`
    """
    alike = (record for record in records if record.origin is None and _agrees(record.conditions, place(record.params)))
    seen = (_sighting(record, calculate(record.params)) for record in alike if record.epochs)
    return [one for one in seen if one and one.usable]


def _agrees(conditions: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(conditions.get(name, value) == value for name, value in wanted.items())


def _sighting(record: TrialRecord, calculated: TrialSeconds) -> Sighting | None:
    timings = [one["timing"] for one in record.evaluations if one.get("timing")]
    if not timings or len(timings) < len(record.evaluations):
        return None
    training = sum(one.get(TRAINING, 0.0) for one in timings)
    evaluation = sum(one.get("evaluation", 0.0) + one.get("checkpoints", 0.0) for one in timings)
    return Sighting(
        shape_of(record.params),
        training / record.epochs / calculated.epoch,
        evaluation / len(timings) / calculated.evaluation,
        timings[0].get(START, 0.0) + timings[0].get("features", 0.0),
    )


def learned_seconds(calculated: TrialSeconds, seen: Sequence[Sighting], params: Mapping[str, Any]) -> TrialSeconds:
    """Return the calculated seconds corrected by the trials of the same shape, or by all if there is none."""
    same = [one for one in seen if one.shape == shape_of(params)]
    chosen, least = (same, SAME_SPREAD) if same else (seen, OTHER_SPREAD)
    ratios = [one.epoch for one in chosen]
    starts = [one.start for one in chosen]
    middle = statistics.median(ratios)
    return TrialSeconds(
        max(starts),
        statistics.median(starts) if len(starts) > 2 else min(starts),
        calculated.epoch * middle,
        calculated.evaluation * statistics.median(one.evaluation for one in chosen),
        max(least, max(ratios) / middle, middle / min(ratios)),
    )

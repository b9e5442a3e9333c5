"""Compare what a run should show with what MLflow shows. Imports no MLflow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sweeper.tracking.runs import (
    BEST,
    COST_TAG,
    ENDED_TAG,
    ORIGIN_TAG,
    REASON,
    REPLACED_BY,
    RETIRED_METRICS,
    Point,
    RunContent,
    StoredRun,
)

STATUSES = {
    "RUNNING": "RUNNING",
    "COMPLETE": "FINISHED",
    "PRUNED": "FINISHED",  # a result, so no red cross; the tag `sweeper.state` tells it apart
    "STOPPED": "SCHEDULED",  # an interrupted sweep, which can be resumed
    "FAIL": "FAILED",
}
OPTIONAL_TAGS = (REASON, ORIGIN_TAG, REPLACED_BY, COST_TAG, ENDED_TAG)  # a run that should not have one loses it
# Optuna stores local times without their zone, so machines in other zones read times that differ by quarters of hours.
ZONE_MILLISECONDS, MAX_ZONES = 900_000, 26 * 4


@dataclass(frozen=True)
class Differences:
    """Hold what to write so that a run shows its content.

    points  points that the run lacks
    params  parameters that it lacks
    tags    tags that it lacks or that have other values
    stale   tags to remove
    end     True if its status or its end time is wrong
    lines   a phrase for each difference
    fixed   a phrase for each difference that MLflow cannot change in a run
    old     a phrase for each number that an earlier version wrote among the metrics, which MLflow cannot remove
    """

    points: tuple[Point, ...]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    stale: tuple[str, ...] = ()
    renamed: bool = False
    end: bool = False
    lines: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    old: tuple[str, ...] = ()


def differences(content: RunContent, stored: StoredRun) -> Differences:
    """Return what to write to the stored run."""
    points = missing_points(content, stored)
    params = {key: value for key, value in content.params.items() if key not in stored.params}
    tags = {key: value for key, value in content.tags.items() if stored.tags.get(key) != value}
    stale = tuple(key for key in OPTIONAL_TAGS if key in stored.tags and key not in content.tags)
    renamed = content.name != stored.name
    ended = content.ended is None or same_time(content.ended, stored.ended)
    status = STATUSES[content.state]
    lines = (
        *_point_lines(points),
        *(f"parameter {key} was missing" for key in params),
        *(_tag_line(key, stored) for key in (*tags, *stale)),
        *([f"its name was {stored.name!r}"] if renamed else ()),
        *([f"its status was {stored.status}"] if status != stored.status else ()),
        *([] if ended else ["its end time was wrong"]),
    )
    end = status != stored.status or not ended
    old = tuple(f"{key} was among the metrics" for key in RETIRED_METRICS if key in stored.points)
    return Differences(tuple(points), params, tags, stale, renamed, end, lines, tuple(_fixed(content, stored)), old)


def _point_lines(points: Sequence[Point]) -> list[str]:
    keys = dict.fromkeys(point.key for point in points)
    count = {key: sum(point.key == key for point in points) for key in keys}
    return [f"metric {key} lacked {n} {'value' if n == 1 else 'values'}" for key, n in count.items()]


def _tag_line(key: str, stored: StoredRun) -> str:
    if key == "mlflow.parentRunId" and key in stored.tags:
        return "it lay below another run"
    was = f"was {stored.tags[key]!r}" if key in stored.tags else "was missing"
    return f"tag {key} {was}"


def _fixed(content: RunContent, stored: StoredRun) -> Iterable[str]:
    """Yield a phrase for each value that MLflow can neither change nor remove."""
    for key, value in content.params.items():
        if stored.params.get(key, value) != value:
            yield f"parameter {key} was {stored.params[key]!r}"
    expected = {(point.key, point.step): point for point in content.points}
    own = {*content.metrics, *(point.key for point in content.points)}
    for key in sorted(own & stored.points.keys()):
        found = stored.points[key]
        if len({point.step for point in found}) < len(found) or not all(
            _same_point(expected.get((key, point.step)), point, content, stored) for point in found
        ):
            yield f"metric {key} had other values"
    if not same_time(content.started, stored.started):
        yield "its start time was wrong"


def missing_points(content: RunContent, stored: StoredRun) -> list[Point]:
    """Return the points of `content` that the stored run lacks."""
    steps = {key: {point.step for point in points} for key, points in stored.points.items()}
    missing = [_shifted(p, content, stored) for p in content.points if p.step not in steps.get(p.key, ())]
    for key, value in content.summary.items():
        if stored.latest(key) != value:
            missing.append(Point(key, value, max(steps.get(key, {-1})) + 1, content.ended))
    return missing


def _shifted(point: Point, content: RunContent, stored: StoredRun) -> Point:
    """Return a point with its time in the zone of the stored run's start."""
    if point.timestamp is None or content.started is None or stored.started is None:
        return point
    return point._replace(timestamp=point.timestamp - content.started + stored.started)


def _same_point(expected: Point | None, found: Point, content: RunContent, stored: StoredRun) -> bool:
    if expected is None:
        return False
    wanted = _shifted(expected, content, stored).timestamp
    same = expected.value == found.value or (math.isnan(expected.value) and math.isnan(found.value))
    # Earlier versions dated the best value by the time of its writing.
    return same and (wanted in (None, found.timestamp) or found.key.startswith(BEST))


def same_time(wanted: int | None, found: int | None) -> bool:
    """Return True if two times in milliseconds are the same, perhaps read in different time zones, or if any is as good
    as another, since `wanted` is None.
    """
    if wanted is None or found is None:
        return wanted is None
    zones, rest = divmod(abs(wanted - found), ZONE_MILLISECONDS)
    return rest == 0 and zones <= MAX_ZONES


def with_tags(content: RunContent, parent_id: str | None) -> RunContent:
    """Return `content` with the tags that identify its run and place it below another one."""
    parent = {"mlflow.parentRunId": parent_id} if parent_id else {}
    return replace(content, tags={**content.tags, **content.identity, **parent})

"""Where the time of a sweep's trials went: what the driver knows of it, and the table of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jobs.timing import PHASES
from sweeper.results.table import Table

if TYPE_CHECKING:
    from sweeper.ledger.record import TrialRecord

Timing = Mapping[str, float]


def phase_seconds(record: TrialRecord) -> Timing:
    """Seconds of each phase over all attempts, as far as they are on record."""
    told = [evaluation.get("timing", {}) for evaluation in record.evaluations]
    return {phase: sum(timing.get(phase, 0.0) for timing in told) for phase in PHASES}


def timing_values(records: Sequence[TrialRecord]) -> dict[str, Any]:
    """`trials`: a row for each, with its seconds by phase; `total`: theirs together; `wall_s`: from the first
    trial's start to the last one's end."""
    rows: list[dict[str, Any]] = [
        {
            "trial": record.number,
            "state": record.state,
            **phase_seconds(record),
            "total": sum(phase_seconds(record).values()),
        }
        for record in records
    ]
    total = {name: sum(row[name] for row in rows) for name in (*PHASES, "total")}
    return {"trials": rows, "total": total, "wall_s": wall_seconds(records)}


def wall_seconds(records: Sequence[TrialRecord]) -> float | None:
    begun = [record.started for record in records if record.started]
    ended = [record.ended for record in records if record.ended]
    return _seconds_between(min(begun), max(ended)) if begun and ended else None


def _seconds_between(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()


def timing_table(records: Sequence[TrialRecord]) -> Table:
    """The table, its last two rows the seconds of all trials together and their shares in percent."""
    found = timing_values(records)
    names, total = (*PHASES, "total"), found["total"]
    rows = [[row["trial"], row["state"], *(_rounded(row[name]) for name in names)] for row in found["trials"]]
    whole = total["total"] or 1.0
    rows += [
        ["all", None, *(_rounded(total[name]) for name in names)],
        ["%", None, *(round(100 * total[name] / whole, 1) for name in names)],
    ]
    seconds = found["wall_s"]
    caption = "seconds" + (f"; {seconds:.0f} from the first trial's start to the last one's end" if seconds else "")
    return Table(["trial", "state", *names], rows, frozenset({"state"}), frozenset({len(rows) - 2}), caption=caption)


def _rounded(seconds: float) -> float:
    return round(seconds, 2)

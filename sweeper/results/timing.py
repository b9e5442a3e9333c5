"""Sum the seconds of a sweep's trials by phase and show them as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.timing import PHASES
from sweeper.results.table import Table

if TYPE_CHECKING:
    from sweeper.ledger.record import TrialRecord

Timing = Mapping[str, float]


def phase_seconds(record: TrialRecord) -> Timing:
    """Return the seconds of each phase, summed over the trial's evaluations. A phase that was never timed has 0."""
    timings = [evaluation.get("timing", {}) for evaluation in record.evaluations]
    return {phase: sum(timing.get(phase, 0.0) for timing in timings) for phase in PHASES}


def timing_values(records: Sequence[TrialRecord]) -> dict[str, Any]:
    """Return the timing of a sweep as plain values.

    Keys: `trials`, one row per trial with its seconds by phase; `total`, the sums over all trials; `wall_s`, see
    `wall_seconds`.
    """
    rows: list[dict[str, Any]] = [
        {"trial": record.number, "state": record.state, **seconds, "total": sum(seconds.values())}
        for record, seconds in ((record, phase_seconds(record)) for record in records)
    ]
    total = {name: sum(row[name] for row in rows) for name in (*PHASES, "total")}
    return {"trials": rows, "total": total, "wall_s": wall_seconds(records)}


def wall_seconds(records: Sequence[TrialRecord]) -> float | None:
    """Return the seconds from the start of the first trial to the end of the last, pauses included."""
    started = [record.started for record in records if record.started]
    ended = [record.ended for record in records if record.ended]
    return (max(ended) - min(started)).total_seconds() if started and ended else None


def timing_table(records: Sequence[TrialRecord]) -> Table:
    """Return the timing as a table; its last two rows are the sums over all trials and their shares in percent."""
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
    optional = sorted(PHASES, key=lambda name: -total[name])
    best = frozenset({len(rows) - 2})
    return Table(["trial", "state", *names], rows, frozenset({"state"}), best, None, caption, optional)


def _rounded(seconds: float) -> float:
    return round(seconds, 2)

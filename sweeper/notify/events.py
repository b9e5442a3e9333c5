"""Decide which changes of a sweep send a message, and word the messages. Sends nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from sweeper.budget.limits import Ending
from sweeper.ledger.ranking import best_first
from sweeper.ledger.record import TrialRecord
from sweeper.secrets import redacted
from sweeper.space.search_space import SearchSpace, searched_parameters
from sweeper.space.sections import Notify, NotifyEvent, duration

REASON_CHARS = 300
STATE_WORDS = {"COMPLETE": "finished", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "cut short"}


class Message(NamedTuple):
    """Hold what a service is sent about an event."""

    event: NotifyEvent
    title: str
    body: str


class Notices:
    """Yield the messages that a run of a sweep sends.

    earlier  the trials as they were before this run, about which nothing is sent
    clock    the seconds of a monotonic clock
    """

    def __init__(
        self,
        space: SearchSpace,
        name: str,
        earlier: Sequence[TrialRecord] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.space = space
        self.name = name
        self.wanted = space.notify or Notify()
        self.clock = clock
        self.began = clock()
        self.records = {record.number: record for record in earlier}
        self.failed = any(map(_has_failed, earlier))
        self.best = self._best()
        self.told: float | None = None  # time of the last message about a new best
        self.untold = False  # there is a new best that no message has told
        self.changes = 0

    def changed(self, record: TrialRecord) -> Iterator[Message]:
        """Yield the messages about a changed trial."""
        if self.records.get(record.number) == record:
            return
        self.changes += 1
        self.records[record.number] = record
        if _has_failed(record) and not self.failed:
            self.failed = True
            yield from self._message("first_failure", f"trial {record.number} has failed", self._reason(record))
        best = self._best()
        if best is not None and (self.best is None or self._value(best) > self._value(self.best)):
            self.best, self.untold = best, True
        if self.untold and self.best and self._may_tell():
            self.told, self.untold = self.clock(), False
            yield from self._message("new_best", f"new best {self._score(self.best)}", self._setting(self.best))

    def ended(self, ending: Ending | None, cause: str | None = None) -> Iterator[Message]:
        """Yield the message about the end of the run, if it has changed anything; `cause` is why it broke off."""
        records = list(self.records.values())
        good = best_first(records, self.space.direction)
        if cause is not None:
            yield from self._message("failed", "has stopped", cause)
        elif not self.changes:
            return
        elif ending:
            yield from self._message("budget", f"ended by budget.{ending.key}", f"{ending.reason}; {self._summary()}")
        elif good:
            yield from self._message("finished", "finished", self._summary())
        else:
            yield from self._message("failed", "no trial ended well", self._summary())

    def _message(self, event: NotifyEvent, title: str, body: str) -> Iterator[Message]:
        if event in self.wanted.events:
            yield Message(event, redacted(f"{self.name}: {title}"), redacted(body))

    def _may_tell(self) -> bool:
        return self.told is None or self.clock() - self.told >= self.wanted.new_best_every

    def _best(self) -> TrialRecord | None:
        """Return the trial with the best objective so far, also of the running ones; no repeat is the best."""
        known = (
            one
            for one in self.records.values()
            if one.value is not None and one.state != "FAIL" and one.repeat_of is None
        )
        return max(known, key=lambda one: (self._value(one), -one.number), default=None)

    def _value(self, record: TrialRecord) -> float:
        return (1 if self.space.direction == "max" else -1) * (record.value or 0.0)

    def _score(self, record: TrialRecord) -> str:
        return f"{self.space.objective} {record.value:.4f} (trial {record.number})"

    def _setting(self, record: TrialRecord) -> str:
        params = record.params
        values = (f"{name}={_value_text(params[name])}" for name in searched_parameters(self.space) if name in params)
        return f"after epoch {record.epochs:g}: {', '.join(values) or 'the only setting'}"

    def _reason(self, record: TrialRecord) -> str:
        return f"after epoch {record.epochs:g}: {(record.reason or 'no reason is known')[:REASON_CHARS]}"

    def _summary(self) -> str:
        """Return the trials by state, the best one, and how long the run took, in one line."""
        states = [record.state for record in self.records.values()]
        counts = [f"{states.count(state)} {word}" for state, word in STATE_WORDS.items() if state in states]
        ranked = best_first(list(self.records.values()), self.space.direction)
        best = f"best {self._score(ranked[0])}" if ranked else "no trial has a score"
        seconds = duration(round(self.clock() - self.began)) or "0s"
        return f"{len(states)} trials: {', '.join(counts)}; {best}; this run took {seconds}"


def _has_failed(record: TrialRecord) -> bool:
    """Return True for a trial that failed by itself, not by a limit of the budget."""
    return record.state == "FAIL" and record.ended_by is None


def _value_text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

"""Count what a sweep spends while it runs, and keep it in the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from sqlalchemy.exc import SQLAlchemyError

from sweeper.budget.limits import FIRST_LIMIT, Limit, counts_of, first_limit, reached
from sweeper.budget.spending import SPENT_SECONDS, Spending, attempt_spending, spending_of
from sweeper.ledger.database import DATABASE_ERRORS
from sweeper.ledger.ledger import Ledger
from sweeper.ledger.record import TrialRecord
from sweeper.space.search_space import SearchSpace

EpochOf = Callable[[int], float | None]
SAVE_SECONDS = 10.0  # between two writes to the ledger; a driver that is killed loses at most this much


@dataclass(frozen=True)
class Attempt:
    """Describe a running attempt of a trial: its place among the trial's attempts, its start by the account's clock,
    and the GPUs that it reserves for all its workers."""

    nth: int
    began: float
    gpus: float


class Account:
    """Keep account of a sweep from the start of a run to its end.

    >>> with open_account(ledger, space) as account:
    ...     account.begin(0, gpus=1.0)
    ...     account.limit()
    """

    def __init__(
        self,
        ledger: Ledger,
        space: SearchSpace,
        clock: Callable[[], float] = time.monotonic,
        epoch_of: EpochOf = lambda number: None,
    ) -> None:
        self.ledger = ledger
        self.space = space
        self.clock = clock
        self.epoch_of = epoch_of
        self.began = self.saved = clock()
        records = ledger.records()
        attributes = ledger.latest_attributes()
        self.before = spending_of(attributes, records)  # and what attempts of this run have spent that have ended
        self.noted: str | None = attributes.get(FIRST_LIMIT)  # key of the limit that was reached first
        self.running: dict[int, Attempt] = {}
        self.records = {record.number: record for record in records}
        self.counts = counts_of(records, space.direction)
        self.closed: float | None = None  # time at which the account was closed
        self.cut: Limit | None = None  # the limit that ends the running trials; it stays

    def update(self, record: TrialRecord) -> None:
        """Take note of a changed trial."""
        self.records[record.number] = record
        self.counts = counts_of(list(self.records.values()), self.space.direction)

    def begin(self, number: int, gpus: float) -> None:
        """Begin an attempt of a trial that reserves so many GPUs."""
        self.end(number)
        self.running[number] = Attempt(len(self.ledger.record(number).attempts), self.clock(), gpus)
        self._write(number)

    def end(self, number: int) -> None:
        """End the running attempt of a trial, if there is one. Call it before the trial ends in the ledger."""
        if number in self.running:
            self._write(number)
            self.before += self._spent(self.running.pop(number))

    def spending(self) -> Spending:
        """Return what the sweep has spent up to now."""
        spent = sum(map(self._spent, self.running.values()), self.before)
        return spent + Spending(seconds=(self.clock() if self.closed is None else self.closed) - self.began)

    def present(self) -> list[TrialRecord]:
        """Return the trials with what running attempts have spent and reached up to now. Any thread may call it."""
        records = dict(self.records)
        for number, attempt in list(self.running.items()):
            if number in records:
                before = records[number].attempts[: attempt.nth]
                records[number] = replace(records[number], attempts=(*before, self._values(number, attempt)))
        return list(records.values())

    def limit(self) -> Limit | None:
        """Return the limit that the sweep has reached, the first one of several."""
        space = self.space
        found = list(reached(space.budget, self.spending(), self.counts, space.objective, space.direction))
        self.cut = self.cut or next((one for one in found if one.cuts), None)
        first = first_limit(found, self.noted) or self.cut
        self.noted = first.key if first else None
        return first

    def ends_trials(self) -> bool:
        """Return True once a limit has been reached that ends running trials at once."""
        self.limit()
        return self.cut is not None

    def save_if_due(self) -> None:
        if self.clock() - self.saved >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write to the ledger what the run and the running attempts have spent up to now."""
        self.saved = self.clock()
        for number in self.running:
            self._write(number)
        self.ledger.set_attribute(SPENT_SECONDS, round(self.spending().seconds, 3))

    def close(self) -> None:
        """End all attempts and note the limit that was reached first."""
        self.limit()
        for number in list(self.running):
            self.end(number)
        self.closed = self.clock()
        self.save()
        if self.noted != self.ledger.latest_attributes().get(FIRST_LIMIT):
            self.ledger.set_attribute(FIRST_LIMIT, self.noted)

    def _spent(self, attempt: Attempt) -> Spending:
        return attempt_spending(self.clock() - attempt.began, attempt.gpus)

    def _write(self, number: int) -> None:
        attempt = self.running[number]
        self.ledger.set_attempt(number, attempt.nth, self._values(number, attempt))

    def _values(self, number: int, attempt: Attempt) -> dict[str, float]:
        """Return an attempt as the ledger stores it."""
        epoch = self.epoch_of(number)
        reached = {} if epoch is None else {"epoch": epoch}
        return {"seconds": round(self.clock() - attempt.began, 3), "gpus": attempt.gpus, **reached}


@contextmanager
def open_account(
    ledger: Ledger,
    space: SearchSpace,
    clock: Callable[[], float] = time.monotonic,
    epoch_of: EpochOf = lambda number: None,
) -> Iterator[Account]:
    """Yield the account of a run and close it at the end, also after an error.

    `epoch_of` tells how far a running trial is, None if that is not known.
    """
    account = Account(ledger, space, clock, epoch_of)
    try:
        yield account
    except BaseException:
        with suppress(*DATABASE_ERRORS, SQLAlchemyError):
            account.close()
        raise
    account.close()

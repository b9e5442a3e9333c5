"""What a run spends is in the ledger while it runs, and counts in the next run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from sweeper.budget.account import SAVE_SECONDS, Account, open_account
from sweeper.budget.limits import FIRST_LIMIT
from sweeper.budget.spending import Spending, spending_of
from sweeper.ledger.ledger import Ledger, create_ledger
from sweeper.space.search_space import SearchSpace
from tests.support.trials import asked, evaluated

Make = Callable[..., SearchSpace]


class Clock:
    """Tells the seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def noted(ledger: Ledger) -> Spending:
    return spending_of(ledger.latest_attributes(), ledger.records())


def test_time_and_gpu_hours_count_over_all_runs(storage: RDBStorage, toy_space: Make, clock: Clock) -> None:
    space = toy_space("budget={time: 80m}")
    ledger = create_ledger(storage, space, "toy")
    number = asked(ledger, space).number
    limits = []
    for gpus in (1.0, 2.0):  # the resources of the second run are others
        with open_account(ledger, space, clock) as account:
            clock.now += 600
            account.begin(number, gpus)
            clock.now += 2400 / gpus
            limits.append(account.limit())
        clock.now += 10_000  # nobody runs it
    assert [limit and limit.key for limit in limits] == [None, "time"]
    assert noted(ledger) == Spending(600 + 2400 + 600 + 1200, pytest.approx(4 / 3), pytest.approx(4 / 3))
    assert ledger.latest_attributes()[FIRST_LIMIT] == "time"


def test_a_kill_loses_no_more_than_the_time_since_the_last_save(
    storage: RDBStorage, toy_space: Make, clock: Clock
) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    account = Account(ledger, space, clock)
    account.begin(asked(ledger, space).number, 1.0)
    for _ in range(5):  # as the driver does in each step
        clock.now += SAVE_SECONDS - 1
        account.save_if_due()
    killed = 5 * (SAVE_SECONDS - 1)
    assert killed - SAVE_SECONDS < noted(ledger).seconds <= killed
    assert noted(ledger).gpu_hours == pytest.approx(noted(ledger).seconds / 3600)
    again = Account(ledger, space, clock)
    again.begin(0, 1.0)  # the attempt of the driver that was killed stays
    clock.now += 5
    again.close()
    assert len(ledger.record(0).attempts) == 2
    assert noted(ledger).seconds > killed - SAVE_SECONDS + 4


def test_failed_attempts_count(storage: RDBStorage, toy_space: Make, clock: Clock, tmp_path: Path) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    number = asked(ledger, space).number
    with open_account(ledger, space, clock) as account:
        for seconds in (30, 20, 10):
            account.begin(number, 0.0)
            clock.now += seconds
            account.end(number)
            evaluated(ledger, number, tmp_path / str(seconds), 1)  # it goes back to its first epoch each time
        ledger.finish(number, "FAIL", "its process died")
    assert [one["seconds"] for one in ledger.record(number).attempts] == [30, 20, 10]
    assert noted(ledger).priced_hours == pytest.approx(60 / 3600)


def test_what_was_spent_is_kept_when_a_run_breaks_off(storage: RDBStorage, toy_space: Make, clock: Clock) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")

    def break_off() -> None:
        with open_account(ledger, space, clock) as account:
            account.begin(asked(ledger, space).number, 1.0)
            clock.now += 7
            raise RuntimeError("the hill is closed")

    with pytest.raises(RuntimeError, match="the hill is closed"):
        break_off()
    assert noted(ledger) == Spending(7, pytest.approx(7 / 3600), pytest.approx(7 / 3600))


@pytest.mark.parametrize("epochs", [[1, 1, 2], [2, 1, 1]])
def test_a_new_best_begins_the_count_of_trials_without_gain_again(
    storage: RDBStorage, toy_space: Make, clock: Clock, tmp_path: Path, epochs: Sequence[int]
) -> None:
    """Two that run when the limit is reached go on, and with a new best among them so does the sweep."""
    space = toy_space("budget={trials_without_gain: 1}")
    ledger = create_ledger(storage, space, "toy")
    account = Account(ledger, space, clock)
    limits = []
    for number, count in enumerate(epochs):
        account.update(asked(ledger, space))
        account.update(evaluated(ledger, number, tmp_path / str(number), count))
        account.update(ledger.finish(number, "PRUNED"))
        limits.append(account.limit() is not None)
        assert not account.ends_trials()
    assert limits == ([False, True, False] if epochs[-1] == 2 else [False, True, True])

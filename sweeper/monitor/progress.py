"""Print a running sweep: a line per ended trial and, on a terminal, a live table of the running trials."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from jobs.job import Direction
from sweeper.budget.account import Account
from sweeper.budget.limits import has_limits, spending_phrases
from sweeper.ledger.ranking import best_first
from sweeper.ledger.record import TrialRecord, incident_line
from sweeper.monitor.remaining import end_text, seconds_left
from sweeper.process.screen import print_line
from sweeper.results.table import Table, terminal_lines

INDENT_COLUMNS = 11  # where a trial's line begins after its number
STATES = {"RUNNING": "running", "COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed"}


class Progress:
    """Print each change of a trial that `update` receives. `earlier` holds the trials as they were before this run.

    >>> with Progress(console, "exact_match", "max", trials=8, names=["backbone", "learning_rate"]) as progress:
    ...     progress.update(record)
    """

    def __init__(
        self,
        console: Console,
        objective: str,
        direction: Direction,
        trials: int,
        names: list[str],
        earlier: Sequence[TrialRecord] = (),
    ) -> None:
        self.console = console
        self.objective = objective
        self.direction = direction
        self.trials = trials
        self.names = names
        self.records: dict[int, TrialRecord] = {record.number: record for record in earlier}
        self.open: dict[int, TrialRecord] = {}  # the running trials, for the live table
        self.began = time.monotonic()
        self.account: Account | None = None
        self.live = Live(
            console=console,
            get_renderable=self.view,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,  # the output of libraries goes to the log
            redirect_stderr=False,
        )

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def follow(self, account: Account) -> None:
        """Show from now on how far the running trials are, what is spent, and the expected end."""
        self.account = account

    def update(self, record: TrialRecord) -> None:
        before = self.records.get(record.number)
        self.records[record.number] = record
        self.open.pop(record.number, None)
        if record.state == "RUNNING":
            self.open[record.number] = record
        if before is not None and len(record.incidents) > len(before.incidents):
            incident = f"trial {record.number:>3}  {incident_line(record.incidents[-1])}"
            print_line(self.console, incident, INDENT_COLUMNS)
        if record.state != "RUNNING" and (before is None or before.state == "RUNNING"):
            print_line(self.console, self.line(record), INDENT_COLUMNS)

    def line(self, record: TrialRecord) -> str:
        """Return an ended trial as one line: number, state, epochs, seconds, score, settings."""
        score = f"{self.objective} {record.value:.4f}" if record.value is not None else record.reason or ""
        settings = " ".join(f"{name}={short_value(record.params[name])}" for name in self.names)
        how = f"{STATES[record.state]:<13} {record.epochs:>4g} epochs {record.seconds:>7.1f} s"
        again = f"seed={record.params['seed']} of trial {record.repeat_of}  " if record.repeat_of is not None else ""
        precision = f" in {record.used_precision}" if record.used_precision not in (None, "fp32") else ""
        cut = f"({record.reason})  " if record.ended_by and record.value is not None else ""
        return f"trial {record.number:>3}  {how}  {score}  {cut}{again}{settings}{precision}"

    def view(self) -> Group:
        """Return the live table: a line of totals, then a row per running trial."""
        table = terminal_lines(self.running(), self.console.width) if self.open else ()
        return Group(Text(self.totals()), *table)

    def totals(self) -> str:
        ended = len(self.records) - len(self.open)
        ranked = best_first(list(self.records.values()), self.direction)
        best = f", best {ranked[0].value:.4f} (trial {ranked[0].number})" if ranked else ""
        return f"{ended} of {self.trials} trials, {time.monotonic() - self.began:.0f} s{best}{self.outlook()}"

    def outlook(self) -> str:
        """Return the expected end and what is spent of the budget, as far as they are known."""
        if self.account is None:
            return ""
        account, budget = self.account, self.account.space.budget
        spent = account.spending()
        left = seconds_left(account.present(), self.trials, budget, spent)
        phrases = spending_phrases(budget, spent, account.counts) if has_limits(budget) else []
        end = "" if left is None else f", {end_text(left)}"
        return end + (f"; spent: {', '.join(phrases)}" if phrases else "")

    def running(self) -> Table:
        """Return the table of the running trials. A narrow screen leaves out the last parameters."""
        rows = []
        present = {one.number: one for one in self.account.present()} if self.account else {}
        for record in self.open.values():
            reached = present.get(record.number, record).progress
            epoch = f"{round(reached, 1):g}/{record.params['num_train_epochs']}"
            value = "–" if record.value is None else f"{record.value:.4f}"
            rows.append([record.number, epoch, value, *(short_value(record.params[name]) for name in self.names)])
        columns = ["trial", "epoch", self.objective, *self.names]
        return Table(columns, rows, frozenset(columns), optional=self.names)


def short_value(value: object) -> str:
    """Return a parameter's value as short text; a float has three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)

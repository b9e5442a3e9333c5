"""Define the commands that show results: compare, report, errors, best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs import JOBS
from jobs.files import atomic, disk_errors
from sweeper.commands.base import echo_line, ledger_of, ledger_storage, main, show, table_forms
from sweeper.commands.completion import complete_sweep
from sweeper.errors import ConfigError, EnvironmentFailure, NoPredictions

if TYPE_CHECKING:
    from sweeper.ledger.ledger import Ledger
    from sweeper.results.table import Table


@main.command()
@click.argument("names", nargs=-1, required=True, metavar="SWEEP...", shell_complete=complete_sweep)
@click.option("--all", "every", is_flag=True, help="Show every trial of several sweeps, not only each backbone's best.")
@click.option("--sort", metavar="COLUMN", help="Sort by a metric, best first, or by a parameter.")
@click.option("--reverse", is_flag=True, help="Reverse the order.")
@click.option("--timing", is_flag=True, help="Show the time of one sweep's trials by phase, in seconds.")
@click.option("--reference", is_flag=True, help="Show each backbone's best trial beside its published score.")
@table_forms("md", "csv", "json", "html", json="Print one JSON array, best first, with an object for each trial.")
def compare_command(
    names: tuple[str, ...], every: bool, sort: str | None, reverse: bool, timing: bool, reference: bool, form: str
) -> None:
    """Print a sweep's trials, best first; or the models of several sweeps and jobs side by side."""
    from sweeper.results import comparison, report
    from sweeper.results.scores import best_trials_line

    ledgers = [ledger_of(name) for name in names]
    if timing:
        show_timing(ledgers, form)
        return
    if reference:
        if every or sort or reverse or form == "html":
            raise ConfigError("--reference: has its own rows and order; leave out --all, --sort, --reverse and --html")
        table = comparison.reference_rows(ledgers)
        show_rows(
            table, comparison.reference_table(table), form, f"sweeper compare {' '.join(names)} --reference --csv"
        )
        return
    if form == "html":
        if len(ledgers) > 1:
            raise ConfigError("--html: a page shows one sweep; name only one")
        click.echo(report.trials_html(ledgers[0]), nl=False)
        return
    table, view = comparison.compare_sweeps(ledgers, every, sort, reverse)
    show_rows(table, view, form, f"sweeper compare {' '.join(names)} --csv")
    if form == "table" and len(ledgers) == 1 and (line := best_trials_line(ledgers[0])):
        echo_line(line, err=True)


def show_rows(rows: list[dict[str, Any]], view: Table, form: str, everything: str) -> None:
    """Print rows as JSON, or their table in another form. `everything` is the command that prints all columns."""
    from sweeper.results.table import json_text

    if form == "json":
        click.echo(json_text(rows), nl=False)
    else:
        show(view, form=form, everything=everything)


def show_timing(ledgers: list[Ledger], form: str) -> None:
    from sweeper.results import timing
    from sweeper.results.table import json_text

    if len(ledgers) > 1 or form == "html":
        raise ConfigError("--timing: needs one sweep, and prints a table, --md, --csv or --json; leave out the rest")
    records = ledgers[0].records()
    if form == "json":
        click.echo(json_text(timing.timing_values(records)), nl=False)
    else:
        show(timing.timing_table(records), form=form, everything="--csv")


@main.command()
@click.argument("name", metavar="SWEEP", shell_complete=complete_sweep)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write to this file (default: SWEEP.html).")
def report_command(name: str, output: Path | None) -> None:
    """Write a self-contained HTML report of a sweep: table, curves, importance, cost."""
    from sweeper.ledger.lookup import Trial
    from sweeper.ledger.ranking import best_first
    from sweeper.results import report as page
    from sweeper.results.recipe import best_yaml, recipe_name

    ledger = ledger_of(name)
    path = output or Path(f"{name}.html")
    ended = best_first(ledger.records(), ledger.direction)
    best = Trial(ledger, ended[0]) if ended else None
    text = page.report_html(ledger, best_yaml(best), recipe_name(best)) if best else page.report_html(ledger)
    with disk_errors(EnvironmentFailure, "name another place with --output", path), atomic(path) as part:
        part.write_text(text, encoding="utf-8")
    click.echo(f"next: open {path}", err=True)


@main.command()
@click.argument("name", metavar="TRIAL", shell_complete=complete_sweep)
@click.option("--vs", metavar="TRIAL", shell_complete=complete_sweep, help="Compare with the answers of this trial.")
@click.option(
    "--examples", type=click.IntRange(min=0), default=3, show_default=True, help="Show this many examples of each kind."
)
@table_forms("md", "json")
def errors_command(name: str, vs: str | None, examples: int, form: str) -> None:
    """Count a trial's mistakes by kind, and by type and length of the answer.

    TRIAL is SWEEP/NUMBER, or SWEEP for its best trial.
    """
    from sweeper.ledger.lookup import find_trial
    from sweeper.results import mistakes
    from sweeper.results.table import json_text

    storage = ledger_storage()
    trial, other = find_trial(name, storage), find_trial(vs, storage) if vs else None
    try:
        tables, values = mistakes.mistake_tables(trial, other, examples)
    except NoPredictions as failure:
        if all(one.job in JOBS for one in (trial, other) if one):
            raise
        raise ConfigError(
            f"{failure}; name a trial of {', '.join(JOBS)}, or let the job write predictions.json into its checkpoints"
        ) from None
    if form == "json":
        click.echo(json_text(values), nl=False)
    else:
        show(*tables, form=form)


@main.command()
@click.argument("name", metavar="TRIAL", shell_complete=complete_sweep)
@click.option("--yaml", is_flag=True, help="Print YAML (the default).")
def best_command(name: str, yaml: bool) -> None:
    """Print a search space that runs exactly this trial again.

    TRIAL is SWEEP/NUMBER, or SWEEP for its best trial.
    """
    from sweeper.ledger.lookup import find_trial
    from sweeper.results.recipe import best_yaml

    click.echo(best_yaml(find_trial(name, ledger_storage())), nl=False)

"""The command line: parses, calls, prints. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeper.errors import DataFailure, EnvironmentFailure, Failure

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sweeper.ledger import Ledger
    from sweeper.sheet import Sheet

INTERRUPTED = 130


class Commands(click.Group):
    """Ends a command that fails, or is interrupted, with one line for each reason and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Failure as failure:
            for line in failure.lines:
                click.echo(line, err=True)
            ctx.exit(failure.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted; nothing that was finished is lost, and the same command goes on", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sweeper")
def main() -> None:
    """Find the best Chinese question-answering models for a data set.

    Write a search space as one YAML file; `sweeper run` trains its trials side by side, stops weak ones
    early, and ends with a table.
    """
    os.umask(0o077)  # records, checkpoints and logs are their owner's alone


@main.command()
@click.argument("file")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--new", is_flag=True, help="Run beside a sweep of this name instead of going on with it.")
def run(file: str, overrides: tuple[str, ...], new: bool) -> None:
    """Train the trials of a search space and print their table.

    FILE is a path, or a name in search_spaces/. Overrides are dotted: search.trials=2.
    A sweep that was interrupted goes on; one that is finished is not run again.
    """
    from sweeper.capacity import local_machine
    from sweeper.search_space import find, read_search_space
    from sweeper.stores import read_stores

    stores = read_stores()
    space = read_search_space(find(file), overrides)
    with terminal() as console:
        what = f"{space.name}: {space.search.trials} trials of {space.job} on {space.data}, by {space.objective}"
        console.print(what, markup=False, soft_wrap=True)
        from sweeper.driver import run_sweep

        outcome = run_sweep(space, stores, local_machine(), console, new)
    show(outcome.name, "table")
    if outcome.mirror_failure:
        click.echo(f"{outcome.mirror_failure}; the ledger has everything", err=True)
    if outcome.interrupted:
        raise KeyboardInterrupt
    page = f", then open {outcome.page}" if outcome.page else ""
    click.echo(f"next: sweeper compare {outcome.name} --md   or   sweeper ui{page}", err=True)
    sys.exit(0 if outcome.good else 1)


@main.command()
@click.argument("file")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--first", default=5, show_default=True, help="How many configurations to show.")
def plan(file: str, overrides: tuple[str, ...], first: int) -> None:
    """Show what `run` would do: branches, trials at once and why, first configurations, disk."""
    from sweeper.capacity import local_machine
    from sweeper.plan import lines
    from sweeper.search_space import find, read_search_space

    for line in lines(read_search_space(find(file), overrides), local_machine(), first):
        click.echo(line)
    click.echo(f"next: sweeper run {' '.join([file, *overrides])}", err=True)


@main.command()
def ls() -> None:
    """List the sweeps in the ledger."""
    from rich.table import Table

    from sweeper.ledger import existing_storage
    from sweeper.plan import overview
    from sweeper.stores import read_stores

    table = Table(box=None, pad_edge=False)
    for name in ("sweep", "job", "trials", "running", "failed", "objective", "best"):
        table.add_column(name)
    for row in overview(existing_storage(read_stores().ledger)):
        table.add_row(*map(str, row))
    screen(table).print(table)
    click.echo("next: sweeper compare SWEEP", err=True)


@main.command()
@click.argument("name")
@click.option("--md", "form", flag_value="md", help="Markdown.")
@click.option("--csv", "form", flag_value="csv", help="Comma-separated values.")
@click.option("--json", "form", flag_value="json", help="One array, best first, a row per trial.")
@click.option("--table", "form", flag_value="table", default="table", help="For the terminal (the default).")
def compare(name: str, form: str) -> None:
    """Print a sweep's trials, best first."""
    show(name, form)


@main.command()
@click.argument("data")
@click.option("--mc", metavar="MODEL", help="Picks the paragraph.")
@click.option("--qa", metavar="MODEL", help="Reads it.")
@click.option("--longformer", metavar="MODEL", help="Does both at once.")
@click.option("--split", type=click.Choice(["valid", "test"]), default="valid", show_default=True)
@click.option("--profile", type=click.Choice(["strict", "drcd", "cmrc2018"]), default="strict", show_default=True)
@click.option("--md", "form", flag_value="md", help="Markdown.")
@click.option("--json", "form", flag_value="json", help="One object, full precision.")
@click.option("--table", "form", flag_value="table", default="table", help="For the terminal (the default).")
def evaluate(data: str, split: str, profile: str, form: str, **named: str | None) -> None:
    """Compare two stages, soft two stages, end to end and BM25 on the labelled questions of DATA.

    A MODEL is a sweep, which means its best trial, SWEEP/NUMBER, or a checkpoint's folder.
    """
    from sweeper import systems
    from sweeper.reference import find_checkpoint
    from sweeper.stores import read_stores

    stores = read_stores()
    checkpoints = {job: find_checkpoint(name, stores) for job, name in named.items() if name}
    with data_mistakes():
        from jobs import evaluation
        from jobs.data import read

        exam = evaluation.exam(read(data), split, profile)
        rows = list(evaluation.evaluate(exam, checkpoints, stores.root / "features"))
    if form == "json":
        click.echo(systems.json_text(rows, split, profile), nl=False)
    else:
        show(systems.sheet_of(rows, split, profile), form=form)


@main.command()
@click.option("--port", type=int, help="Instead of the one in mlflow.ini.")
def ui(port: int | None) -> None:
    """Serve the MLflow pages of all sweeps on this machine's loopback address."""
    from sweeper.server import serve
    from sweeper.stores import read_stores

    serve(read_stores(), port, lambda url: click.echo(f"MLflow is at {url} until Ctrl-C", err=True))


@main.command()
def schema() -> None:
    """Print the JSON Schema of search-space files, for editors."""
    from sweeper.schema import json_schema_text

    click.echo(json_schema_text(), nl=False)


@main.command()
def doctor() -> None:
    """Check versions, devices, stores and offline switches."""
    from sweeper.doctor import findings
    from sweeper.stores import read_stores

    results = findings(read_stores())
    for finding in results:
        click.echo(f"{'ok  ' if finding.good else 'BAD '} {finding.what:<18} {finding.detail}")
    sys.exit(0 if all(finding.good for finding in results) else 4)


@main.group()
def data() -> None:
    """Look at data sets, convert others', write the built-in one."""


@data.command()
@click.argument("location")
@click.option("--tokenizer", metavar="NAME", help="A backbone's name: lengths in its tokens too.")
@click.option("--json", "as_json", is_flag=True, help="One object.")
def check(location: str, tokenizer: str | None, as_json: bool) -> None:
    """Read a data set in full and describe it; every broken row is named.

    LOCATION is a folder, or the word sample.
    """
    import json

    from jobs.survey import survey

    with data_mistakes():
        found = survey(location, tokenizer)
    click.echo(json.dumps(found.as_dict(), ensure_ascii=False, indent=2) if as_json else "\n".join(found.lines()))


@data.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--train", multiple=True, required=True, metavar="FILE", help="SQuAD, DRCD or CMRC JSON, or hub:NAME.")
@click.option("--valid", multiple=True, metavar="FILE", help="Likewise.")
@click.option("--test", multiple=True, metavar="FILE", help="Likewise.")
@click.option("--valid-share", default=0.0, show_default=True, help="Of train's questions, by whole articles.")
@click.option("--test-share", default=0.0, show_default=True, help="Likewise.")
@click.option("--distractors", type=click.Choice(["article", "bm25"]), default="article", show_default=True)
@click.option("--candidates", default=4, show_default=True, help="Paragraphs of a question.")
@click.option("--seed", default=0, show_default=True)
def convert(
    output: Path, train: tuple[str, ...], valid: tuple[str, ...], test: tuple[str, ...], **options: Any
) -> None:
    """Write the questions of published corpora to the folder OUTPUT, with distractor paragraphs."""
    from jobs import assignment

    sources = {split: files for split, files in {"train": train, "valid": valid, "test": test}.items() if files}
    with data_mistakes():
        counts = assignment.convert(sources, output, **options)
    click.echo("\n".join(counts.lines()))
    click.echo(f"next: sweeper data check {output}", err=True)


@data.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="A new or empty folder.")
def sample(output: Path) -> None:
    """Write the built-in sample in the assignment's format."""
    from jobs.assignment import write_sample

    with data_mistakes():
        write_sample(output)
    click.echo(f"next: sweeper data check {output}", err=True)


@contextmanager
def data_mistakes() -> Iterator[None]:
    """What a job's own errors are for the command line."""
    from jobs.backbones import BackboneError
    from jobs.checkpoint import CheckpointError
    from jobs.data import DataError

    try:
        yield
    except DataError as error:
        raise DataFailure(error.lines) from None
    except BackboneError as error:
        raise EnvironmentFailure(f"backbone {error}") from None
    except CheckpointError as error:
        raise EnvironmentFailure(f"checkpoint {error}") from None


def show(*sheets: Sheet, form: str = "table") -> None:
    """Print tables in one of their forms."""
    from sweeper import sheet

    for one in sheets:
        if form == "table":
            view = sheet.rich_table(one)
            screen(view).print(view)
        else:
            click.echo({"md": sheet.markdown, "csv": sheet.csv_text}[form](one), nl=False)


def ledger_of(name: str) -> Ledger:
    """The ledger of a sweep that exists."""
    from sweeper.ledger import existing_storage, load_ledger
    from sweeper.stores import read_stores

    return load_ledger(existing_storage(read_stores().ledger), name)


@contextmanager
def terminal() -> Iterator[Console]:
    """For talk: standard error, through a copy of its descriptor that stays on the terminal while the
    original is sent to a log."""
    from rich.console import Console

    with os.fdopen(os.dup(2), "w", encoding="utf-8") as stream:
        yield Console(file=stream, highlight=False)


def screen(view: Table) -> Console:
    """For data: standard output, as wide as the table. A narrow terminal wraps lines, and nothing is cut."""
    from rich.console import Console

    console = Console(highlight=False, width=200)
    return Console(highlight=False, width=max(200, console.measure(view).maximum))

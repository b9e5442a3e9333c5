"""Define the command group, its error handling, and the helpers that several commands share.

Functions import heavy packages themselves, so that `sweeper --help` stays quick.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobs.files import DISK_ERRORS, disk_error_line, disk_errors
from sweeper.errors import ConfigError, DataFailure, EnvironmentFailure, Failure

if TYPE_CHECKING:
    from rich.console import Console

    from sweeper.cluster.capacity import Machine
    from sweeper.ledger.database import LedgerStorage
    from sweeper.ledger.ledger import Ledger
    from sweeper.results.table import Table

F = TypeVar("F", bound=Callable[..., Any])
INTERRUPTED = 130
MAX_COLUMNS = 100_000  # wider than any table, so that no line is cut
ENDINGS = (click.exceptions.Exit, click.exceptions.Abort, click.ClickException)  # click handles them itself
REFUSALS = (*DISK_ERRORS, errno.EMFILE, errno.ENFILE)


class Commands(click.Group):
    """End a failed or interrupted command with one line for each reason and with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Failure as failure:
            from sweeper.secrets import redacted

            for line in failure.lines:
                click.echo(redacted(line), err=True)
            ctx.exit(failure.exit_code)
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            click.echo(disk_error_line(error, "free disk space or raise the limit"), err=True)
            ctx.exit(EnvironmentFailure.exit_code)
        except KeyboardInterrupt as interrupt:
            click.echo("interrupted; finished work is kept, and the same command continues it", err=True)
            ctx.exit(getattr(interrupt, "exit_code", INTERRUPTED))
        except Exception as error:
            if isinstance(error, ENDINGS) or not (refusal := damaged_ledger_line()):
                raise
            click.echo(refusal, err=True)
            ctx.exit(EnvironmentFailure.exit_code)


def damaged_ledger_line() -> str | None:
    """Return the line that refuses a ledger whose sweeps cannot be read, after an unknown error.

    Return None if all can be read, or if there is no ledger yet: then the error has another cause.
    """
    from sweeper.ledger.database import damage_line
    from sweeper.ledger.lookup import unreadable_sweep
    from sweeper.storage.settings import read_stores

    try:
        address = read_stores().ledger
        problem = unreadable_sweep(ledger_storage())
    except ConfigError:
        return None
    except Failure as failure:
        return failure.lines[0]
    except Exception as error:
        problem = f"it cannot be read ({type(error).__name__})"
    return damage_line(address, f"malformed, {problem}") if problem else None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sweeper")
@click.pass_context
def main(context: click.Context) -> None:
    """Find the best Chinese question-answering models for a data set.

    Write a search space as one YAML file. `sweeper run` trains its trials in parallel, stops weak ones early,
    and prints a table.
    """
    from sweeper.process.environment import prepare_environment
    from sweeper.secrets import take_private
    from sweeper.storage.settings import read_stores

    take_private(os.environ)
    os.umask(0o077)  # only the owner may read records, checkpoints and logs
    print_utf8()
    refuse_deleted_folder()
    context.obj = prepare_environment(os.environ, lambda: read_stores().root)
    if "PYTHONWARNINGS" in context.obj:
        warnings.simplefilter("ignore")


def refuse_deleted_folder() -> None:
    """Raise EnvironmentFailure if the working directory was deleted while the shell stayed in it."""
    try:
        Path.cwd()
    except OSError as error:
        raise EnvironmentFailure(f"working directory: {error.strerror}; change to a folder that exists") from None


def print_utf8() -> None:
    """Print UTF-8, whatever the locale. Questions and paths are Chinese, which ASCII cannot express."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.encoding.lower() not in ("utf-8", "utf8"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


address_option = click.option(
    "--address",
    envvar="RAY_ADDRESS",
    metavar="HOST:PORT",
    help="Use the Ray cluster at this address; `auto` uses this machine's cluster (default: RAY_ADDRESS).",
)


@contextmanager
def machine_at(address: str | None) -> Iterator[Machine]:
    """Yield the CPUs and GPUs of this machine, or join the Ray cluster at `address` and yield the cluster's."""
    if not address:
        from sweeper.cluster.capacity import local_machine
        from sweeper.process.environment import FOREIGN_RAY, remove_foreign

        remove_foreign(os.environ, FOREIGN_RAY)
        yield local_machine()
        return
    from sweeper.cluster import nodes
    from sweeper.cluster.ray_session import joined_cluster

    with joined_cluster(address):
        yield nodes.cluster_machine()


@contextmanager
def data_mistakes() -> Iterator[None]:
    """Turn the errors of jobs into failures with an exit code."""
    from jobs.backbone.source import BackboneError
    from jobs.checkpoint import CheckpointError, WrongJobError
    from jobs.dataset.data import DataError

    try:
        with disk_errors(EnvironmentFailure, "free disk space or name another place"):
            yield
    except DataError as error:
        raise DataFailure(error.lines) from None
    except BackboneError as error:
        raise EnvironmentFailure(f"backbone {error}") from None
    except WrongJobError as error:
        raise ConfigError(f"checkpoint {error}") from None
    except CheckpointError as error:
        raise EnvironmentFailure(f"checkpoint {error}") from None


def table_forms(*forms: str, json: str = "Print one JSON object.") -> Callable[[F], F]:
    """Add the options --md, --csv, --json, --html and --table, as named in `forms`, which set `form`."""
    help_texts = {
        "md": "Print Markdown.",
        "csv": "Print comma-separated values.",
        "json": json,
        "html": "Print an HTML page with the table of one sweep.",
        "table": "Print a table for the terminal (the default).",
    }

    def decorate(command: F) -> F:
        for form in reversed((*forms, "table")):
            option = click.option(f"--{form}", "form", flag_value=form, default="table", help=help_texts[form])
            command = option(command)
        return command

    return decorate


def show(*tables: Table, form: str = "table", everything: str = "") -> None:
    """Print tables as `table`, `md` or `csv`. `everything` is the command that prints all columns of a wide table."""
    from rich.console import Console

    from sweeper.process.screen import screen_columns
    from sweeper.results import table as sheet

    if form != "table":
        click.echo("".join({"md": sheet.table_markdown, "csv": sheet.table_csv}[form](one) for one in tables), nl=False)
        return
    columns = screen_columns(sys.stdout)
    console = Console(highlight=False, width=MAX_COLUMNS)
    for one in tables:
        for part in sheet.terminal_lines(one, columns, everything):
            console.print(part, overflow="ignore", crop=False)


def echo_line(text: str, indent: int | None = None, err: bool = False) -> None:
    """Print a line of words, broken between them where the terminal is narrow; later parts have this indent."""
    from sweeper.process.screen import screen_columns, wrapped

    click.echo(wrapped(text, screen_columns(sys.stderr if err else sys.stdout), indent), err=err)


def ledger_storage() -> LedgerStorage:
    """Return the database of all ledgers. Raises ConfigError when there is none."""
    from sweeper.ledger.database import existing_storage
    from sweeper.storage.identity import places_of, stores_in_use
    from sweeper.storage.places import has_several_links
    from sweeper.storage.settings import read_stores

    stores = read_stores()
    if has_several_links(stores.ledger):  # in a copy made of hard links, an open ledger would be its original's
        stores = stores_in_use(stores)
    return existing_storage(stores.ledger, places_of(stores))


def ledger_storage_if_any() -> LedgerStorage | None:
    """Return the database of all ledgers, or None when there is none yet."""
    from sweeper.ledger.database import MissingLedger

    try:
        return ledger_storage()
    except MissingLedger:
        return None


def ledger_of(name: str) -> Ledger:
    """Return the ledger of an existing sweep."""
    from sweeper.ledger.ledger import load_ledger

    return load_ledger(ledger_storage(), name)


@contextmanager
def terminal(plain: bool = False) -> Iterator[Console]:
    """Yield a console on a copy of standard error, so that it still reaches the terminal when stderr goes to a log.

    `plain` switches off colours and live tables.
    """
    from rich.console import Console

    from sweeper.process.screen import screen_columns

    with os.fdopen(os.dup(2), "w", encoding="utf-8") as stream:
        # rich would take COLUMNS=0 for the width
        columns = screen_columns(stream) if "COLUMNS" in os.environ else None
        yield Console(file=stream, highlight=False, force_terminal=False if plain else None, width=columns)

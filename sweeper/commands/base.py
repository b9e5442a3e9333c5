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
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobs.files import DISK_ERRORS, disk_error_line, disk_errors
from sweeper.errors import ConfigError, DataFailure, EnvironmentFailure, Failure

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from rich.console import Console
    from rich.table import Table as RichTable

    from sweeper.cluster.capacity import Machine
    from sweeper.ledger.ledger import Ledger
    from sweeper.results.table import Table

F = TypeVar("F", bound=Callable[..., Any])
INTERRUPTED = 130
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


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sweeper")
@click.pass_context
def main(context: click.Context) -> None:
    """Find the best Chinese question-answering models for a data set.

    Write a search space as one YAML file. `sweeper run` trains its trials in parallel, stops weak ones early,
    and prints a table.
    """
    from sweeper.process.environment import prepare_environment
    from sweeper.storage.settings import read_stores

    os.umask(0o077)  # only the owner may read records, checkpoints and logs
    print_utf8()
    context.obj = prepare_environment(os.environ, lambda: read_stores().root)
    if "PYTHONWARNINGS" in context.obj:
        warnings.simplefilter("ignore")


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
    from jobs.checkpoint import CheckpointError, WrongJobError
    from jobs.dataset.data import DataError
    from jobs.model.backbones import BackboneError

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


def show(*tables: Table, form: str = "table") -> None:
    """Print tables as `table`, `md` or `csv`."""
    from sweeper.results import table as sheet

    for one in tables:
        if form == "table":
            view = sheet.rich_table(one)
            screen(view).print(view)
        else:
            click.echo({"md": sheet.table_markdown, "csv": sheet.table_csv}[form](one), nl=False)


def ledger_storage() -> RDBStorage:
    """Return the database of all ledgers. Raises ConfigError when there is none."""
    from sweeper.ledger.database import existing_storage
    from sweeper.storage.settings import read_stores

    return existing_storage(read_stores().ledger)


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

    with os.fdopen(os.dup(2), "w", encoding="utf-8") as stream:
        yield Console(file=stream, highlight=False, force_terminal=False if plain else None)


def screen(view: RichTable) -> Console:
    """Return a console on standard output that is as wide as the table, so that no cell is cut."""
    from rich.console import Console

    unlimited = Console(highlight=False, width=100_000)
    return Console(highlight=False, width=max(200, unlimited.measure(view).maximum))

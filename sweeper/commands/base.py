"""Define the command group, its error handling, and what several commands share.

Heavy packages are imported inside the functions that need them, so that `sweeper --help` stays quick.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from jobs.files import DISK_ERRORS, disk_error_line, disk_errors
from sweeper.errors import DataFailure, EnvironmentFailure, Failure

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from rich.console import Console
    from rich.table import Table as RichTable

    from sweeper.cluster.capacity import Machine
    from sweeper.ledger.ledger import Ledger
    from sweeper.results.table import Table

INTERRUPTED = 130
REFUSALS = (*DISK_ERRORS, errno.EMFILE, errno.ENFILE)


class Commands(click.Group):
    """Ends a command that fails, or is interrupted, with one line for each reason and its exit code."""

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
            click.echo("interrupted; nothing that was finished is lost, and the same command goes on", err=True)
            ctx.exit(getattr(interrupt, "exit_code", INTERRUPTED))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sweeper")
def main() -> None:
    """Find the best Chinese question-answering models for a data set.

    Write a search space as one YAML file; `sweeper run` trains its trials side by side, stops weak ones
    early, and ends with a table.
    """
    os.umask(0o077)  # records, checkpoints and logs are their owner's alone


address_option = click.option(
    "--address",
    envvar="RAY_ADDRESS",
    metavar="HOST:PORT",
    help="Use the Ray cluster there, or `auto`: the one this machine is part of. Also from RAY_ADDRESS.",
)


@contextmanager
def machine_at(address: str | None) -> Iterator[Machine]:
    """What trials can have: this machine, or the cluster at an address, of which this process is part meanwhile."""
    if not address:
        from sweeper.cluster.capacity import local_machine

        yield local_machine()
        return
    from sweeper.cluster import nodes
    from sweeper.cluster.ray_session import joined_cluster

    with joined_cluster(address):
        yield nodes.cluster_machine()


@contextmanager
def data_mistakes() -> Iterator[None]:
    """What a job's own errors are for the command line."""
    from jobs.checkpoint import CheckpointError
    from jobs.dataset.data import DataError
    from jobs.model.backbones import BackboneError

    try:
        with disk_errors(EnvironmentFailure, "free disk space or name another place"):
            yield
    except DataError as error:
        raise DataFailure(error.lines) from None
    except BackboneError as error:
        raise EnvironmentFailure(f"backbone {error}") from None
    except CheckpointError as error:
        raise EnvironmentFailure(f"checkpoint {error}") from None


def show(*tables: Table, form: str = "table") -> None:
    """Print tables in one of their forms."""
    from sweeper.results import table as sheet

    for one in tables:
        if form == "table":
            view = sheet.rich_table(one)
            screen(view).print(view)
        else:
            click.echo({"md": sheet.table_markdown, "csv": sheet.table_csv}[form](one), nl=False)


def ledger_storage() -> RDBStorage:
    """The database of all ledgers, which must be there."""
    from sweeper.ledger.database import existing_storage
    from sweeper.storage.settings import read_stores

    return existing_storage(read_stores().ledger)


def ledger_of(name: str) -> Ledger:
    """The ledger of a sweep that exists."""
    from sweeper.ledger.ledger import load_ledger

    return load_ledger(ledger_storage(), name)


@contextmanager
def terminal(plain: bool = False) -> Iterator[Console]:
    """For talk: standard error, through a copy of its descriptor that stays on the terminal while the
    original is sent to a log. `plain`: as in a file, without colours and live tables."""
    from rich.console import Console

    with os.fdopen(os.dup(2), "w", encoding="utf-8") as stream:
        yield Console(file=stream, highlight=False, force_terminal=False if plain else None)


def screen(view: RichTable) -> Console:
    """For data: standard output, as wide as the table. A narrow terminal wraps lines, and nothing is cut."""
    from rich.console import Console

    console = Console(highlight=False, width=200)
    return Console(highlight=False, width=max(200, console.measure(view).maximum))

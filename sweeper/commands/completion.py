"""Complete names for the shell: search spaces, sweeps, jobs and folders.

A completion runs at each press of a key. It reads files only, creates none, and stays silent about what is wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from jobs import JOBS

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def completer(names: Callable[[], Iterable[str]], otherwise: str | None = None) -> Completer:
    """Return a function for `shell_complete` that offers the names with the typed beginning.

    otherwise  what the shell itself completes if no name begins so: "file" or "dir"
    """

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        found: list[str] = []
        with suppress(Exception):  # a message would be printed into the line that is being typed
            found = sorted({name for name in names() if name.startswith(typed) and name.isprintable()})
        if found or otherwise is None:
            return [CompletionItem(name) for name in found]
        return [CompletionItem(typed, type=otherwise)]

    return complete


def space_names() -> list[str]:
    """Return the YAML files of the current folder, and the names of the search spaces that are found by name."""
    from sweeper.space.reading import shipped_folder

    here = [path.name for path in Path().glob("*.yaml")]
    return here + [path.stem for folder in (Path("search_spaces"), shipped_folder()) for path in folder.glob("*.yaml")]


def recorded_sweeps() -> list[str]:
    """Return the names of the sweeps in a ledger that is a SQLite file; a server is not asked.

    Raises ConfigError, sqlite3.Error or OSError.
    """
    from sweeper.storage.settings import read_stores

    scheme, _, address = read_stores().ledger.partition(":///")
    if scheme != "sqlite":
        return []
    file = Path(address.partition("?")[0]).as_uri()
    # `immutable` keeps SQLite from creating journals and from waiting for a driver that writes.
    with closing(sqlite3.connect(f"{file}?mode=ro&immutable=1", uri=True)) as database:
        # Importing Optuna takes too long here. Its table and column are private (optuna 5.0).
        return [str(name) for (name,) in database.execute("SELECT study_name FROM studies")]


complete_space = completer(space_names, "file")
complete_sweep = completer(recorded_sweeps)
complete_job = completer(lambda: JOBS)
complete_folder = completer(lambda: (), "dir")

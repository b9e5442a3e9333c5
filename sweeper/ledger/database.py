"""The database of all ledgers: a SQLite file or PostgreSQL, opened as Optuna's storage, its failures told in a line."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from urllib.parse import quote

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from jobs.files import causes, free_space_text
from sweeper.errors import ConfigError, EnvironmentFailure, Failure
from sweeper.secrets import redacted
from sweeper.storage import postgres
from sweeper.storage.files import BUSY, create_whole

MEMORY = ":memory:"
SMALLEST_PAGE = 512  # bytes; SQLite has no smaller database
CURES = {
    "malformed": "put a copy of it in its place; or move it away, and sweeps begin afresh beside their old checkpoints",
    "not a database": "name another file, or put a copy of the ledger in its place",
    "locked": "end the process that holds it and run the same command again: what was written is safe",
    "Too many open files": "raise the limit with `ulimit -n 4096`",
}
DATABASE_ERRORS = (DBAPIError, optuna.exceptions.StorageInternalError, sqlite3.Error)

optuna.logging.set_verbosity(optuna.logging.WARNING)


@contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Turns what a database says of itself into an EnvironmentFailure of one line, also where Ray Tune has put it
    into an error of its own, as it does with what its callbacks raise."""
    try:
        yield
    except Failure:
        raise
    except Exception as error:
        if failure := next((one for one in causes(error) if isinstance(one, Failure)), None):
            raise failure from error
        database = next((one for one in causes(error) if isinstance(one, DATABASE_ERRORS)), None)
        if database is None and not isinstance(error, OSError):
            raise
        shown = make_url(url).render_as_string(hide_password=True)
        told = (database or error).__cause__ or database or error
        cause = redacted(str(getattr(told, "orig", told))).splitlines()[0]
        raise EnvironmentFailure(f"ledger {shown}: {cause}; {_database_cure(cause, url)}") from error


def _database_cure(cause: str, url: str) -> str:
    file = _file(url)
    known = next((cure for word, cure in CURES.items() if word in cause), None)
    if known:
        return known
    left = f" ({free_space_text(file.parent)})" if file else ""
    return f"check that it can be reached, is writable and not full{left}; what was written is safe, run it again then"


def _file(url: str) -> Path | None:
    """The file of a SQLite address."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", MEMORY):
        return None
    return Path(str(parsed.database))


def open_storage(url: str) -> RDBStorage:
    """The database of all ledgers, created if it is not there. Raises EnvironmentFailure, also for a file that
    was cut short: SQLite takes an empty one for a new database, and all trials would be gone without a word."""
    file = _file(url)
    with database_errors(url):
        if file is not None:
            create_whole(file, lambda address: _open_url(address).engine.dispose())
            if problem := torn(file, _patience(url)):
                raise EnvironmentFailure(f"ledger {file}: {problem}; {_database_cure(problem, url)}")
        return _open_url(url)


def _patience(url: str) -> float:
    """Seconds to wait for a locked SQLite file: BUSY, unless the address says `?timeout=SECONDS`."""
    return float(str(make_url(url).query.get("timeout", BUSY)))


def _open_url(url: str) -> RDBStorage:
    shared = postgres.is_postgres(url)
    waiting = postgres.settings(url) if shared else {"timeout": _patience(url)}
    try:
        # sweeps that start at once would make the same tables
        with postgres.database_lock(url, "ledger") if shared else nullcontext():
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True, "connect_args": waiting})
    except RuntimeError as error:  # its tables are those of another version of Optuna
        shown = make_url(url).render_as_string(hide_password=True)
        cure = f"copy it, then `optuna storage upgrade --storage {shown}`, or install the Optuna that made it"
        raise EnvironmentFailure(f"ledger {shown}: {str(error).splitlines()[0].rstrip('. ')}; {cure}") from error


def torn(file: Path, patience: float = BUSY) -> str | None:
    """What shows that a SQLite file is not whole, or None. SQLite itself reads the missing end of its last page
    as zeros, and takes a file of one byte for a new database."""
    size = file.stat().st_size
    if size < SMALLEST_PAGE:
        return f"file is not a database, with {size} bytes"
    with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=patience)) as connection:
        page = int(connection.execute("PRAGMA page_size").fetchone()[0])
        if size % page:
            return f"malformed, cut short within a page, at {size} bytes"
        found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0]).splitlines()
    return None if found == ["ok"] else f"malformed, {found[-1]}"


def existing_storage(url: str) -> RDBStorage:
    """The same, for commands that only read. Raises ConfigError where nothing has been run yet."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise ConfigError(
            f"ledger {parsed.database}: not there; run a sweep first, or look from the folder where it was run"
        )
    return open_storage(url)

"""Open the database of all ledgers (SQLite or PostgreSQL) as an Optuna storage, and raise its errors in one line."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from jobs.files import causes, free_space_text
from sweeper.errors import ConfigError, EnvironmentFailure, Failure
from sweeper.secrets import redacted
from sweeper.storage import postgres
from sweeper.storage.files import BUSY_SECONDS, create_whole
from sweeper.storage.places import Home, Places

MEMORY = ":memory:"
JSON_TABLES = (
    "trial_user_attributes",
    "trial_system_attributes",
    "study_user_attributes",
    "study_system_attributes",
)
DATE = "({0} IS NULL OR {0} GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9] [0-9][0-9]:[0-9][0-9]:[0-9][0-9]*')"
MIN_DATABASE_BYTES = 512  # the smallest page of SQLite
CURES = {
    "malformed": "restore a backup; or move the file away to start all sweeps anew",
    "not a database": "name another file, or restore a backup",
    "locked": "end the process that holds it and run the same command again; all written data is safe",
    "Too many open files": "raise the limit with `ulimit -n 4096`",
}
# Tables of optuna 5.0, SQL conditions of rows that are damaged, and what is wrong with them.
DAMAGED_ROWS = (
    *(
        (table, "NOT json_valid(value_json) AND NOT is_json(value_json)", "a value that is no JSON")
        for table in JSON_TABLES
    ),
    ("trial_params", "NOT json_valid(distribution_json) AND NOT is_json(distribution_json)", "a value that is no JSON"),
    ("trials", "state NOT IN ('RUNNING', 'COMPLETE', 'PRUNED', 'FAIL', 'WAITING')", "an unknown state"),
    ("trials", f"NOT ({DATE.format('datetime_start')} AND {DATE.format('datetime_complete')})", "an unknown date"),
    ("study_directions", "direction NOT IN ('MINIMIZE', 'MAXIMIZE', 'NOT_SET')", "an unknown direction"),
    ("trial_values", "value_type NOT IN ('FINITE', 'INF_POS', 'INF_NEG')", "an unknown kind of value"),
    (
        "trial_intermediate_values",
        "intermediate_value_type NOT IN ('FINITE', 'INF_POS', 'INF_NEG', 'NAN')",
        "an unknown kind of value",
    ),
    (
        "trials",
        "state IN ('COMPLETE', 'PRUNED')"
        " AND study_id IN (SELECT study_id FROM study_user_attributes WHERE key = 'ready')"
        " AND 2 > (SELECT count(*) FROM trial_user_attributes AS own"
        " WHERE own.trial_id = trials.trial_id AND own.key IN ('key', 'params'))",
        "a finished trial without its parameters",
    ),
    (
        "studies",
        "study_id IN (SELECT study_id FROM study_user_attributes WHERE key = 'ready')"
        " AND 5 > (SELECT count(*) FROM study_user_attributes AS own WHERE own.study_id = studies.study_id"
        " AND own.key IN ('job', 'data_fingerprint', 'objective', 'metrics', 'search_space'))",
        "a sweep without its search space, data or job",
    ),
)
DATABASE_ERRORS = (DBAPIError, optuna.exceptions.StorageInternalError, sqlite3.Error)

optuna.logging.set_verbosity(optuna.logging.WARNING)


@contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Raise a database error as an EnvironmentFailure of one line.

    Also finds an error that another one wraps, because Ray Tune wraps the errors of its callbacks.
    """
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
        source = (database or error).__cause__ or database or error
        cause = redacted(str(getattr(source, "orig", source))).splitlines()[0]
        raise EnvironmentFailure(f"ledger {shown}: {cause}; {_database_cure(cause, url)}") from error


def damage_line(url: str, problem: str) -> str:
    """Return the line that refuses a damaged database."""
    shown = _file(url) or make_url(url).render_as_string(hide_password=True)
    return f"ledger {shown}: {problem}; {_database_cure(problem, url)}"


def _database_cure(cause: str, url: str) -> str:
    file = _file(url)
    known = next((cure for word, cure in CURES.items() if word in cause), None)
    if known:
        return known
    left = f" ({free_space_text(file.parent)})" if file else ""
    return f"check that it can be reached, is writable and not full{left}, then run it again; all written data is safe"


def _file(url: str) -> Path | None:
    """Return the file of a SQLite address, None for any other."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", MEMORY):
        return None
    return Path(str(parsed.database))


class LedgerStorage(RDBStorage):
    """Hold the database of all ledgers together with the folders that its addresses refer to."""

    places: Places


def open_storage(url: str, places: Places | None = None) -> LedgerStorage:
    """Open the database; create it if it is missing.

    `places` resolves the addresses in it; by default the folder of a SQLite file is the root.

    Raises EnvironmentFailure when this fails or a SQLite file is truncated. SQLite would open an empty file as a new
    database, and the loss of all trials would go unnoticed.
    """
    file = _file(url)
    with database_errors(url):
        if file is not None:
            # Undocumented in optuna 5.0: `engine`, since RDBStorage has no method that closes its connections.
            create_whole(file, lambda address: _open_url(address).engine.dispose())
            if problem := file_damage(file, _lock_timeout(url)):
                raise EnvironmentFailure(damage_line(url, problem))
        storage = _open_url(url)
    storage.places = places or _default_places(file)
    return storage


def _default_places(file: Path | None) -> Places:
    root = file.absolute().parent if file else Path.cwd()
    return Places(Home(root, root.parent))


def _lock_timeout(url: str) -> float:
    """Return the seconds to wait for a locked SQLite file: BUSY_SECONDS, unless the address has `?timeout=SECONDS`."""
    return float(str(make_url(url).query.get("timeout", BUSY_SECONDS)))


def _open_url(url: str) -> LedgerStorage:
    shared = postgres.is_postgres(url)
    waiting = postgres.settings(url) if shared else {"timeout": _lock_timeout(url)}
    try:
        # without the lock, sweeps that start at the same time would create the same tables
        with postgres.database_lock(url, "ledger") if shared else nullcontext():
            return LedgerStorage(url, engine_kwargs={"pool_pre_ping": True, "connect_args": waiting})
    except RuntimeError as error:  # another version of Optuna created the tables
        shown = make_url(url).render_as_string(hide_password=True)
        cure = f"copy it, then `optuna storage upgrade --storage {shown}`, or install the Optuna that made it"
        raise EnvironmentFailure(f"ledger {shown}: {str(error).splitlines()[0].rstrip('. ')}; {cure}") from error


def file_damage(file: Path, timeout: float = BUSY_SECONDS) -> str | None:
    """Describe the damage of a SQLite file; None if it is undamaged.

    SQLite does not report all truncated files: it reads the missing end of a page as zeros, and opens a file of one
    byte as a new database.
    """
    size = file.stat().st_size
    if size < MIN_DATABASE_BYTES:
        return f"file is not a database, with {size} bytes"
    with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=timeout)) as connection:
        connection.text_factory = partial(str, encoding="utf-8", errors="replace")  # a damaged name is no valid text
        connection.create_function("is_json", 1, is_json, deterministic=True)
        page = int(connection.execute("PRAGMA page_size").fetchone()[0])
        if size % page:
            return f"malformed, cut short within a page, at {size} bytes"
        try:
            found = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0]).splitlines()
            problem = found[-1] if found != ["ok"] else content_damage(connection)
        except UnicodeDecodeError:  # from SQLite's own message
            problem = "its schema has a damaged name"
    return f"malformed, {problem}" if problem else None


def is_json(text: Any) -> bool:
    """Return True if Python reads a text as JSON. Unlike SQLite, it allows NaN and Infinity."""
    try:
        json.loads(text)
    except (TypeError, ValueError):
        return False
    return True


def content_damage(connection: sqlite3.Connection) -> str | None:
    """Describe rows that SQLite takes for valid, but that no sweep can have written; None if there are none."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not {table for table, _, _ in DAMAGED_ROWS} <= tables:
        return None  # another program's database, or one that is being created
    broken = connection.execute("PRAGMA foreign_key_check").fetchone()
    if broken:
        return f"a row of {broken[0]} belongs to nothing"
    rows = (
        (table, connection.execute(f"SELECT 1 FROM {table} WHERE {condition} LIMIT 1").fetchone(), what)
        for table, condition, what in DAMAGED_ROWS
    )
    return next((f"{table} has {what}" for table, row, what in rows if row), None)


class MissingLedger(ConfigError):
    """Report that no sweep has been run here."""


def existing_storage(url: str, places: Places | None = None) -> LedgerStorage:
    """Open the database for a command that only reads. Raises MissingLedger if there is none yet."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise MissingLedger(
            f"ledger {parsed.database}: not found; run a sweep first, or change to the folder where one was run"
        )
    return open_storage(url, places)

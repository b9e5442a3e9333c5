"""What a PostgreSQL address needs beyond SQLAlchemy: its driver, an end to waiting, and locks that all machines see.

The locks are PostgreSQL's advisory ones: the server frees them when the connection that holds them ends, as it does
with its process. A pooler that gives one connection to many sessions, as pgbouncer in transaction mode, breaks them.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sweeper.errors import EnvironmentFailure

# libpq's own: without them a host that vanishes is waited for until the kernel gives up, after a quarter of an hour
WAITING = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# the same for the server, whose locks would outlive a host that vanishes
SERVER_WAITING = {"tcp_keepalives_idle": 15, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3}
TURN = "60s"
PULSE = 5.0  # seconds between looks at whether a lock is still ours
LONGEST_NAME = 63  # bytes PostgreSQL keeps of an application's name


class LockTaken(Exception):
    """Another connection holds the lock; `owner` says whose."""

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.owner = owner


def is_postgres(url: str) -> bool:
    return make_url(url).get_backend_name() == "postgresql"


def settings(url: str) -> dict[str, Any]:
    """What to connect with, but for what the address itself says. Raises EnvironmentFailure without a driver."""
    parsed = make_url(url)
    try:
        parsed.get_dialect().import_dbapi()
    except ImportError as error:
        shown = parsed.render_as_string(hide_password=True)
        package = "psycopg[binary]" if error.name == "psycopg" else error.name
        raise EnvironmentFailure(
            f"{shown}: its driver {error.name} is not installed; pip install '{package}'"
        ) from None
    libpq = parsed.get_dialect().driver.startswith("psycopg")
    return {name: value for name, value in WAITING.items() if libpq and name not in parsed.query}


@contextmanager
def database_lock(url: str, what: str) -> Iterator[None]:
    """One at a time, over all machines: `what` is being done. Others wait."""
    with _own_connection(url) as connection:
        connection.execute(text(f"SET lock_timeout = '{TURN}'"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": lock_number(what)})
        yield


@contextmanager
def hold_lock(url: str, what: str, lost: Callable[[], None], pulse: float = PULSE) -> Iterator[None]:
    """Hold the lock on `what`, and call `lost`, from a thread, as soon as it is seen to be gone. Raises Taken."""
    with _own_connection(url) as connection:
        if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": lock_number(what)}):
            raise LockTaken(_holder(connection, lock_number(what)))
        with _watch_connection(connection, lost, pulse):
            yield


def lock_number(what: str) -> int:
    """The number by which PostgreSQL knows a lock, in the 64 bits of its bigint."""
    return int.from_bytes(hashlib.blake2b(what.encode(), digest_size=8).digest(), signed=True)


def own_name() -> str:
    """What other sessions see of this one.

    >>> own_name()
    'sweeper 4711 on workstation'
    """
    return f"sweeper {os.getpid()} on {socket.gethostname()}".encode()[:LONGEST_NAME].decode(errors="ignore")


@contextmanager
def _own_connection(url: str) -> Iterator[Connection]:
    """A connection of its own, never in a transaction."""
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=settings(url))
    with engine.connect() as connection:
        connection.execute(text("SELECT set_config('application_name', :name, false)"), {"name": own_name()})
        for name, value in SERVER_WAITING.items():
            connection.execute(text(f"SET {name} = {value}"))
        try:
            yield connection
        finally:
            with suppress(SQLAlchemyError):  # the server does so too, but somewhat later
                connection.execute(text("SELECT pg_advisory_unlock_all()"))


@contextmanager
def _watch_connection(connection: Connection, lost: Callable[[], None], pulse: float) -> Iterator[None]:
    over = threading.Event()

    def look() -> None:
        while not over.wait(pulse):
            try:
                connection.execute(text("SELECT 1"))
            except DBAPIError:
                lost()
                return

    watcher = threading.Thread(target=look, name="lock", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _holder(connection: Connection, number: int) -> str:
    """Who holds a lock, as `own_name` puts it. It may have been freed meanwhile."""
    found = connection.scalar(
        text(
            "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
            "AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND ((classid::bigint << 32) | objid::bigint) = :key"
        ),
        {"key": number},
    )
    return str(found or "unknown").removeprefix("sweeper ")

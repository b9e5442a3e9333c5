"""Connect to PostgreSQL with timeouts and hold advisory locks, which all machines see.

The server frees a lock when the holder's connection ends. The locks do not work through a pooler that shares a
connection between sessions, such as pgbouncer in transaction mode.
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

# libpq settings in seconds, the last in milliseconds. By default the kernel waits 15 minutes for a host that is gone.
CLIENT_TIMEOUTS = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# The server's settings in seconds. By default the server would keep the lock of a host that is gone for hours.
SERVER_TIMEOUTS = {"tcp_keepalives_idle": 15, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3}
LOCK_TIMEOUT = "60s"
PULSE_SECONDS = 5.0  # time between two checks that the connection still holds its lock
NAME_BYTES = 63  # PostgreSQL cuts longer application names


class LockTaken(Exception):
    """Report that another connection holds the lock; `owner` names its process."""

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.owner = owner


def is_postgres(url: str) -> bool:
    return make_url(url).get_backend_name() == "postgresql"


def settings(url: str) -> dict[str, Any]:
    """Return the timeouts that the address does not set. Raises EnvironmentFailure if its Python driver is missing."""
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
    return {name: value for name, value in CLIENT_TIMEOUTS.items() if libpq and name not in parsed.query}


@contextmanager
def database_lock(url: str, what: str) -> Iterator[None]:
    """Hold the lock named `what`. If another process on any machine holds it, wait up to LOCK_TIMEOUT."""
    with _own_connection(url) as connection:
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": lock_number(what)})
        yield


@contextmanager
def hold_lock(url: str, what: str, lost: Callable[[], None], pulse: float = PULSE_SECONDS) -> Iterator[None]:
    """Hold the lock named `what`. A thread calls `lost` if the connection breaks.

    Raises LockTaken at once if another process holds the lock.
    """
    with _own_connection(url) as connection:
        if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": lock_number(what)}):
            raise LockTaken(_holder(connection, lock_number(what)))
        with _watch_connection(connection, lost, pulse):
            yield


def lock_number(what: str) -> int:
    """Return the 64-bit number that identifies a lock in PostgreSQL."""
    return int.from_bytes(hashlib.blake2b(what.encode(), digest_size=8).digest(), signed=True)


def own_name() -> str:
    """Return the application name that other sessions see for this process.

    >>> own_name()
    'sweeper 4711 on workstation'
    """
    return f"sweeper {os.getpid()} on {socket.gethostname()}".encode()[:NAME_BYTES].decode(errors="ignore")


@contextmanager
def _own_connection(url: str) -> Iterator[Connection]:
    """Open a separate connection in autocommit mode and release its locks at the end."""
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=settings(url))
    with engine.connect() as connection:
        connection.execute(text("SELECT set_config('application_name', :name, false)"), {"name": own_name()})
        for name, value in SERVER_TIMEOUTS.items():
            connection.execute(text(f"SET {name} = {value}"))
        try:
            yield connection
        finally:
            with suppress(SQLAlchemyError):  # without this the server would release them later
                connection.execute(text("SELECT pg_advisory_unlock_all()"))


@contextmanager
def _watch_connection(connection: Connection, lost: Callable[[], None], pulse: float) -> Iterator[None]:
    over = threading.Event()

    def check_connection() -> None:
        while not over.wait(pulse):
            try:
                connection.execute(text("SELECT 1"))
            except DBAPIError:
                lost()
                return

    watcher = threading.Thread(target=check_connection, name="lock", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _holder(connection: Connection, number: int) -> str:
    """Return the process that holds a lock, or `unknown` if the lock is already free."""
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

"""Adapt the databases of a copied or moved root: MLflow's absolute addresses, and files shared by hard links."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from jobs.files import atomic
from sweeper.storage.files import BUSY_SECONDS
from sweeper.storage.places import Places, local_path, sqlite_file
from sweeper.storage.settings import Stores

# Private in mlflow 3.17: tables and columns with absolute addresses of files. MLflow has no method that changes them.
ADDRESS_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
CHECKPOINT = re.compile(r"(?P<root>/.*)/[^/]+/trials/\d{4,}/checkpoint-\d+")
ARTIFACTS = "artifacts"  # folder below the root


def relocate_addresses(database: Path, places: Places) -> None:
    """Change the addresses in MLflow's database that lie below former folders, in one transaction.

    Raises sqlite3.Error.
    """
    with _decoding(), closing(sqlite3.connect(database, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        known = _columns(connection)
        for table, column in ADDRESS_COLUMNS:
            if (table, column) in known:
                found = connection.execute(f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL")
                changes = [(places.present(old), old) for (old,) in found.fetchall()]
                connection.executemany(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", changes)
        connection.execute("COMMIT")


def _columns(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    query = "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'"
    return set(connection.execute(query))


@contextmanager
def _decoding() -> Iterator[None]:
    """Raise the errors that a damaged database causes in Python's decoding as sqlite3.Error, like all others."""
    try:
        yield
    except ValueError as error:
        raise sqlite3.DatabaseError(f"damaged: {error}") from error


def recorded_roots(stores: Stores) -> set[Path]:
    """Return the roots that a root's own databases name, for a root without an identity. Version 0.1.0 stored
    absolute addresses of checkpoints; MLflow stores the artifacts' folder.

    Returns no root for a missing or damaged database, or for one outside the root and the project folder.
    """
    found: set[Path] = set()
    for address, roots in ((stores.ledger, _ledger_roots), (stores.tracking, _mlflow_roots)):
        file = sqlite_file(address)
        if file and file.is_file() and any(map(file.is_relative_to, (stores.root, stores.project))):
            try:
                with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as connection:
                    found |= set(roots(connection))
            except (sqlite3.Error, ValueError):  # the command that opens the database reports the damage
                continue
    return found


def _ledger_roots(connection: sqlite3.Connection) -> Iterator[Path]:
    # Private in optuna 5.0: the table of trials' attributes. Its interface reads every attribute of every trial.
    query = "SELECT value_json FROM trial_user_attributes WHERE key LIKE 'evaluation:%'"
    for (text,) in connection.execute(query):
        if match := CHECKPOINT.fullmatch(json.loads(text).get("checkpoint") or ""):
            yield Path(match["root"])


def _mlflow_roots(connection: sqlite3.Connection) -> Iterator[Path]:
    for (address,) in connection.execute("SELECT artifact_location FROM experiments"):
        path = local_path(address or "")
        if path and path.name == ARTIFACTS:
            yield path.parent


def separate_links(root: Path) -> None:
    """Replace files below the root that have several hard links by copies, since a copy made of links would share them
    with its original. Checkpoints are left alone, because their files never change."""
    for path in sorted(root.rglob("*")):
        linked = path.is_file() and not path.is_symlink() and path.stat().st_nlink > 1
        if linked and not any(parent.name.startswith("checkpoint-") for parent in path.parents):
            with atomic(path) as part:
                shutil.copy2(path, part)

"""Recognize a root that was copied or moved, by the identity that each root stores in `identity.json`.

A copy never writes to its original or deletes from it. Its ledger and MLflow database are its own. Where the two share
a store (an MLflow server, a folder or bucket of checkpoints), a mark keeps them apart.
"""

from __future__ import annotations

import json
import platform
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import Enum
from itertools import chain
from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter

from jobs import fault_injection
from jobs.files import atomic, disk_errors
from sweeper.errors import EnvironmentFailure
from sweeper.storage.checkpoint_store import join_address
from sweeper.storage.files import BUSY_SECONDS, create_folder
from sweeper.storage.places import Home, Places, sqlite_file
from sweeper.storage.relocation import recorded_roots, relocate_addresses, separate_links
from sweeper.storage.settings import Stores

FILE_NAME = "identity.json"
MARK_BYTES = 4


class Change(Enum):
    """Name the event since a root was last used.

    NEW      the root has not been used before
    SAME     nothing, or it is reached by another path
    MOVED    the folder was renamed
    CARRIED  the folder was replaced by a copy of itself, here or elsewhere; another copy may still be in use
    COPIED   the folder is a copy of one that may still be in use
    """

    NEW = "new"
    SAME = "same"
    MOVED = "moved"
    CARRIED = "carried"
    COPIED = "copied"


@dataclass(frozen=True)
class Identity:
    """Hold the identity of a root.

    id           differs from that of every other root, copies included
    root         the path under which the root was last used
    project      the project folder at that time
    inode        the folder's inode number, which a rename keeps and a copy does not
    machine      the machine on which it was last used
    former       pairs of root and project folder where these records were before
    runs         mark of the sweeps' runs in a shared MLflow; empty for a root that is no copy
    checkpoints  mark of the folder for checkpoints outside the root; empty for a root that is no copy
    """

    id: str
    root: str
    project: str
    inode: int
    machine: str
    former: tuple[tuple[str, str], ...] = ()
    runs: str = ""
    checkpoints: str = ""

    @property
    def home(self) -> Home:
        return Home(Path(self.root), Path(self.project))


def places_of(stores: Stores) -> Places:
    """Return the places of a root's records. Writes nothing."""
    known = _read_identity(stores.root)
    if known is None:
        return _places(stores, _first_identity(stores, _former_homes(stores)))
    return _places(stores, _here(known, stores))


def stores_in_use(stores: Stores) -> Stores:
    """Return the stores for a command that writes. A new root gets its identity; a copied or moved one is adapted.

    A copy stores its checkpoints below another address than its original, unless they are inside its own folders.
    Raises EnvironmentFailure when the root is not writable or MLflow's database cannot be changed.
    """
    with _failures(stores.root):
        create_folder(stores.root)
        known = _read_identity(stores.root)
        if known is None or _here(known, stores) != known:
            with FileLock(stores.root / f"{FILE_NAME}.lock", timeout=BUSY_SECONDS):
                known = _adapt(stores)
    return replace(stores, checkpoints=_places(stores, known).checkpoints)


@contextmanager
def _failures(root: Path) -> Iterator[None]:
    try:
        with disk_errors(EnvironmentFailure, "make it writable, or name another folder in [storage] root", root):
            yield
    except sqlite3.Error as error:
        raise EnvironmentFailure(
            f"{root}: was copied or moved, and MLflow's addresses cannot be changed ({error}); free or repair the "
            "database"
        ) from None


def _adapt(stores: Stores) -> Identity:
    """Write the root's new identity, after the databases are adapted. Requires the lock.

    A killed process leaves the old identity, so the next one does the same again.
    """
    known, change = _read_identity(stores.root), Change.NEW
    if known is None:
        former = _former_homes(stores)
        change = _change_without_identity(former)
        settled = _first_identity(stores, former)
    else:
        change = _change_of(known, stores)
        settled = _here(known, stores)
    if settled == known:  # another process was faster
        return settled
    if change is not Change.NEW:
        separate_links(stores.root)
    if change is Change.COPIED:
        settled = replace(settled, id=_new_mark(), runs=_new_mark(), checkpoints=_new_mark())
    elif change is Change.CARRIED:
        settled = replace(settled, checkpoints=_new_mark())
    _relocate_mlflow(stores, _places(stores, settled), change)
    fault_injection.point("identity.write")
    with atomic(stores.root / FILE_NAME) as part:
        part.touch(mode=0o600)
        part.write_text(json.dumps(asdict(settled), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return settled


def _relocate_mlflow(stores: Stores, places: Places, change: Change) -> None:
    file = sqlite_file(stores.tracking)
    if not places.former or file is None or not file.is_file():
        return
    moved = change is not Change.COPIED and any(map(file.is_relative_to, places.here))
    if moved or places.holds(str(file)):
        relocate_addresses(file, places)


def _change_of(known: Identity, stores: Stores) -> Change:
    """Compare a root's identity with its path, its inode and this machine."""
    root, inode = stores.root, stores.root.stat().st_ino
    elsewhere = known.machine != platform.node() and known.inode != inode
    if Path(known.root) == root or _same_folder(Path(known.root), root):
        return Change.CARRIED if elsewhere else Change.SAME
    if _is_in_use(Path(known.root), known.id):
        return Change.COPIED
    if known.inode == inode:
        return Change.MOVED
    return Change.COPIED if elsewhere else Change.CARRIED


def _change_without_identity(former: tuple[Home, ...]) -> Change:
    if not former:
        return Change.NEW
    return Change.COPIED if any(_is_in_use(home.root, None) for home in former) else Change.CARRIED


def _is_in_use(root: Path, identity: str | None) -> bool:
    """Return True if there is a root at this path, with this identity if one is given.

    A folder that this user may not read also counts, since the original may be another user's.
    """
    try:
        if identity is None:
            return root.is_dir() and any(root.iterdir())
        text = (root / FILE_NAME).read_text(encoding="utf-8")
    except PermissionError:
        return True
    except OSError:
        return False
    found = _parse_identity(text)
    return found is None or found.id == identity


def _same_folder(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _here(known: Identity, stores: Stores) -> Identity:
    """Return the identity with the folders in use; the earlier folders become former ones."""
    change, home = _change_of(known, stores), Home(stores.root, stores.project)
    if (change is Change.SAME and known.home.root != home.root) or (known.home == home and change is Change.SAME):
        return known
    former = dict.fromkeys([*known.former, (known.root, known.project)])
    former.pop((str(home.root), str(home.project)), None)
    return replace(
        known,
        root=str(home.root),
        project=str(home.project),
        inode=stores.root.stat().st_ino,
        machine=platform.node(),
        former=tuple(former),
    )


def _first_identity(stores: Stores, former: tuple[Home, ...]) -> Identity:
    return Identity(
        id=_new_mark(),
        root=str(stores.root),
        project=str(stores.project),
        inode=stores.root.stat().st_ino if stores.root.exists() else 0,
        machine=platform.node(),
        former=tuple((str(home.root), str(home.project)) for home in former),
    )


def _former_homes(stores: Stores) -> tuple[Home, ...]:
    """Return where a root without identity was before. Its project folder was the root's parent folder by default."""
    roots = [root for root in sorted(recorded_roots(stores)) if not _same_folder(root, stores.root)]
    return tuple(Home(root, root.parent) for root in roots if root != stores.root)


def _places(stores: Stores, identity: Identity) -> Places:
    former = tuple(Home(Path(root), Path(project)) for root, project in identity.former)
    places = Places(Home(stores.root, stores.project), former, mark=identity.checkpoints)
    if identity.runs and _shares_mlflow(stores, places):
        places = replace(places, runs=identity.runs)
    address = stores.checkpoints
    folder = f"copy-{identity.checkpoints}"
    if address and identity.checkpoints and not address.endswith(f"/{folder}") and not places.holds(address):
        address = join_address(address, folder)
    return replace(places, checkpoints=address)


def _shares_mlflow(stores: Stores, places: Places) -> bool:
    """Return True unless MLflow's database and its artifacts lie inside the copy's own folders."""
    file = sqlite_file(stores.tracking)
    return file is None or not places.holds(str(file)) or not places.holds(stores.artifacts or "")


def _new_mark() -> str:
    return secrets.token_hex(MARK_BYTES)


def _read_identity(root: Path) -> Identity | None:
    """Return a root's identity; None if it has none, or a damaged one."""
    try:
        return _parse_identity((root / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def _parse_identity(text: str) -> Identity | None:
    try:
        found = TypeAdapter(Identity).validate_json(text)
    except ValueError:
        return None
    return None if any("\0" in path for path in (found.root, found.project, *chain(*found.former))) else found

"""Resolve the addresses in a project's records against the folders in use, since projects are copied and moved."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

TRIAL_CHECKPOINT = re.compile(r"[^/]+/trials/\d{4,}/[^/]+")  # relative to the root


class Home(NamedTuple):
    """Hold the root folder of the records and the project folder, which often contains it, as absolute paths."""

    root: Path
    project: Path


@dataclass(frozen=True)
class Places:
    """Resolve recorded addresses against the folders in use.

    here         the folders in use
    former       folders that these records were in before they were copied or moved
    runs         mark of a copy that shares MLflow's store with its original; empty otherwise
    mark         mark of a root whose checkpoints elsewhere may belong to another root; empty otherwise
    checkpoints  folder or s3:// address where this root stores checkpoints, None if below the root
    """

    here: Home
    former: tuple[Home, ...] = ()
    runs: str = ""
    mark: str = ""
    checkpoints: str | None = None

    @property
    def root(self) -> Path:
        return self.here.root

    def stored_checkpoint(self, address: str | None) -> str | None:
        """Return an address for the ledger: relative to the root if it is in a trial's folder there.

        >>> places.stored_checkpoint("/project/sweeps/hill/trials/0003/checkpoint-000001")
        'hill/trials/0003/checkpoint-000001'
        """
        below = (address or "").removeprefix(f"{self.root}/")
        return below if TRIAL_CHECKPOINT.fullmatch(below) else address

    def checkpoint(self, stored: str | None, sweep: str, number: int) -> str | None:
        """Return the address of a checkpoint that the ledger holds for trial `number` of `sweep`.

        Version 0.1.0 stored absolute addresses. One that ends in the trial's folder and the checkpoint's name was
        below the root, so it is below the root in use now.
        """
        folder = f"{sweep}/trials/{number:04d}/"
        before, found, name = (stored or "").rpartition(folder)
        if found and "/" not in name and (not before or (before.endswith("/") and "://" not in before)):
            return f"{self.root}/{folder}{name}"
        return stored and self.present(stored)

    def data_in_project(self, data: str) -> str | None:
        """Return the path of a data folder relative to the project folder; None if it is elsewhere."""
        path = Path(data)
        if not path.is_absolute() or self._holder(path) not in self.here:
            return None
        return str(path.relative_to(self.here.project)) if path.is_relative_to(self.here.project) else None

    def data(self, recorded: str, in_project: str | None = None) -> str:
        """Return the data folder of the project in use if it exists there, else the recorded one.

        `in_project` is the value of `data_in_project` when the folder was recorded.
        """
        own = self.here.project / in_project if in_project else None
        return str(own) if own and own.exists() else self.present(recorded)

    def present(self, address: str) -> str:
        """Return the present address of a file or folder that was recorded at `address`, a path or a URL.

        An address below a former root is below the root in use. One below a former project folder is below the project
        folder in use if it exists there. Any other address is returned unchanged.
        """
        path = local_path(address) if self.former else None
        if path is None:
            return address
        for holder, target, certain in self._moves(path):
            found = target / path.relative_to(holder)
            if certain or found.exists():
                return found.as_uri() if "://" in address or address.startswith("file:") else str(found)
        return address

    def _moves(self, path: Path) -> Iterator[tuple[Path, Path, bool]]:
        """Yield former folders that contain `path`, the folder in use for each, and True for a root. The innermost
        first; ends at a folder in use."""
        moves = {home.project: (self.here.project, False) for home in self.former}
        moves |= {home.root: (self.root, True) for home in self.former}
        for folder in path.parents:
            if folder in self.here:
                return
            if folder in moves:
                yield folder, *moves[folder]

    def _holder(self, path: Path) -> Path | None:
        """Return the innermost folder, in use or former, that contains `path`."""
        known = {folder for home in (self.here, *self.former) for folder in home}
        return next((folder for folder in path.parents if folder in known), None)

    def holds(self, address: str) -> bool:
        """Return True for a path or URL below the folders in use that no former folder shares."""
        path = local_path(address)
        holder = path and self._holder(path)
        shared = {home.project for home in self.former}
        return holder == self.root or (holder == self.here.project and holder not in shared)

    def owns(self, checkpoint: str) -> bool:
        """Return True if this root may delete the checkpoint and write beside it.

        A copy owns the checkpoints below its folders and those that it has stored elsewhere itself.
        """
        inside = self.checkpoints is not None and checkpoint.startswith(f"{self.checkpoints}/")
        return not self.mark or inside or self.holds(checkpoint)


def local_path(address: str) -> Path | None:
    """Return the path of an absolute path or of a `file:` URL, None for any other address."""
    path = url2pathname(urlsplit(address).path) if address.startswith("file:") else address
    return Path(os.path.normpath(path)) if path.startswith("/") else None


def sqlite_file(address: str) -> Path | None:
    """Return the file of a SQLite address, None for any other address."""
    path = address.removeprefix("sqlite:///").partition("?")[0]
    return Path(path) if address.startswith("sqlite:///") and path not in ("", ":memory:") else None


def has_several_links(address: str) -> bool:
    """Return True if the file of a SQLite address has another hard link, for example in a copy of its folder."""
    file = sqlite_file(address)
    return file is not None and file.is_file() and file.stat().st_nlink > 1

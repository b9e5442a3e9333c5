"""Keep the modules of the user's working directory from hiding our packages or a library.

Python, PYTHONPATH and Ray may each put the working directory first on `sys.path`. Here it comes last, in the command
and in trials. This module imports little, since any import before `order_import_path` may load a user's file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, MutableMapping

# The folder that holds the packages `sweeper` and `jobs`.
HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def order_import_path(environ: MutableMapping[str, str] = os.environ) -> None:
    """Move the working directory to the end of `sys.path`, and leave it out of PYTHONPATH, which processes inherit.

    A developer who names sweeper's own folder in PYTHONPATH keeps it where it is.
    """
    entries = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    kept = [entry for entry in entries if os.path.isabs(entry)]
    if not (is_here(HOME) and any(map(is_here, kept))):
        kept = [entry for entry in kept if not is_here(entry)]
        sys.path[:] = [entry for entry in sys.path if not is_here(entry)]
    kept += [os.path.abspath(entry) for entry in entries if not os.path.isabs(entry) and not is_here(entry)]
    environ.pop("PYTHONPATH", None)
    if kept:
        environ["PYTHONPATH"] = os.pathsep.join(kept)
    append_folders(user_folders())


def is_here(entry: str) -> bool:
    """Return True if an entry of `sys.path` is the working directory."""
    try:
        return os.path.realpath(entry or os.curdir) == os.path.realpath(os.getcwd())
    except OSError:  # the working directory was deleted
        return entry in ("", os.curdir)


def user_folders() -> tuple[str, ...]:
    """Return the folders that hold a job of the user's own.

    These are the working directory and, within a package, the folder that holds the package.
    """
    try:
        here = os.getcwd()
    except OSError:
        return ()
    root = here
    while os.path.isfile(os.path.join(root, "__init__.py")):
        root = os.path.dirname(root)
    return (here,) if root == here else (here, root)


def append_folders(folders: Iterable[str]) -> None:
    """Append the folders that `sys.path` lacks."""
    sys.path.extend(folder for folder in folders if folder not in sys.path)


def library_path() -> list[str]:
    """Return `sys.path` without the working directory, which stays only if it holds sweeper itself."""
    return [entry for entry in sys.path if entry and (not is_here(entry) or is_here(HOME))]


def hiding_module(name: str) -> str | None:
    """Return the file of the library that hides the user's module `name`; None if there is no such library."""
    from importlib.util import find_spec

    top = name.partition(".")[0]
    if not any(os.path.exists(os.path.join(folder, file)) for folder in user_folders() for file in (top, f"{top}.py")):
        return None
    spec = find_spec(top)
    origin = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
    return origin if origin and not is_users(origin) else None


def is_users(file: str) -> bool:
    """Return True if a file lies in a folder from which a job of the user's own is imported."""
    folders = [os.path.realpath(folder) for folder in user_folders()]
    return os.path.dirname(os.path.realpath(file).removesuffix("/__init__.py")) in folders

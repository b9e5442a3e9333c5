"""Search for the best Chinese question-answering models.

The package `jobs` that belongs to this one is always the one beside it, never a user's folder of that name.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder

_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class OwnJobsFinder:
    """Find the package `jobs` beside this package, ahead of all other finders."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [_FOLDER]) if name == "jobs" else None


sys.meta_path.insert(0, OwnJobsFinder)

"""Collect the mistakes of a search-space file, each with its line and key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.suggestions import short
from sweeper.errors import ConfigError

Key = tuple[str | int, ...]
MAX_LINES = 50


@dataclass(frozen=True)
class Mistake:
    place: str
    key: Key
    text: str

    def line(self, path: Path) -> str:
        """Format the mistake as `file:line: dotted.key: what is wrong; cure`."""
        where = f"{path}:{self.place}" if self.place.isdecimal() else f"{path}: {self.place}"
        return ": ".join(part for part in (where, dotted(tuple(map(_key_text, self.key))), self.text) if part)

    @property
    def order(self) -> float:
        return float(self.place) if self.place.isdecimal() else float("inf")


class Mistakes:
    """Collect the mistakes of one file, so that all are reported together.

    >>> note = Mistakes(Path("qa.yaml"), {("search", "trials"): "7"})
    >>> note(("search", "trials"), "found 0; must be at least 1")
    >>> note.raise_any()                # ConfigError: qa.yaml:7: search.trials: found 0; must be at least 1
    """

    def __init__(self, path: Path, lines: Mapping[Key, str]) -> None:
        self._path = path
        self._lines = lines
        self._found: dict[Mistake, None] = {}

    def __call__(self, key: Key, text: str, place: str | None = None) -> None:
        """Record a mistake at `key`. If the file lacks the key, the mistake has the line of the closest parent key."""
        ancestors = (key[:depth] for depth in range(len(key), -1, -1))
        found = next((self._lines[ancestor] for ancestor in ancestors if ancestor in self._lines), "1")
        self._found[Mistake(found if place is None else place, key, text)] = None

    def __len__(self) -> int:
        return len(self._found)

    def under(self, *sections: str) -> bool:
        """Return True if one of the top-level `sections` has a mistake."""
        return any(mistake.key[:1] == (section,) for mistake in self._found for section in sections)

    def lines(self) -> list[str]:
        """Return one line for each mistake in the order of the file, overrides last. Shows at most MAX_LINES."""
        ordered = sorted(self._found, key=lambda m: m.order)
        more = [f"{self._path}: … and {len(ordered) - MAX_LINES} more mistakes"] if len(ordered) > MAX_LINES else []
        return [mistake.line(self._path) for mistake in ordered[:MAX_LINES]] + more

    def raise_any(self) -> None:
        """Raise ConfigError if there is a mistake."""
        if self._found:
            raise ConfigError(self.lines())


def dotted(key: Key) -> str:
    """Return a key in the dotted form of overrides. Unusual names are quoted, so that spaces are visible."""
    return ".".join(part if re.fullmatch(r"[\w/@+-]+", part := str(segment)) else repr(part) for segment in key)


def _key_text(part: str | int) -> str | int:
    return short(part) if isinstance(part, str) else part

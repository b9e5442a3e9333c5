"""Shorten values for messages and find the nearest right word for an unknown one."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping

from rapidfuzz import fuzz, process


def shown(value: object) -> str:
    """A value as a message shows it: short, on one line, in YAML's words."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return short(text if text.isprintable() else json.dumps(value, default=str))


def short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def unknown_name(what: str, name: str, known: Iterable[str], homes: Mapping[str, str] | None = None) -> str:
    """One line about a name that is not among `known`: the nearest right one, and all of them.

    `homes` tells where else a name would be right: "under search".

    >>> unknown("key", "trails", ["sampler", "trials"])
    "unknown key 'trails'; did you mean 'trials'? known here: sampler, trials"
    """
    names = sorted(known)
    if homes and name in homes:
        return f"unknown {what} {short(name)!r} here; it belongs {homes[name]}"
    hint = f"did you mean {near!r}? " if (near := nearest(name, names)) else ""
    return f"unknown {what} {short(name)!r}; {hint}known here: {', '.join(names)}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name most like `name`, whatever its case and width, or None when none is like it."""
    found = process.extractOne(name, list(known), scorer=fuzz.ratio, processor=_folded, score_cutoff=55)
    return found[0] if found else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()

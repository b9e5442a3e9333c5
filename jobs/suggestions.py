"""Shorten values for messages, and suggest a known name in place of an unknown one."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping

from rapidfuzz import fuzz, process

MAX_CHARS = 60
MAX_NAMES = 40
MIN_SIMILARITY = 55  # percent; less similar names are not suggested, because they would mislead
MISSPELT_SIMILARITY = 85  # percent; a more similar name is the one that is meant


def shown(value: object) -> str:
    """Return a value as one short line of JSON, for use in a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return short(text if text.isprintable() else json.dumps(value, default=str))


def short(text: str) -> str:
    """Return the text, cut to MAX_CHARS characters."""
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"


def unknown_name(what: str, name: str, known: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> str:
    """Return one line about a name that is not in `known`, with the most similar known name and all others.

    `elsewhere` maps a name to the place in which it is allowed: "under search". A known name of almost the same
    spelling takes precedence over it.

    >>> unknown_name("key", "trails", ["sampler", "trials"])
    "unknown key 'trails'; did you mean 'trials'? known here: sampler, trials"
    """
    names = list(known)
    if elsewhere and name in elsewhere and not nearest(name, names, MISSPELT_SIMILARITY):
        return f"unknown {what} {short(name)!r} here; it belongs {elsewhere[name]}"
    return f"unknown {what} {short(name)!r}; {suggestion(name, names)}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the most similar known name as a question, then all known names.

    >>> suggestion("trails", ["sampler", "trials"])
    "did you mean 'trials'? known here: sampler, trials"
    """
    names = sorted(known)
    hint = f"did you mean {near!r}? " if (near := nearest(name, names)) else ""
    more = f", … ({len(names) - MAX_NAMES} more)" if len(names) > MAX_NAMES else ""
    return f"{hint}known here: {', '.join(names[:MAX_NAMES]) or 'none'}{more}"


def nearest(name: str, known: Iterable[str], similarity: float = MIN_SIMILARITY) -> str | None:
    """Return the known name most similar to `name`, or None if none reaches `similarity` (in percent).

    Ignores case and character width.
    """
    found = process.extractOne(name, list(known), scorer=fuzz.ratio, processor=_folded, score_cutoff=similarity)
    return found[0] if found else None


def nearest_part(part: str, known: Iterable[str]) -> str | None:
    """Return the known name with the part most similar to `part`, or None if none is similar. Ignores case."""
    found = process.extractOne(
        part, list(known), scorer=fuzz.partial_ratio, processor=_folded, score_cutoff=MIN_SIMILARITY
    )
    return found[0] if found else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()

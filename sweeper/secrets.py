"""Replace passwords, tokens and keys in text by ***."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from typing import Any

# bounded repetitions avoid quadratic time for a long text without spaces
_USERINFO = re.compile(r"(?i)(\w://[^\s:/@]{0,200}):\S{0,2000}@|(https?://)[^\s:/@]{1,2000}@")
_WORD = r"(?:token|passw(?:or)?d|secret|credentials?|authorization|(?:api|access|private)[_-]?key)"
_NAMED = re.compile(
    rf"""(?ix) ( --[\w-]{{0,40}}{_WORD}[=\s]\s*
              | {_WORD}["']?\s*[=:]\s*["']?(?:(?:basic|bearer)\s+)?
              ) [^\s"',;&}}]+"""
)

_SHAPES = re.compile(
    r"\b(?:hf_\w{16,}|gh[oprsu]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|sk-[\w-]{20,}|AKIA[A-Z0-9]{16}"
    r"|eyJ[\w-]{8,}\.[\w-]+\.[\w-]+)"
)

_SECRET_NAME = re.compile(r"(?i)passw(?:or)?d|secret|credential|(?:api|access|private)[_-]?key|token$")
_MIN_SECRET_CHARS = 8
NOTIFY_URL = "SWEEPER_NOTIFY_URL"
PRIVATE = (NOTIFY_URL,)  # variables that no process which this one starts may see
_private: dict[str, str] = {}


def take_private(environ: MutableMapping[str, str]) -> None:
    """Move the variables in PRIVATE from `environ`, which trials and servers inherit, to this process's memory.

    `redacted` hides their values from then on.
    """
    _private.clear()
    for name in PRIVATE:
        if value := environ.pop(name, ""):
            _private[name] = value


def private_value(name: str, environ: MutableMapping[str, str] = os.environ) -> str | None:
    """Return the value of a variable in PRIVATE, and take it if it is still in `environ`; None if it is not set."""
    if value := environ.pop(name, ""):
        _private[name] = value
    return _private.get(name)


def redacted(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """Replace secrets in `text` by ***, so that it is safe to print, log and store.

    >>> redacted("postgresql://me:hunter2@db/mlflow")
    'postgresql://me:***@db/mlflow'

    Secrets are passwords in URLs, values after a name like `password=`, tokens with a well-known prefix, and values
    of environment variables with a secret's name or in PRIVATE.
    """
    for name, value in environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _MIN_SECRET_CHARS:
            text = text.replace(value, "***")
    for value in _private.values():
        text = text.replace(value, "***") if len(value) >= _MIN_SECRET_CHARS else text
    text = _USERINFO.sub(lambda match: f"{match[1]}:***@" if match[1] else f"{match[2]}***@", text)
    return _SHAPES.sub("***", _NAMED.sub(r"\1***", text))


def redacted_values(values: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return `values` with strings redacted and values under a secret's name replaced by ***.

    >>> redacted_values({"hf_token": "abc", "tokenizer": "bert", "seed": 1})
    {'hf_token': '***', 'tokenizer': 'bert', 'seed': 1}
    """

    def hide(key: str, value: Any) -> Any:
        if _SECRET_NAME.search(key):
            return "***"
        return redacted(value, environ) if isinstance(value, str) else value

    return {key: hide(key, value) for key, value in values.items()}

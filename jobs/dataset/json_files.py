"""Read JSON and text files of data sets, and describe their mistakes in lines. Standard library only."""

from __future__ import annotations

import json
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_LINES = 20  # of one error; the others are counted
OTHER_FILES = {  # what is wrong with a file, by its first bytes
    b"\x1f\x8b": "gzip-compressed; unpack it first",
    b"BZh": "bzip2-compressed; unpack it first",
    b"\xfd7zXZ\0": "xz-compressed; unpack it first",
    b"\x28\xb5\x2f\xfd": "zstd-compressed; unpack it first",
    b"PK\x03\x04": "a ZIP archive, or a spreadsheet; unpack it, or save it as text in UTF-8",
    b"\xff\xfe\0\0": "is in UTF-32, not UTF-8; save it in UTF-8",
    b"\0\0\xfe\xff": "is in UTF-32, not UTF-8; save it in UTF-8",
    b"\xff\xfe": "is in UTF-16, not UTF-8; save it in UTF-8",
    b"\xfe\xff": "is in UTF-16, not UTF-8; save it in UTF-8",
}


class DataError(ValueError):
    """Reports mistakes in a data set: `lines` has one line for each mistake, with file, row and id."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


def read_json(path: Path) -> Any:
    """Read one JSON file in UTF-8, with or without a byte order mark.

    Raises DataError with one line that names the file. Duplicate keys and NaN are errors too.
    """
    mistakes: list[str] = []
    content = json_content(path, mistakes)
    refuse(mistakes)
    return content


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark. Raises DataError with one line that names it."""
    try:
        return _regular_file_text(path)
    except (OSError, ValueError) as error:
        raise DataError([f"{path}: {getattr(error, 'strerror', None) or error}; check the path and the file"]) from None


def refuse(mistakes: Sequence[str]) -> None:
    """Raise DataError if there are mistakes; it shows the first of them and counts the rest."""
    if mistakes:
        more = len(mistakes) - MAX_LINES
        raise DataError([*mistakes[:MAX_LINES], *([f"… and {more} more"] if more > 0 else [])])


def json_content(path: Path, mistakes: list[str]) -> Any:
    """Return the content of one JSON file; on an error, append a line to `mistakes` and return an empty list."""
    try:
        return json.loads(_regular_file_text(path), object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
    except json.JSONDecodeError as error:
        mistakes.append(f"{path}:{error.lineno}: not JSON: {error.msg}; {_json_cure(path, error)}")
    except RecursionError:
        mistakes.append(f"{path}: nested too deeply to be a list of questions")
    except (OSError, ValueError) as error:
        mistakes.append(f"{path}: {getattr(error, 'strerror', None) or error}")
    return []


def _regular_file_text(path: Path) -> str:
    """Return the text of a regular file. Refuses a pipe, which would block, and a device, which never ends."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError("not a regular file; write the data to one")
    raw = path.read_bytes()
    for begin, problem in OTHER_FILES.items():
        if raw.startswith(begin):
            raise ValueError(problem)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte {error.start} is not UTF-8; convert the file, for instance from Big5 or GB18030"
        ) from None


def _json_cure(path: Path, error: json.JSONDecodeError) -> str:
    if not error.doc.strip():
        return "the file is empty"
    if error.msg == "Extra data":
        return "one JSON list is expected, not a value per line"
    return "is the file complete?" if error.pos >= len(error.doc.rstrip()) else f"correct column {error.colno}"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    values = dict(pairs)
    if len(values) < len(keys):
        twice = next(key for key, count in Counter(keys).items() if count > 1)
        raise ValueError(f"key {quoted(twice)} twice in one object{id_note(values)}; keep one")
    return values


def id_note(row: Any) -> str:
    return f" (id {quoted(row['id'])})" if isinstance(row, dict) and "id" in row else ""


def _no_constants(name: str) -> None:
    raise ValueError(f"{name} is not JSON; write a number or null")


def quoted(value: Any) -> str:
    """Return a value as one short line for a message."""
    text = json_kind(value) if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def json_kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", type(None): "null"}
    return names.get(type(value), "a number")

"""Read a YAML file with dotted overrides into plain values and the line of each key, and write values as YAML.

Accepts a strict subset of YAML 1.2: no anchors, tags, merge keys, duplicate keys or second document. `reading`
interprets the keys.
"""

from __future__ import annotations

import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jobs.suggestions import shown
from sweeper.errors import ConfigError
from sweeper.space.mistakes import Key, Mistakes

MAX_BYTES = 1_000_000
MAX_DEPTH = 16
MAX_INTEGER = 2**63 - 1
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_FOREIGN = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x00\x00\xfe\xff": "UTF-32",
}


@dataclass(frozen=True)
class Document:
    """Hold a file's values with overrides applied.

    lines  the origin of each key: a line number, "12", or an override, "override 'search.trials=2'"
    """

    path: Path
    values: dict[str, Any]
    lines: Mapping[Key, str]


def read_document(path: Path, overrides: Sequence[str] = ()) -> Document:
    """Read a YAML file and apply `dotted.key=value` overrides in order.

    >>> read_document(Path("qa.yaml"), ["search.trials=2"]).values["search"]["trials"]
    2

    Raises ConfigError with one line for each mistake.
    """
    return parse_document(_read_yaml_text(path), path, overrides)


def parse_document(text: str, path: Path, overrides: Sequence[str] = ()) -> Document:
    """Parse the text of a YAML file and apply overrides. Messages name `path`."""
    lines: dict[Key, str] = {}
    note = Mistakes(path, lines)
    values = _values(text, (), lines, note)
    if values is not None and not isinstance(values, dict):
        note((), f"the file holds {kind_of(values)}, not a mapping; write `key: value` lines", place="1")
    values = values if isinstance(values, dict) else {}
    for override in overrides:
        _override(override, values, lines, note)
    note.raise_any()
    if not values:
        raise ConfigError(f"{path}: is empty; write name, job, data, objective, parameters and search")
    return Document(path, values, lines)


def plain_scalar(text: str) -> str | int | float | bool | None:
    """Return the value of an unquoted scalar by YAML 1.2's core schema, with decimal numbers only.

    >>> [plain_scalar(text) for text in ("1e-5", "no", "010", "1:30", "true", "~")]
    [1e-05, 'no', '010', '1:30', True, None]

    Raises ValueError for a whole number beyond 64 bits.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return float(text.replace(".", "")) if _NOT_FINITE.fullmatch(text) else text


def yaml_text(values: dict[str, Any], *, block: bool = False) -> str:
    """Write plain values as YAML from which `read_document` reads the same values; with `block`, one key a line."""
    style = False if block else None
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=style, width=120)


class _Dumper(yaml.SafeDumper):
    """Quote text that `plain_scalar` would not read as text, and write no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if _is_text(text) else '"')


def _is_text(scalar: str) -> bool:
    with suppress(ValueError):
        return isinstance(plain_scalar(scalar), str)
    return False


_Dumper.add_representer(str, _represent_text)


def _integer(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > MAX_INTEGER:
        raise ValueError(f"a whole number of {len(text.lstrip('+-'))} digits is too large; use at most 18 digits")
    return int(text)


def kind_of(value: object) -> str:
    """Return the kind of a value in words: "a list"."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")


def _read_yaml_text(path: Path) -> str:
    raw = _bytes(path)
    for mark, name in _FOREIGN.items():
        if raw.startswith(mark):
            raise ConfigError(f"{path}: the file is {name}; save it as UTF-8")
    if (zero := raw.find(b"\0")) >= 0:
        raise ConfigError(f"{path}:{_line_of(raw, zero)}: holds a NUL byte; save the file as plain UTF-8 text")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = _line_of(raw, error.start)
        raise ConfigError(f"{path}:{line}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def _bytes(path: Path) -> bytes:
    """Read a regular file of at most MAX_BYTES. Refuse pipes and devices, since reading them may never end."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise ConfigError(f"{path}: is {what}; name a YAML file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read ({cause}); check its path and permissions") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than 1 MB; a search space has a few dozen lines: is it the right file?")
    return raw


def _line_of(raw: bytes | str, position: int) -> int:
    before = raw[:position]
    return 1 + (before.count(b"\n") if isinstance(before, bytes) else before.count("\n"))


class _YamlError(Exception):
    """Signal that the parser cannot continue after a mistake."""

    def __init__(self, line: int, text: str, key: Key = ()) -> None:
        super().__init__(text)
        self.line, self.text, self.key = line, text, key


def _values(text: str, root: Key, lines: dict[Key, str], note: Mistakes, place: str | None = None) -> Any:
    """Parse a YAML text that belongs under the key `root`, into dicts, lists and scalars.

    Mistakes go to `note`, and the line of each key into `lines`. `place`, if given, stands there for the line.
    """
    reading = _Reading(text, lines, note, place)
    try:
        return reading.document(root)
    except _YamlError as error:
        note(error.key or root, error.text, place or str(error.line))
        return None


class _Reading:
    """Build values from parser events, so that forbidden YAML is refused before it is expanded.

    Methods call themselves once per nesting level of the document; MAX_DEPTH limits the levels.
    """

    def __init__(self, text: str, lines: dict[Key, str], note: Mistakes, place: str | None) -> None:
        self._events = _events(text)
        self._lines = lines
        self._note = note
        self._place = place

    def document(self, root: Key) -> Any:
        value = None
        for count, event in enumerate(e for e in self._events if isinstance(e, yaml.DocumentStartEvent)):
            if count:
                self._note(root, "a second document starts here; keep one document in the file", self._where(event))
                break
            start = next(self._events)
            self._lines.setdefault(root, self._where(start))
            value = self._node(start, root)
        return value

    def _where(self, event: yaml.Event) -> str:
        return self._place or str(_line(event))

    def _node(self, event: yaml.Event, key: Key) -> Any:
        if len(key) > MAX_DEPTH:
            raise _YamlError(
                _line(event),
                f"nested more than {MAX_DEPTH} levels deep; a search space needs about five",
                key[:2],
            )
        self._refuse_extras(event, key)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(key)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(key)
        return self._scalar(event, key) if isinstance(event, yaml.ScalarEvent) else None

    def _refuse_extras(self, event: yaml.Event, key: Key) -> None:
        if isinstance(event, yaml.AliasEvent):
            alias = f"*{event.anchor}"
            text = f'`{alias}` is a YAML alias, which is not read; if it is text, write "{alias}" in quotes'
            self._note(key, text, self._where(event))
        elif isinstance(event, yaml.NodeEvent) and event.anchor:
            self._note(
                key,
                f"the anchor &{event.anchor} is not read; write the value out where it is needed",
                self._where(event),
            )
        if tag := getattr(event, "tag", None):
            text = f"put {tag} in quotes" if tag.startswith("!=") else "write the plain value"
            self._note(key, f"the tag {shown(tag)} is not read; {text}", self._where(event))

    def _sequence(self, key: Key) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            item = (*key, len(items))
            self._lines[item] = self._where(event)
            items.append(self._node(event, item))
        return items

    def _mapping(self, key: Key) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            name = self._key(event, key)
            entry = (*key, name)
            if name in items:
                first = "" if self._place else f", first on line {self._lines[entry]}"
                self._note(entry, f"stands twice{first}; keep one of the two", self._where(event))
            else:
                self._lines[entry] = self._where(event)
            items[name] = self._node(next(self._events), entry)
        return items

    def _key(self, event: yaml.Event, key: Key) -> str:
        collection = isinstance(event, yaml.CollectionStartEvent)
        value = self._node(event, (*key, "?") if collection else key)
        if isinstance(event, yaml.ScalarEvent) and event.style is None and event.value == "<<":
            self._note(key, "the merge key << is not read; write the keys out", self._where(event))
        elif not isinstance(value, str) and not isinstance(event, yaml.AliasEvent):
            self._note(
                key,
                f"the key {shown(value)} is {kind_of(value)}, not text; put it in quotes",
                self._where(event),
            )
        return value if isinstance(value, str) else shown(value)

    def _scalar(self, event: yaml.ScalarEvent, key: Key) -> Any:
        text: str = event.value
        if any(unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t" for character in text):
            self._note(key, f"{shown(text)} holds a control character; remove it", self._where(event))
        if event.style is not None:
            return text
        try:
            return plain_scalar(text)
        except ValueError as error:
            self._note(key, str(error), self._where(event))
            return None


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _events(text: str) -> Iterator[yaml.Event]:
    """Yield PyYAML's events. Raises _YamlError for every error of its scanner."""
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        cause = f"character U+{int(error.character):04X} is not allowed in YAML; remove it"
        raise _YamlError(_line_of(text, error.position), cause) from None
    try:
        while loader.check_event():
            yield loader.get_event()  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _YamlError(mark.line + 1 if mark else 1, _syntax(error)) from None
    except (ValueError, OverflowError):
        # PyYAML's scanner passes an escape beyond Unicode, or a %YAML version of thousands of digits,
        # to chr() and int(), which raise these errors.
        raise _YamlError(loader.line + 1, "an escape or directive has an impossible number; remove it") from None


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = (error.problem or "unreadable").replace("\n", " ")
    if r"'\t'" in problem:
        return "a tab stands where YAML allows only spaces; indent with spaces"
    if "alias" in (error.context or ""):
        return 'text that begins with * needs quotes; write "*..."'
    if "character '>'" in problem or "tag" in (error.context or ""):
        return 'text that begins with > or ! needs quotes; write ">2" or "!=2"'
    if "mapping values are not allowed" in problem:
        return "a second `:` on this line, or wrong indentation; put text that holds `: ` in quotes"
    return f"not YAML: {problem}; check indentation, brackets and quotes here and on the line before"


def _override(text: str, values: dict[str, Any], lines: dict[Key, str], note: Mistakes) -> None:
    """Apply one `dotted.key=value`. The value is parsed as YAML."""
    name, equals, value = text.partition("=")
    shown_text = f"{name}=…" if name.strip().startswith("notify") else text  # it may hold a secret address
    place = f"override {shown_text!r}" if len(shown_text) <= 80 else f"override {shown_text[:79] + '…'!r}"
    path: list[str] = name.strip().split(".")
    if not equals or not all(path):
        note((), "is not dotted.key=value; write for instance search.trials=2", place)
    elif len(path) > MAX_DEPTH:
        note((), f"has more than {MAX_DEPTH} levels; a search space needs about five", place)
    else:
        _set(path, value, values, lines, note, place)


def _set(path: list[str], text: str, values: Any, lines: dict[Key, str], note: Mistakes, place: str) -> None:
    container: Any = values
    key: Key = ()
    for segment, following in zip(path, [*path[1:], None], strict=True):
        index = _index(container, segment)
        if index is None:
            note(key, f"is {kind_of(container)} without an entry {segment!r}; override the whole value", place)
            return
        key = (*key, index)
        if following is None:
            for old in [k for k in lines if k[: len(key)] == key]:
                del lines[old]
            lines[key] = place
            container[index] = _values(text, key, lines, note, place)
        elif isinstance(container, dict) and container.get(segment) is None:
            container[index] = {}
            lines[key] = place
        container = container[index]


def _index(container: Any, segment: str) -> str | int | None:
    """Return the key or index that `segment` names in a mapping or list, or None if a list has no such entry."""
    if isinstance(container, dict):
        return segment
    if isinstance(container, list) and re.fullmatch(r"[0-9]{1,6}", segment) and int(segment) < len(container):
        return int(segment)
    return None

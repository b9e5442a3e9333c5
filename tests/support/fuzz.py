"""What users write, mutated by libFuzzer (atheris): each input is read, or refused in lines of its own.

python -m tests.support.fuzz yaml FOLDER -max_total_time=60      FOLDER holds inputs to begin with
python -m tests.support.fuzz data INPUT                          one input again, such as a crash-… that was found
"""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["yaml", "json", "sweeper", "jobs"]):
    from jobs.answering.submission import read_answers
    from jobs.dataset.corpora import read_corpus
    from jobs.dataset.data import Data, DataError, read_data, read_unlabelled, references
    from sweeper.errors import ConfigError
    from sweeper.space.document import read_document
    from sweeper.space.reading import restored
    from sweeper.space.search_space import resolved, to_yaml
from tests.support.questions import GOOD, write

FOLDER = Path(tempfile.mkdtemp())
SPLITS = {name: write(FOLDER / name, GOOD) for name in ("context", "train", "test")}
WHOLE = read_data(str(write(FOLDER / "data", GOOD)))
LONGEST_LINE = 1_000
VALUES = [None, True, -1, 0, 4, 1e300, 10**30, "", " ", "0", "湖", "\ud800", "\0", [], {}, [0, 1], {"text": "湖"}]
TOKENS = re.compile(rb"[\w.\x80-\xff]+|\s+|.", re.DOTALL)
ODD = [
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"0",
    b"[]",
    b"{}",
    b'""',
    b"4",
    b".nan",
    b"9" * 5_000,
    b'"\\ud800"',
    b"[" * 40,
]


def assert_lines(lines: tuple[str, ...]) -> None:
    assert lines, "refused without a word"
    assert all(line and "\n" not in line and len(line) < LONGEST_LINE for line in lines), lines


def search_space(content: bytes) -> None:
    """A file is refused, or it is a space that its own YAML gives again."""
    path = FOLDER / "fuzzed.yaml"
    path.write_bytes(content)
    try:
        space = restored(read_document(path).values, "", "fuzzed.yaml")
    except ConfigError as error:
        assert_lines(error.lines)
        return
    path.write_text(to_yaml(space), encoding="utf-8")
    assert resolved(restored(read_document(path).values, "", "again.yaml")) == resolved(space)


def assert_labels(data: Data) -> None:
    for row in (*data.train, *data.valid):
        assert row.relevant is not None
        assert row.start is not None
        assert data.paragraphs[row.relevant].startswith(row.answer or "?", row.start)


def as_split(path: Path) -> None:
    """Taken for one file after another of a whole data set."""
    for name, folder in SPLITS.items():
        (folder / f"{name}.json").write_bytes(path.read_bytes())
        _refused_or(lambda folder=folder: assert_labels(read_data(str(folder))))


def _refused_or(reading: Callable[[], object]) -> None:
    try:
        reading()
    except DataError as error:
        assert_lines(error.lines)


def data_set(content: bytes) -> None:
    path = FOLDER / "fuzzed.json"
    path.write_bytes(content)
    as_split(path)
    _refused_or(lambda: references(WHOLE, path))
    _refused_or(lambda: read_unlabelled(FOLDER / "data" / "context.json", path))
    _refused_or(lambda: read_corpus(path))
    _refused_or(lambda: read_answers(path))
    table = path.with_suffix(".csv")
    table.write_bytes(content)
    _refused_or(lambda: read_answers(table))


def mutated(content: bytes, limit: int, seed: int) -> bytes:
    """Half of the time other bytes. Else what comes out is still JSON, with an entry taken out or exchanged, or
    mostly YAML, with such tokens."""
    chance = random.Random(seed)
    if chance.random() < 0.5:
        return bytes(atheris.Mutate(content, limit))
    try:
        return other_tree(json.loads(content), chance)[:limit]
    except (ValueError, RecursionError):
        return other_tokens(content, chance)[:limit]


def other_tree(tree: Any, chance: random.Random) -> bytes:
    holders = [holder for holder in containers(tree) if holder]
    for _ in range(chance.randint(1, 3) if holders else 0):
        holder = chance.choice(holders)
        places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if places and chance.random() < 0.5:
            holder.pop(chance.choice(places))
        elif places:
            holder[chance.choice(places)] = chance.choice(VALUES)
    return json.dumps(tree, ensure_ascii=chance.random() < 0.5).encode("utf-8", "replace")


def containers(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict | list):
        yield tree
        for inner in tree.values() if isinstance(tree, dict) else tree:
            yield from containers(inner)


def other_tokens(content: bytes, chance: random.Random) -> bytes:
    tokens = TOKENS.findall(content)
    for _ in range(chance.randint(1, 3) if tokens else 0):
        at = chance.randrange(len(tokens))
        tokens[at] = chance.choice([b"", tokens[at] * 2, chance.choice(tokens), chance.choice(ODD)])
    return b"".join(tokens)


TARGETS = {"yaml": search_space, "data": data_set}

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target, custom_mutator=mutated)
    atheris.Fuzz()

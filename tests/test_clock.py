"""Clocks jump: by an hour in spring, by a correction at any time. Nothing here may depend on what they say."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from optuna.storages._rdb import storage as optuna_storage

from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import create_ledger, load_ledger
from sweeper.ledger.ranking import best_first
from sweeper.space.search_space import SearchSpace
from tests.support.sources import module_path, source_files

WALL = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
FILE_TIMES = {"st_mtime", "st_ctime", "st_atime", "st_mtime_ns", "st_ctime_ns", "getmtime", "getctime"}
SHOWN = {  # the time of a point in MLflow that has none of its own, and when a sweep is expected to end
    ("sweeper/tracking/client.py", "log_values"),
    ("sweeper/monitor/remaining.py", "end_text"),
}
AGES = {  # a folder of an earlier version without a lock; after a jump of the clock its sockets still tell
    ("sweeper/cluster/ray_folder.py", "is_abandoned"),
}
COMPARED = {  # tells if a file of tokens is the one that was checked; after a jump of the clock it is checked again
    ("jobs/features/tokens.py", "_file_state"),
    ("jobs/features/tokens.py", "_open_entry"),
}


def looks(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each expression of a module that asks for the time of day or of a file, after the function it is in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        asked = ast.unparse(node)
        if any(asked.endswith(name) for name in WALL) or node.attr in FILE_TIMES:
            inside = [f for f in functions if f.lineno <= node.lineno <= (f.end_lineno or 0)]
            yield max(inside, key=lambda f: f.lineno).name if inside else "", asked


def test_only_what_is_shown_asks_for_the_time_of_day() -> None:
    found = [(module_path(path), *look) for path in source_files() for look in looks(path)]
    assert {(module, function) for module, function, _ in found} == SHOWN | COMPARED | AGES
    asked = {asked for module, _, asked in found if module.startswith("sweeper/")}
    assert asked == {"time.time", "datetime.now", "folder.lstat().st_mtime"}


def test_a_look_at_the_clock_would_be_found(tmp_path: Path) -> None:
    module = tmp_path / "cache.py"
    module.write_text("def old(path):\n    return time.time() - path.stat().st_mtime > 60\n")
    assert sorted(looks(module)) == [("old", "path.stat().st_mtime"), ("old", "time.time")]


def test_the_order_of_trials_is_that_of_their_numbers_whatever_the_clock_says(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour back after each trial, as if summer time ended again and again; all of them are equally good."""
    jumped = datetime(2026, 10, 25, 3, 0)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return jumped

    monkeypatch.setattr(optuna_storage, "datetime", Clock)
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    for _ in range(3):
        record = ledger.ask(space)
        assert record is not None
        jumped -= timedelta(hours=1)  # it ends before it began
        ledger.report(record.number, {"height": 0.5, "eval_loss": 0.5, "epoch": 4.0, "seconds": 7.0}, None)
        ledger.finish(record.number, "COMPLETE")
    records = load_ledger(open_storage(storage.url), "toy").records()
    begun = [record.started for record in records]
    assert begun == sorted(begun, reverse=True)  # the clock did jump
    assert all(record.ended < record.started for record in records if record.ended and record.started)
    assert [record.number for record in records] == [0, 1, 2]
    assert [record.seconds for record in records] == [7.0] * 3
    assert [record.number for record in best_first(records, "max")] == [0, 1, 2]

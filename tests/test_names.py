"""Check that each top-level function and class has a name of its own."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.support.sources import module_path, source_files

SHARED = {"train", "main"}  # contracts: each job has a `train`, each program a `main`


def duplicates(paths: Iterable[Path]) -> dict[str, set[Path]]:
    """Return the files of each name that several files define; leading underscores do not count."""
    found: dict[str, set[Path]] = defaultdict(set)
    for path in paths:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found[node.name.lstrip("_")].add(path)
    return {name: files for name, files in found.items() if len(files) > 1 and name not in SHARED}


def test_no_two_files_define_the_same_name() -> None:
    found = {name: sorted(map(module_path, files)) for name, files in duplicates(source_files()).items()}
    assert not found, f"rename all but one of each, or move them together: {found}"


def test_a_name_of_two_files_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def _best(): ...\ndef train(): ...\nclass A:\n    def same(self): ...\n")
    (tmp_path / "b.py").write_text("def best(): ...\ndef train(): ...\ndef same(): ...\n")
    assert duplicates(tmp_path.glob("*.py")) == {"best": {tmp_path / "a.py", tmp_path / "b.py"}}

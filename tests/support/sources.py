"""List the project's source files for the tests that read them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
FEWEST = {"sweeper": 70, "jobs": 30}  # files; fewer means that a test looks in the wrong place


def source_files() -> list[Path]:
    """Return all Python files of `sweeper` and `jobs`, in order. Fails if they are too few."""
    found: list[Path] = []
    for package, fewest in FEWEST.items():
        files = sorted((ROOT / package).rglob("*.py"))
        assert len(files) >= fewest, f"{package}: found {len(files)} files only"
        found += files
    return found


def module_path(path: Path) -> str:
    """Return a source file's path below the project's folder."""
    return path.relative_to(ROOT).as_posix()

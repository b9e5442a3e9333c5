"""Check who imports whom: the contracts are in pyproject.toml, under [tool.importlinter]."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "ray", "mlflow", "optuna", "datasets", "pandas"}


def test_imports_keep_the_contracts() -> None:
    command = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\nA new module or folder needs a layer in pyproject.toml."


@pytest.mark.parametrize(
    "module",
    [
        "sweeper.cli",
        "sweeper.space.search_space",
        "sweeper.space.json_schema",
        "jobs.qa",
        "jobs.params",
        "jobs.dataset.data",
    ],
)
def test_what_every_command_imports_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set(m.split('.')[0] for m in sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_loader_is_told_not_to_run_code_from_a_hub() -> None:
    for path in sorted((ROOT / "jobs").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "from_pretrained"
            ):
                told = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert told.get("trust_remote_code") == "False", f"{path.name}:{node.lineno}"

"""Check who imports whom: the contracts are in pyproject.toml, under [tool.importlinter]."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib

import pytest

from jobs import JOBS
from tests.support.sources import ROOT, source_files

HEAVY = {"torch", "transformers", "ray", "mlflow", "optuna", "datasets", "pandas"}


def test_imports_keep_the_contracts() -> None:
    command = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (
        f"{done.stdout}\nMove the import, or edit the contracts in pyproject.toml: a new folder or module of sweeper/ "
        "needs a line in `layers`."
    )


def test_each_folder_of_jobs_has_a_layer() -> None:
    """A job is a module of its own and needs none, so that adding a job leaves pyproject.toml as it is."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (contract["layers"] for contract in contracts if contract.get("containers") == ["jobs"])
    folders = {path.parent.name for path in (ROOT / "jobs").glob("*/__init__.py")}
    listed = {name for layer in layers for name in layer.split(" | ")}
    assert folders <= listed, f"add {sorted(folders - listed)} to the layers of jobs in pyproject.toml"


@pytest.mark.parametrize(
    "module",
    [
        "sweeper.cli",
        "sweeper.space.search_space",
        "sweeper.space.json_schema",
        "jobs.params",
        "jobs.dataset.data",
        *(path.partition(":")[0] for path in JOBS.values()),
    ],
)
def test_what_every_command_imports_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set(m.split('.')[0] for m in sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], f"{module}: import these inside the functions that use them"


def test_every_loader_is_told_not_to_run_code_from_a_hub() -> None:
    loaders = 0
    for path in source_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "from_pretrained"
            ):
                told = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert told.get("trust_remote_code") == "False", f"{path.name}:{node.lineno}"
                loaders += 1
    assert loaders, "no call of from_pretrained was found"

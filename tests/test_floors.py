"""Who may import whom. The floors of the house, from the ground up; each may use those below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import, within the project, only modules of earlier lines.
JOBS = [
    ["job", "faults", "timing"],
    ["attention", "checkpoint", "dropout", "metrics", "spans", "sample", "retrieval", "task", "workers"],
    ["data", "backbones", "features"],
    ["params", "conversion", "corpus", "mistakes", "survey"],
    ["labels"],
    ["assignment"],
    ["training"],
    ["longformer", "mc", "qa"],
    ["answering"],
    ["evaluation", "submission"],
    ["offline"],
]
SWEEPER = [
    ["detachment", "errors", "interrupt", "sheet"],
    ["document", "postgres", "stores"],
    ["database", "depot", "runs", "section"],
    ["domain", "statistics", "tracking"],
    ["mirror", "registry", "server"],
    ["schema"],
    ["search_space"],
    ["capacity", "sampling", "trial"],
    ["ledger"],
    ["group", "owner", "recovery", "retention", "session", "sweep", "timing", "watch"],
    ["cluster", "confirmation", "status"],
    ["adoption", "comparison", "continuation"],
    ["progress", "reference", "results", "tuning"],
    ["importance", "recipe", "scores"],
    ["plots"],
    ["diagnosis", "doctor", "plan", "promotion", "release", "report", "systems"],
    ["driver"],
    ["cli"],
]
HEAVY = {"torch", "transformers", "ray", "mlflow", "optuna", "datasets", "pandas"}

# What a module may never import, not even inside a function.
FORBIDDEN = {
    "jobs": {"sweeper", "ray", "mlflow", "optuna", "click"},
    "jobs/metrics": {"torch", "transformers", "numpy"},
    "jobs/spans": {"torch", "transformers"},
    "jobs/data": {"torch", "transformers", "numpy"},
    "sweeper/document": {"torch", "ray", "optuna", "mlflow", "jobs"},
    "sweeper/schema": {"torch", "ray", "optuna", "mlflow"},
    "sweeper/search_space": {"torch", "ray", "optuna", "mlflow"},
    "sweeper/tracking": {"torch", "ray", "optuna", "jobs"},
    "sweeper/trial": {"mlflow", "optuna", "transformers"},
    "sweeper/tuning": {"mlflow", "transformers", "torch"},
    "sweeper/database": {"mlflow", "ray", "torch"},
    "sweeper/ledger": {"mlflow", "ray", "torch"},
    "sweeper/sampling": {"mlflow", "ray", "torch"},
    "sweeper/comparison": {"mlflow", "ray", "torch"},
    "sweeper/retention": {"mlflow", "ray", "torch"},
    "sweeper/plots": {"mlflow", "ray", "torch"},
    "sweeper/report": {"mlflow", "ray", "torch"},
    "sweeper/results": {"mlflow", "ray", "torch"},
    "sweeper/statistics": {"mlflow", "ray", "torch", "jobs"},
}


def modules(package: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / package).rglob("*.py") if path.stem != "__init__")


def imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports, at any depth, but for type checking alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(("package", "floors"), [("jobs", JOBS), ("sweeper", SWEEPER)])
def test_stairs_go_one_way(package: str, floors: list[list[str]]) -> None:
    assert sorted(name for floor in floors for name in floor) == modules(package), (
        "a module has no floor here, or a floor no module"
    )
    for level, floor in enumerate(floors):
        below = {name for lower in floors[:level] for name in lower}
        for module in floor:
            used = {
                name.split(".")[1]
                for name in imports(ROOT / package / f"{module}.py")
                if name.startswith(f"{package}.")
            }
            wrong = (used & set(modules(package))) - below
            assert not wrong, f"{package}/{module}.py imports {', '.join(sorted(wrong))}, which is not below it"


@pytest.mark.parametrize("place", FORBIDDEN)
def test_nobody_imports_what_it_must_not_know(place: str) -> None:
    paths = [ROOT / f"{place}.py"] if "/" in place else sorted((ROOT / place).rglob("*.py"))
    for path in paths:
        wrong = {name.split(".")[0] for name in imports(path)} & FORBIDDEN[place]
        assert not wrong, f"{path.name} imports {', '.join(sorted(wrong))}"


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

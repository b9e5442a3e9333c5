"""Write files that are named like our packages and like libraries, and fail when they are imported."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = ("random", "torch", "ray", "json", "click", "optuna", "setup", "conftest", "default_worker", "logging")
PACKAGES = ("jobs", "mlflow", "transformers")


def hide_libraries(folder: Path) -> None:
    """Write modules, packages, and a folder of scripts without `__init__.py` into `folder`."""
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"raise RuntimeError('{name} of the folder')", encoding="utf-8")
    for name in PACKAGES:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "__init__.py").write_text(f"raise RuntimeError('{name} of the folder')", encoding="utf-8")
    (folder / "datasets").mkdir()
    (folder / "datasets" / "train.sbatch").touch()

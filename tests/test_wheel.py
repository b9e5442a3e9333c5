"""Build the wheel, install it in a folder, and run a sweep from an empty folder without the source tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support.sources import ROOT
from tests.support.spaces import TOY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STORES = ("SWEEPER_ROOT", "SWEEPER_LEDGER", "MLFLOW_TRACKING_URI")
PIP = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the packages of the wheel, and the toy job beside them."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves files in the tree that it builds from
    for name in ("sweeper", "jobs", "search_spaces"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, source)
    subprocess.run([*PIP, "wheel", str(source), "--no-deps", "-w", str(folder)], check=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "target"
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)], check=True)
    shutil.copy(ROOT / "tests/toy.py", target / "toy_of_the_wheel.py")
    return target


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working folder with the toy's search space."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "toy.yaml").write_text(TOY.replace("tests.toy:JOB", "toy_of_the_wheel:JOB"), encoding="utf-8")
    return folder


def sweeper(installed: Path, home: Path, *arguments: str, status: int = 0) -> str:
    """Run a command of the installed package and return its output, or its messages where it is to fail."""
    environment = {name: value for name, value in os.environ.items() if name not in STORES}
    done = subprocess.run(
        [sys.executable, "-c", "from sweeper.cli import main; main()", *arguments],
        cwd=home,
        env={**environment, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def test_the_installed_packages_are_those_of_the_wheel(installed: Path, home: Path) -> None:
    code = "import sweeper.cli, jobs.qa; print(sweeper.cli.__file__, jobs.qa.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [Path(path).is_relative_to(installed) for path in done.stdout.split()] == [True, True]


def test_the_wheel_has_every_file_of_the_packages(installed: Path) -> None:
    for name in ("sweeper", "jobs"):
        tree = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*") if path.is_file()}
        expected = {path for path in tree if "__pycache__" not in path.parts and path.name != "SOURCES.txt"}
        assert len(expected) >= 40
        assert {path for path in expected if not (installed / path).is_file()} == set()


def test_the_wheel_has_the_shipped_search_spaces_inside_the_package(installed: Path) -> None:
    shipped = {path.name: path.read_bytes() for path in (ROOT / "search_spaces").iterdir()}
    assert len(shipped) >= 10
    inside = installed / "sweeper" / "search_spaces"
    assert {path.name: path.read_bytes() for path in inside.iterdir()} == shipped
    assert not (installed / "search_spaces").exists()


def test_a_shipped_search_space_is_found_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    assert sweeper(installed, tmp_path, "plan", "quickstart.yaml").startswith("quickstart: 8 trials of qa on sample")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_lists_the_shipped_search_spaces(installed: Path, tmp_path: Path) -> None:
    told = sweeper(installed, tmp_path, "plan", "qickstart", status=2)
    assert "did you mean 'quickstart'? known here: longformer, " in told


def test_a_wheel_from_a_source_distribution_has_the_same_files(installed: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(installed.parent / "source", source, ignore=shutil.ignore_patterns("build"))
    build = f"import hatchling.build as build; build.build_sdist({str(tmp_path)!r})"
    if subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, check=False).returncode:
        pytest.skip("hatchling is not installed")
    (archive,) = tmp_path.glob("*.tar.gz")
    subprocess.run([*PIP, "wheel", str(archive), "--no-deps", "-w", str(tmp_path)], check=True)
    wheels = [next(folder.glob("*.whl")) for folder in (tmp_path, installed.parent)]
    again, first = (set(ZipFile(wheel).namelist()) for wheel in wheels)
    assert again == first


def test_a_sweep_and_its_report(installed: Path, home: Path) -> None:
    assert sweeper(installed, home, "run", "toy.yaml", "search.trials=2").count("COMPLETE") == 2
    rows = json.loads(sweeper(installed, home, "compare", "toy", "--json"))
    assert [row["state"] for row in rows] == ["COMPLETE"] * 2
    sweeper(installed, home, "report", "toy", "-o", "page.html")
    assert "<html" in (home / "page.html").read_text(encoding="utf-8")


def test_cluster_files_are_printed(installed: Path, home: Path) -> None:
    assert "#SBATCH" in sweeper(installed, home, "cluster", "slurm")

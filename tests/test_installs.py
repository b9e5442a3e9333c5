"""Go from a sweep to a submission with each way to install sweeper, in each kind of project folder.

Prints a table of all results: `pytest -m long tests/test_installs.py -s`. `uv` is taken from the path, else from pip.
"""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.projects import checksums
from tests.support.sources import ROOT
from tests.support.spaces import TOY

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
COMMANDS = ("run", "resume", "compare", "report", "promote", "submit")
READER = """\
name: reader
job: qa
data: hw
objective: exact_match
parameters:
  backbone: "scratch:1x32x1"
  learning_rate: 1e-3
  effective_batch_size: 32
  num_train_epochs: 1
  max_length: 128
  doc_stride: 32
search: {sampler: random, trials: 1, seed: 1}
"""
SELECTOR = READER.replace("reader", "selector").replace("job: qa", "job: mc").replace("exact_match", "accuracy")
SELECTOR = SELECTOR.replace("  doc_stride: 32\n", "")
Prepare = Callable[[Path, "Install"], Path]
Install = Callable[[Path, tuple[str, ...]], "subprocess.CompletedProcess[str]"]


def environment(venv: Path, **added: str) -> Mapping[str, str]:
    """Return the variables of an activated virtual environment, without sweeper's source tree."""
    left_out = ("PYTHONPATH", "SWEEPER_ROOT", "SWEEPER_LEDGER", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "PATH": f"{venv / 'bin'}:{kept['PATH']}", "VIRTUAL_ENV": str(venv), **added}


def make_venv(folder: Path, *arguments: str) -> Path:
    """Make a virtual environment with sweeper alone; its dependencies come from the running one."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    pip = [str(folder / "bin/pip"), "-q", "--disable-pip-version-check", "install", "--no-deps", "--force-reinstall"]
    subprocess.run([*pip, *arguments], check=True)
    return folder


@pytest.fixture(scope="session")
def installs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Install]:
    """Return the ways to start sweeper: editable, from a wheel, and by uv."""
    folder = tmp_path_factory.mktemp("installs")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "sweeps", ".*_cache"))
    editable = make_venv(folder / "editable", "-e", str(source))
    wheel = make_venv(folder / "wheel", str(source))
    for venv in (editable, wheel):
        packages = next(venv.glob("lib/python*/site-packages"))
        shutil.copy(ROOT / "tests/toy.py", packages / "installed_toy.py")
    uv = shutil.which("uv")
    if uv is None:
        subprocess.run([str(wheel / "bin/pip"), "-q", "install", "--no-deps", "uv"], check=True)
        uv = str(wheel / "bin/uv")

    def started_with(venv: Path, *command: str) -> Install:
        return lambda place, arguments: subprocess.run(
            [*command, *arguments], cwd=place, env=environment(venv), capture_output=True, text=True, check=False
        )

    by_uv = (uv, "run", "--no-project", "--python", str(wheel / "bin/python"), "sweeper")
    return {
        "editable": started_with(editable, str(editable / "bin/sweeper")),
        "wheel": started_with(wheel, str(wheel / "bin/sweeper")),
        "uv run": started_with(wheel, *by_uv),
    }


def fill(place: Path) -> Path:
    place.mkdir(parents=True)
    (place / "toy.yaml").write_text(
        TOY.replace("tests.toy:JOB", "installed_toy:JOB").replace("data: sample", "data: hw"), encoding="utf-8"
    )
    (place / "reader.yaml").write_text(READER, encoding="utf-8")
    (place / "selector.yaml").write_text(SELECTOR, encoding="utf-8")
    return place


def clean(folder: Path, install: Install) -> Path:
    return fill(folder / "clean")


def with_other_modules(folder: Path, install: Install) -> Path:
    place = fill(folder / "modules")
    (place / "jobs").mkdir()
    (place / "jobs/train.sbatch").write_text("#!/bin/bash\n")
    for name in ("random.py", "sweeper.py", "torch.py"):
        (place / name).write_text("raise SystemExit('this is the file of the user')\n")
    return place


def with_odd_letters(folder: Path, install: Install) -> Path:
    return fill(folder / "我的 專案 2")


def write_data(install: Install, place: Path) -> None:
    """Write some questions of the sample as files."""
    done(install, place, "data", "sample", "--output", "hw")
    for name, count in (("train", 128), ("valid", 32), ("test", 32)):
        file = place / f"hw/{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8"))[:count]), encoding="utf-8")


def begun(folder: Path, install: Install) -> Path:
    """Return a project whose toy sweep has two trials of eight."""
    place = fill(folder / "original")
    write_data(install, place)
    done(install, place, "run", "toy.yaml", "search.trials=2")
    done(install, place, "run", "selector.yaml")
    return place


def copied(folder: Path, install: Install) -> Path:
    return Path(shutil.copytree(begun(folder, install), folder / "copy", symlinks=True))


def moved(folder: Path, install: Install) -> Path:
    return begun(folder, install).rename(folder / "moved")


def done(install: Install, place: Path, *arguments: str) -> str:
    """Run a command that must succeed without a traceback, and return its output."""
    result = install(place, arguments)
    assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr[-2000:]
    return result.stdout


@pytest.fixture(scope="session")
def table() -> Iterator[dict[str, dict[str, str]]]:
    """Collect the results of all cases and print them at the end."""
    rows: dict[str, dict[str, str]] = {}
    yield rows
    for case, results in rows.items():
        print(f"\n{case:32}" + " ".join(f"{name} {results.get(name, '-')}" for name in COMMANDS), end="")


@pytest.mark.parametrize("prepare", [clean, with_other_modules, with_odd_letters, copied, moved])
@pytest.mark.parametrize("way", ["editable", "wheel", "uv run"])
def test_a_project_goes_from_a_sweep_to_a_submission(
    way: str,
    prepare: Prepare,
    installs: Mapping[str, Install],
    table: dict[str, dict[str, str]],
    tmp_path: Path,
) -> None:
    install = installs[way]
    place = prepare(tmp_path, install)
    original = tmp_path / "original"
    before = checksums(original) if original.is_dir() else None
    if not (place / "hw").is_dir():
        write_data(install, place)
        done(install, place, "run", "selector.yaml")
    steps = {
        "run": [("run", "toy.yaml", "search.trials=3"), ("run", "reader.yaml")],
        "resume": [("resume", "toy", "--trials", "4")],
        "compare": [("compare", "toy"), ("compare", "reader", "selector")],
        "report": [("report", "toy", "-o", "toy.html"), ("report", "reader", "-o", "reader.html")],
        "promote": [("promote", "selector"), ("promote", "reader")],
        "submit": [("submit", "--context", "hw/context.json", "--test", "hw/test.json", "--output", "answers.csv")],
    }
    results = table.setdefault(f"{way}, {prepare.__name__}", {})
    for command in COMMANDS:
        results[command] = "failed"
        for arguments in steps[command]:
            done(install, place, *arguments)
        results[command] = "ok"
    assert (place / "answers.csv").read_text(encoding="utf-8").startswith("id,answer")
    if before is not None:
        assert checksums(original) == before

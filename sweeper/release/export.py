"""Write a self-contained folder that answers questions offline."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jobs
from jobs import fault_injection
from jobs.answering.offline import TEAM
from jobs.checkpoint import copy_answering_part, write_json
from jobs.files import atomic, disk_errors
from sweeper.errors import ConfigError, EnvironmentFailure
from sweeper.release.submit import NOT_WRITTEN, check_output_folder
from sweeper.release.teams import END_TO_END, READER, SELECTOR, Team, load_two_stages, weight_and_note
from sweeper.storage.identity import places_of
from sweeper.storage.settings import Stores

PROGRAM = """# Answers the questions in two files with the models beside this one; works offline.
#   python answer.py context.json test.json submission.csv
import sys
from pathlib import Path

from jobs.answering.offline import main

sys.exit(main(sys.argv[1:], Path(__file__).resolve().parent))
"""

REQUIRED = (
    "torch",
    "transformers",
    "accelerate",
    "numpy",
    "scipy",
    "bm25s",
    "rapidfuzz",
    "filelock",
    "annotated-types",
)


def export_team(team: Team, output: Path, stores: Stores, weight: float | None = None) -> str:
    """Write a folder that answers questions without this project's stores, and return a note about the weight.

    The folder has the checkpoints without training state, `answer.py`, the code of `jobs`, pinned requirements, and
    SHA256SUMS of all files. Without `weight`, the weight is fitted as in `team_answers`.

    Raises ConfigError when the folder exists and is not empty, EnvironmentFailure when it cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output}: exists and is not empty; name a new folder")
    check_output_folder(output)
    note = "end to end"
    if team.selector and weight is None:
        weight, note = weight_and_note(team, *load_two_stages(team, stores.root / "features"), places_of(stores))
    elif team.selector:
        note = f"weight {weight} as given"
    with disk_errors(EnvironmentFailure, NOT_WRITTEN, output), atomic(output) as part:
        part.mkdir()
        _fill(part, team, weight or 0.0)
        fault_injection.point("export.rename")
    return note


def _fill(folder: Path, team: Team, weight: float) -> None:
    write_json(folder / TEAM, _copy_checkpoints(team, weight, folder))
    _copy_code(Path(jobs.__file__).parent, folder / "jobs")
    (folder / "answer.py").write_text(PROGRAM, encoding="utf-8")
    pins = "".join(f"{package}=={version(package).partition('+')[0]}\n" for package in REQUIRED)
    (folder / "requirements.txt").write_text(pins, encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = "".join(f"{_file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")


def _copy_code(package: Path, target: Path) -> None:
    """Copy the Python files without their file modes: the umask determines who may read the export."""
    for path in package.rglob("*.py"):
        place = target / path.relative_to(package)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def _copy_checkpoints(team: Team, weight: float, output: Path) -> Mapping[str, Any]:
    """Copy the checkpoints and return their folders' names for `answer.py`."""
    if team.end_to_end:
        return {END_TO_END: copy_answering_part(team.end_to_end, output / END_TO_END).name}
    assert team.selector
    readers = [
        copy_answering_part(folder, output / f"{READER}-{place}").name for place, folder in enumerate(team.readers)
    ]
    selector = copy_answering_part(team.selector, output / SELECTOR).name
    return {SELECTOR: selector, READER: readers, "weight": weight}


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

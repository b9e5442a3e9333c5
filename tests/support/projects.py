"""Make a small project with a finished sweep, without training, and compare folders before and after a command."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from jobs.dataset.sample import sample_files
from sweeper.driver.sweep import trial_folder
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, create_ledger, load_ledger
from sweeper.space.reading import read_search_space
from sweeper.storage.identity import places_of, stores_in_use
from sweeper.storage.settings import Stores, read_stores
from tests.support.spaces import TOY
from tests.support.trials import asked
from tests.toy import saved


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below `folder`, by relative path; of a folder or a link, its kind."""
    found = {}
    for path in sorted(folder.rglob("*")):
        plain = path.is_file() and not path.is_symlink()
        kind = hashlib.sha256(path.read_bytes()).hexdigest() if plain else "folder" if path.is_dir() else "link"
        found[str(path.relative_to(folder))] = kind
    return found


def small_data(folder: Path) -> Path:
    """Write a data set of a few questions."""
    folder.mkdir(parents=True)
    content = sample_files()
    rows = {"train": content["train"][:8], "valid": content["valid"][:4]}
    for name, value in {**rows, "context": content["context"]}.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


def stores_at(project: Path) -> Stores:
    return read_stores(project, {})


def project_with_sweep(project: Path, blank: Path, settings: str = "") -> Path:
    """Make a project with its own data and a sweep `toy`: two finished trials and one that is at its second epoch.

    `blank` is an empty MLflow database, `settings` the content of mlflow.ini.
    """
    small_data(project / "data")
    (project / "toy.yaml").write_text(TOY.replace("data: sample", f"data: {project / 'data'}"), encoding="utf-8")
    if settings:
        (project / "mlflow.ini").write_text(settings, encoding="utf-8")
    stores = stores_in_use(stores_at(project))
    if stores.tracking == f"sqlite:///{stores.root}/mlflow.db":
        shutil.copy(blank, stores.root / "mlflow.db")
    space = read_search_space(project / "toy.yaml", ["search.trials=3"])
    ledger = create_ledger(open_storage(stores.ledger, places_of(stores)), space, "toy", {"torch": "2"})
    for epochs in (4, 4, 2):
        number = asked(ledger, space).number
        workdir = trial_folder(stores.root / "toy", number)
        workdir.mkdir(parents=True, mode=0o700)
        for epoch in range(1, epochs + 1):
            metrics = {"height": epoch / 10, "eval_loss": 0.5, "epoch": float(epoch), "seconds": 1.0}
            ledger.report(number, metrics, str(saved(workdir, epoch)))
        if epochs == 4:
            ledger.finish(number, "COMPLETE")
    return project


def toy_ledger(project: Path) -> Ledger:
    stores = stores_at(project)
    return load_ledger(open_storage(stores.ledger, places_of(stores)), "toy")

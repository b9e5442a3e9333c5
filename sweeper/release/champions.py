"""Find and register champions: the model version with the alias `champion` of each job in MLflow's registry.

The files are in folders below `champions/` in the root folder. Folders are named by trial and content and never change.
MLflow stores their origin. With an MLflow server, the files are also uploaded to the trial's run, and downloaded when
they are missing here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jobs.checkpoint import damage, refuse_damaged
from jobs.files import rename_synced
from jobs.suggestions import suggestion
from sweeper.errors import ConfigError, EnvironmentFailure
from sweeper.space.sections import NAME
from sweeper.storage.settings import Stores
from sweeper.tracking.client import connect, mlflow_errors

CHAMPION = "champion"
FOLDER = "champions"
LABEL = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"  # sweep, trial number and start of the content's hash


@dataclass(frozen=True)
class Version:
    """Hold a version of a registered model. `tags` has its lineage; `folder` is relative to the champions' folder."""

    model: str
    number: int
    run_id: str | None
    tags: Mapping[str, str]

    @property
    def folder(self) -> str:
        return self.tags["folder"]


@dataclass(frozen=True)
class Registry:
    """Access MLflow's model registry. Every method raises EnvironmentFailure when MLflow does not answer."""

    stores: Stores
    client: Any

    def champions(self) -> list[str]:
        """Return the names of the models that have a champion."""
        with mlflow_errors(self.stores):
            models, token = [], None
            while token != "":
                page = self.client.search_registered_models(page_token=token)
                models += [model.name for model in page if CHAMPION in model.aliases]
                token = page.token or ""
            return models

    def champion(self, model: str) -> Version | None:
        if model not in self.champions():
            return None
        with mlflow_errors(self.stores):
            found = self.client.get_model_version_by_alias(model, CHAMPION)
        if "folder" not in found.tags:
            raise EnvironmentFailure(
                f"champion of {model}: version {found.version} in MLflow was not made by `sweeper promote`; remove its "
                f"alias {CHAMPION} there, and promote a trial"
            )
        if not re.fullmatch(f"{NAME}/{LABEL}", place := found.tags["folder"]):
            raise EnvironmentFailure(
                f"champion of {model}: MLflow has version {found.version} in {place!r}, which is no folder below "
                f"{FOLDER}; promote a trial again"
            )
        return Version(model, int(found.version), found.run_id or None, dict(found.tags))

    def register(self, model: str, folder: str, run_id: str | None, tags: Mapping[str, str]) -> Version:
        """Create a version of `model` with its files in `folder` below the champions' folder, without the alias."""
        with mlflow_errors(self.stores):
            if not self.client.search_registered_models(f"name = '{model}'"):
                self.client.create_registered_model(model)
            source = self._source(folder, run_id)
            tags = {"folder": folder, **tags}
            made = self.client.create_model_version(model, source, run_id, tags=tags, await_creation_for=None)
            return Version(model, int(made.version), run_id, tags)

    def make_champion(self, version: Version) -> None:
        """Set the alias `champion` to this version; the model's previous champion loses it."""
        with mlflow_errors(self.stores):
            self.client.set_registered_model_alias(version.model, CHAMPION, str(version.number))

    def local_folder(self, version: Version) -> Path:
        """Return the folder of the version's files on this machine; download them first if they are on a server."""
        folder = self.stores.root / FOLDER / version.folder
        if self.stores.remote and not folder.is_dir():
            self._download(version, folder)
        return folder

    def _download(self, version: Version, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as incoming, mlflow_errors(self.stores):
            found = self.client.download_artifacts(version.run_id, f"{FOLDER}/{version.folder}", incoming)
            refuse_damaged(Path(found))
            rename_synced(Path(found), folder, replace=True)

    def _source(self, folder: str, run_id: str | None) -> str:
        """Return the address of the files for MLflow.

        Without a server this is the local folder, and nothing is copied. With a server the files are uploaded first,
        because other machines cannot read the local folder.
        """
        path = self.stores.root / FOLDER / folder
        if not self.stores.remote:
            return path.as_uri()
        self.client.log_artifacts(run_id, str(path), f"{FOLDER}/{folder}")
        return f"runs:/{run_id}/{FOLDER}/{folder}"


def open_registry(stores: Stores) -> Registry:
    """Connect to MLflow's registry. Raises EnvironmentFailure when its store does not answer."""
    return Registry(stores, connect(stores))


def champion(job: str, stores: Stores) -> Path:
    """Return the folder of the job's champion: an undamaged checkpoint without training state.

    >>> champion("qa", stores)
    PosixPath('…/champions/qa/qa_backbones-3-1f0c2e9a')

    Raises ConfigError when the job has none, EnvironmentFailure when its files are missing or damaged.
    """
    if sqlite_is_absent(stores.tracking):  # MLflow would create the file
        raise ConfigError(f"job {job}: has no champion; {_champion_cure(job, [])}")
    registry = open_registry(stores)
    version = registry.champion(job)
    if version is None:
        raise ConfigError(f"job {job}: has no champion; {_champion_cure(job, registry.champions())}")
    folder = registry.local_folder(version)
    if problem := damage(folder):
        raise EnvironmentFailure(
            f"champion of {job}, {problem}; promote trial {version.tags['trial']} again, or another with --force"
        )
    return folder


def sqlite_is_absent(address: str) -> bool:
    return address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///").partition("?")[0]).exists()


def _champion_cure(job: str, known: list[str]) -> str:
    if not known:
        return "`sweeper promote SWEEP` makes a sweep's best trial the champion of its job"
    return suggestion(job, known)

"""Looks at what a sweep depends on and says what it finds: versions, devices, disk, stores, switches."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from sweeper.cluster.capacity import local_machine
from sweeper.errors import Failure
from sweeper.secrets import redacted
from sweeper.storage.settings import Stores

SWITCHES = (
    "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_HOME",
    "CUDA_VISIBLE_DEVICES",
    "MLFLOW_TRACKING_URI",
    "SWEEPER_ROOT",
    "SWEEPER_LEDGER",
    "SWEEPER_CHECKPOINTS",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "MLFLOW_S3_ENDPOINT_URL",
)
LOW_DISK = 5 * 2**30


@dataclass(frozen=True)
class Finding:
    what: str
    detail: str
    good: bool = True


def findings(stores: Stores) -> list[Finding]:
    """Everything worth knowing before a sweep; nothing is created."""
    return [python(), *packages(), devices(), disk_finding(stores.root), *reachable_findings(stores), *switches()]


def python() -> Finding:
    return Finding("python", f"{platform.python_version()} on {platform.platform()}")


def packages() -> list[Finding]:
    """Each requirement of this package and the version that is installed."""
    wanted = [Requirement(text) for text in requires("sweeper") or []]
    return [_package_finding(requirement) for requirement in wanted if not requirement.marker]


def _package_finding(requirement: Requirement) -> Finding:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return Finding(requirement.name, f"not installed; {requirement} is wanted", False)
    good = requirement.specifier.contains(found, prereleases=True)
    return Finding(requirement.name, found if good else f"{found}; {requirement} is wanted", good)


def devices() -> Finding:
    machine = local_machine()
    return Finding("devices", f"{machine.cpus} CPU, {machine.gpus} GPU")


def disk_finding(root: Path) -> Finding:
    """Room where sweeps are kept, or where the folder would be created."""
    place = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    good = free > LOW_DISK and os.access(place, os.W_OK)
    return Finding(
        "disk",
        f"{free / 2**30:.1f} GiB free at {place}" + ("" if good else "; make room, or set SWEEPER_ROOT"),
        good,
    )


def reachable_findings(stores: Stores) -> list[Finding]:
    from sweeper.ledger.database import existing_storage
    from sweeper.storage.checkpoints import check_readable
    from sweeper.tracking.client import check_store

    found = [
        _tried("ledger", stores.ledger, lambda: existing_storage(stores.ledger)),
        _tried("mlflow", stores.tracking, lambda: check_store(stores)),
    ]
    for what, address in (("artifacts", stores.artifacts), ("checkpoints", stores.checkpoints)):
        if address and (address.startswith("s3:") or what == "checkpoints"):
            found.append(_tried(what, address, partial(check_readable, address)))
    return found


def _tried(what: str, address: str, attempt: Callable[[], object]) -> Finding:
    if address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///")).exists():
        return Finding(what, f"{address}, created by the first sweep")
    try:
        attempt()
    except Failure as failure:
        return Finding(what, failure.lines[0], False)
    return Finding(what, redacted(address))


def switches() -> list[Finding]:
    return [Finding(name, redacted(os.environ[name])) for name in SWITCHES if name in os.environ]

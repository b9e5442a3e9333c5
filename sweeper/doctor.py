"""Check the requirements of a sweep: package versions, devices, disk, stores and environment variables."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import gettempdir

from packaging.requirements import Requirement

from sweeper.cluster.capacity import local_machine, memory_text
from sweeper.cluster.gpus import (
    VISIBLE,
    Gpu,
    GpuSurvey,
    gpu_problem,
    hardware,
    shown_gpus,
    survey_gpus,
    unusable_reason,
)
from sweeper.errors import Failure
from sweeper.process.environment import PROXIES, told_variables
from sweeper.process.import_path import hiding_module
from sweeper.secrets import redacted
from sweeper.storage.locks import lock_problem
from sweeper.storage.settings import Stores
from sweeper.trial.gpu import CHECK

VARIABLES = (
    "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_HOME",
    VISIBLE,
    CHECK,
    "MLFLOW_TRACKING_URI",
    "SWEEPER_ROOT",
    "SWEEPER_LEDGER",
    "SWEEPER_CHECKPOINTS",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "MLFLOW_S3_ENDPOINT_URL",
)
MIN_FREE_BYTES = 5 * 2**30


@dataclass(frozen=True)
class Finding:
    what: str
    detail: str
    good: bool = True


def findings(stores: Stores, changed: Mapping[str, str], notify: bool = False) -> list[Finding]:
    """Return the result of every check. Creates nothing.

    `changed` holds the environment variables that `prepare_environment` changed, with the reasons.
    `notify` sends a test message.
    """
    return [
        python_finding(),
        *package_findings(),
        device_finding(),
        *gpu_findings(),
        disk_finding(stores.root),
        *reachable_findings(stores),
        *notify_findings(stores.folder, notify),
        *variable_findings(),
        *lock_findings(stores.root),
        *hidden_findings(),
        *cluster_findings(os.environ),
        *(Finding("environment", line) for line in told_variables(changed)),
        *proxy_findings(os.environ),
    ]


def python_finding() -> Finding:
    return Finding("python", f"{platform.python_version()} on {platform.platform()}")


def package_findings() -> list[Finding]:
    """Compare each requirement of this package with the installed version."""
    wanted = [Requirement(text) for text in requires("sweeper") or []]
    return [_package_finding(requirement) for requirement in wanted if not requirement.marker]


def _package_finding(requirement: Requirement) -> Finding:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return Finding(requirement.name, f"not installed; install {requirement}", False)
    good = requirement.specifier.contains(found, prereleases=True)
    return Finding(requirement.name, found if good else f"{found}; install {requirement}", good)


def device_finding() -> Finding:
    machine = local_machine()
    return Finding("devices", f"{machine.cpu_text}, {machine.gpus} GPU, memory {memory_text()}")


def gpu_findings() -> list[Finding]:
    """Describe each GPU that this machine shows, and say why trials cannot use it if they cannot."""
    if not (shown := shown_gpus()):
        return []
    survey = survey_gpus()
    found = [gpu_finding(number, gpu, survey) for number, gpu in enumerate(survey.known)]
    reason = unusable_reason(survey, shown, os.environ.get(VISIBLE))
    return [*found, Finding("gpus", reason.removeprefix("GPUs: "), False)] if reason else found


def gpu_finding(number: int, gpu: Gpu, survey: GpuSurvey) -> Finding:
    problem = gpu_problem(gpu, survey) if survey.usable else f"{survey.wheel} cannot use it"
    good = f"supported by {survey.wheel}; trains in {hardware(gpu, survey).offered[0]} with precision: auto"
    return Finding(f"gpu {number}", f"{gpu}: {problem or good}", not problem)


def disk_finding(root: Path) -> Finding:
    """Check the free disk space in the folder of sweeps, or in the closest parent that exists."""
    place = existing_parent(root)
    free = shutil.disk_usage(place).free
    good = free > MIN_FREE_BYTES and os.access(place, os.W_OK)
    return Finding(
        "disk",
        f"{free / 2**30:.1f} GiB free at {place}"
        + ("" if good else "; free some space, or set SWEEPER_ROOT to another folder"),
        good,
    )


def reachable_findings(stores: Stores) -> list[Finding]:
    from sweeper.ledger.database import existing_storage
    from sweeper.storage.checkpoint_store import check_readable
    from sweeper.tracking.client import check_store

    found = [
        _finding_of("ledger", stores.ledger, lambda: existing_storage(stores.ledger)),
        _finding_of("mlflow", stores.tracking, lambda: check_store(stores)),
    ]
    for what, address in (("artifacts", stores.artifacts), ("checkpoints", stores.checkpoints)):
        if address and (address.startswith("s3:") or what == "checkpoints"):
            found.append(_finding_of(what, address, partial(check_readable, address)))
    return found


def _finding_of(what: str, address: str, attempt: Callable[[], object]) -> Finding:
    if address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///")).exists():
        return Finding(what, f"{address}, created by the first sweep")
    try:
        attempt()
    except Failure as failure:
        return Finding(what, failure.lines[0], False)
    return Finding(what, redacted(address))


def notify_findings(folder: Path | None, send: bool) -> list[Finding]:
    """Tell where the address for messages stands, without showing it; `send` sends a test message to it."""
    from sweeper.notify import service
    from sweeper.notify.events import Message

    found = service.notify_address(folder)
    if found is None:
        cure = "no address; set SWEEPER_NOTIFY_URL, or url below [notify] in mlflow.ini"
        return [Finding("notify", cure, False)] if send else []
    try:
        address = service.checked_address(folder) or ""
    except Failure as failure:
        return [Finding("notify", failure.lines[0], False)]
    if not send:
        return [Finding("notify", f"address set by {found[1]}")]
    message = Message("finished", "sweeper doctor", "This is a test message.")
    good = service.delivered(address, message)
    outcome = "a test message was sent" if good else "a test message was not delivered; check address and network"
    return [Finding("notify", f"{outcome} (address set by {found[1]})", good)]


def variable_findings() -> list[Finding]:
    return [Finding(name, redacted(os.environ[name])) for name in VARIABLES if name in os.environ]


def proxy_findings(environ: Mapping[str, str]) -> list[Finding]:
    """Name the variables of a proxy, which connections to this machine bypass."""
    names = [name for proxy in PROXIES for name in (proxy, proxy.upper()) if environ.get(name)]
    detail = f"{', '.join(names)}: used for other machines only; connections to this machine bypass it"
    return [Finding("proxy", detail)] if names else []


def lock_findings(root: Path) -> list[Finding]:
    """Report a folder, of the storage root and temporary files, whose file system cannot lock files."""
    try:
        places = [existing_parent(root), Path(gettempdir())]
    except FileNotFoundError as error:
        return [
            Finding("temporary files", f"{error.strerror or error}; set TMPDIR to a folder that can be written", False)
        ]
    return [Finding("locks", problem, False) for place in places if (problem := lock_problem(place))]


def existing_parent(folder: Path) -> Path:
    """Return `folder`, or its closest parent that exists."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def hidden_findings() -> list[Finding]:
    """Name the files of the working directory that have the names of libraries."""
    try:
        entries = sorted(Path.cwd().iterdir())
    except OSError as error:
        return [Finding("folder", f"{error.strerror or error}; change to a folder that can be read", False)]
    hidden = [entry.name for entry in entries if _is_module(entry) and hiding_module(entry.stem)]
    cure = "not imported, since libraries come first; rename a file that your own job imports"
    return [Finding("folder", f"{', '.join(hidden)}: named like a library; {cure}")] if hidden else []


def _is_module(path: Path) -> bool:
    return path.stem.isidentifier() and (path.suffix == ".py" or (not path.suffix and path.is_dir()))


def cluster_findings(environ: Mapping[str, str]) -> list[Finding]:
    """Report if nothing listens at RAY_ADDRESS."""
    from sweeper.cluster.ray_session import refuse_closed_port

    address = environ.get("RAY_ADDRESS")
    return [_finding_of("cluster", address, partial(refuse_closed_port, address))] if address else []

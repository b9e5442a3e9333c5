"""Put the environment variables of this process in order, which the processes that it starts inherit.

Other tools leave variables that would change what our libraries do: a group of processes to join, a backend for plots,
a proxy for connections to this machine.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

# Variables that are removed, by the reason that `doctor` tells. In a name, `*` stands for any text.
FOREIGN: Mapping[str, Sequence[str]] = {
    "set by torchrun or Kubeflow; removed, since trials form groups of their own": (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "NODE_RANK",
        "GROUP_*RANK",
        "GROUP_*WORLD_SIZE",
        "ROLE_*RANK",
        "ROLE_*WORLD_SIZE",
        "ROLE_NAME",
        "MASTER_ADDR",
        "MASTER_PORT",
        "TORCHELASTIC_*",
    ),
    "set by MPI, Slurm or SageMaker; removed, since trials form groups of their own": (
        "OMPI_COMM_WORLD_*",
        "PMI_*",
        "PMIX_*",
        "MV2_COMM_WORLD_*",
        "SM_HP_MP_PARAMETERS",
        "SM_FRAMEWORK_PARAMS",
    ),
    "set by `accelerate launch`; removed, since a job sets its own": (
        "ACCELERATE_*",
        "FSDP_*",
        "FORK_LAUNCHED",
        "PARALLELISM_CONFIG_*",
    ),
    "set for another MLflow run or server; removed, since sweeper sets its own": (
        "MLFLOW_RUN_ID",
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_ARTIFACTS_ONLY",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT",
        "MLFLOW_EXPOSE_PROMETHEUS",
        "MLFLOW_GUNICORN_OPTS",
        "MLFLOW_READ_REPLICA_BACKEND_STORE_URI",
        "MLFLOW_REGISTRY_STORE_URI",
        "MLFLOW_SERVE_ARTIFACTS",
        "MLFLOW_SERVER_*",
        "MLFLOW_STATIC_PREFIX",
        "MLFLOW_UVICORN_OPTS",
        "MLFLOW_WORKSPACE*",
    ),
    "set by a notebook; removed, since reports are drawn without a screen": ("MPLBACKEND",),
    "removed, since all output is UTF-8": ("PYTHONIOENCODING",),
    "removed, since warnings of libraries must not become errors": ("PYTHONWARNINGS",),
    "removed, since some libraries read their docstrings": ("PYTHONOPTIMIZE",),
    "removed, since processes would wait for input at their end": ("PYTHONINSPECT",),
}
# Removed on one machine only, since a cluster may need them. Names in small letters tune Ray itself and stay.
FOREIGN_RAY: Mapping[str, Sequence[str]] = {
    "set for another Ray; removed on one machine, since sweeper starts its own": ("RAY_[A-Z]*", "TUNE_*", "TRAIN_*"),
}
KEPT_RAY = ("RAY_ADDRESS", "RAY_ENABLE_UV_RUN_RUNTIME_ENV")
HOME_FOLDER = ".home"  # no sweep has a name with a leading dot
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
# Files below a home folder that stay in use when libraries cannot write there, with the variables that name them.
READ_AT_HOME = {
    "PYTHONUSERBASE": ".local",
    "HF_HOME": ".cache/huggingface",
    "AWS_SHARED_CREDENTIALS_FILE": ".aws/credentials",
    "AWS_CONFIG_FILE": ".aws/config",
    "PGPASSFILE": ".pgpass",
    "NETRC": ".netrc",
}


def foreign_variables(environ: Mapping[str, str], names: Mapping[str, Sequence[str]] = FOREIGN) -> dict[str, str]:
    """Return the variables to remove, each with its reason."""
    found = {
        name: reason
        for reason, patterns in names.items()
        for name in environ
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    return {name: found[name] for name in sorted(found) if name not in KEPT_RAY}


def remove_foreign(environ: MutableMapping[str, str], names: Mapping[str, Sequence[str]] = FOREIGN) -> dict[str, str]:
    """Remove the variables that other tools left, and return them with their reasons."""
    removed = foreign_variables(environ, names)
    for name in removed:
        del environ[name]
    return removed


def prepare_environment(environ: MutableMapping[str, str], root: Callable[[], Path]) -> dict[str, str]:
    """Remove foreign variables, keep proxies away from this machine, and choose a home folder that can be written.

    `root` gives the folder below which files go if there is no such home folder. Creates nothing. Returns what was
    changed, with the reasons, for `sweeper doctor`.
    """
    changed = remove_foreign(environ)
    environ["PYTHONUTF8"] = "1"
    environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else Ray uploads the working directory under `uv run`
    for name in ("COLUMNS", "LINES"):
        if not _is_size(environ.get(name, "1")):
            changed[name] = f"{environ.pop(name)!r} is no size of a terminal; removed"
    environ.update(without_proxy(environ))
    return changed | replace_home(environ, root)


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def without_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep a proxy away from connections to this machine; empty without a proxy."""
    if not any(environ.get(name) or environ.get(name.upper()) for name in PROXIES):
        return {}
    set_hosts = f"{environ.get('no_proxy', '')},{environ.get('NO_PROXY', '')}".replace(" ", ",").split(",")
    hosts = ",".join(dict.fromkeys(filter(None, (*set_hosts, *LOOPBACK))))
    return {"no_proxy": hosts, "NO_PROXY": hosts}


def replace_home(environ: MutableMapping[str, str], root: Callable[[], Path]) -> dict[str, str]:
    """Set HOME to a folder below `root` if the present one cannot be written, or if there is none.

    Libraries keep their caches and Ray its token there. Files that are read at the old place stay in use. Returns HOME
    with the reason, or nothing.
    """
    before = home_folder(environ)
    if "USER" not in environ and not _has_name():
        environ["USER"] = f"uid{os.getuid()}"  # libraries ask for a user's name
    if before is not None and can_write(before):
        return {}
    for name, file in READ_AT_HOME.items():
        if before is not None and name not in environ and os.access(before / file, os.R_OK):
            environ[name] = str(before / file)
    environ["HOME"] = str(root() / HOME_FOLDER)
    cause = f"home folder {before} cannot be written" if before else "this user has no home folder"
    return {"HOME": f"{cause}; files of libraries go to {environ['HOME']}; to change that, set HOME"}


def home_folder(environ: Mapping[str, str]) -> Path | None:
    """Return the home folder as HOME or the user's entry in the password file names it; None without both."""
    try:
        text = environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None
    return Path(text) if text.startswith("/") else None


def _has_name() -> bool:
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True


def can_write(folder: Path) -> bool:
    """Return True if a file can be created in `folder`, or if `folder` itself can be created."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def told_variables(removed: Mapping[str, str]) -> Iterable[str]:
    """Yield a line for each reason, with the names of the variables that it covers."""
    for reason in dict.fromkeys(removed.values()):
        names = [name for name, other in removed.items() if other == reason]
        yield f"{', '.join(names)}: {reason}"

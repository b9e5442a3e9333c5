"""The files that `sweeper cluster` prints, each looked at by the tool it is for, where that can be had.

Ray's launcher, ShellCheck and Kubernetes' schemas come with the test extra. Compose is used where it is installed. Of
the RayJob only what is plain Kubernetes in it is validated: KubeRay's own schema comes with no package. The Slurm job
is run for real in the slow tier, but for Slurm: `srun` starts everything on this machine.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from packaging.requirements import Requirement

from sweeper.cli import main
from sweeper.cluster.ray_session import LOCAL
from tests.support.commands import invoke

ROOT = Path(__file__).parents[3]
CLUSTERS = ROOT / "sweeper/cluster/files"
FILES = {"ray-up": "ray-up.yaml", "kuberay": "kuberay.yaml", "slurm": "slurm.sh", "compose": "compose.yaml"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = {one.name: one.specifier for one in map(Requirement, PROJECT["project"]["dependencies"])}
PATIENCE = 240.0


def text(name: str) -> str:
    return (CLUSTERS / FILES[name]).read_text(encoding="utf-8")


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all(text(name)))


def tool(name: str) -> str:
    """A program of the test extra, which lies beside Python, or one of the machine's."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"no {name} here")
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_printed_as_it_is_and_opens_with_the_commands_that_use_it(name: str) -> None:
    result = invoke("cluster", name)
    assert (result.exit_code, result.stdout) == (0, text(name))
    head = re.match(r"(#.*\n)+", text(name))
    assert head is not None
    assert f"sweeper cluster {name} > " in head[0]
    assert "sweeper status" in head[0] or "sweeper doctor" in head[0]


def test_every_file_has_its_command() -> None:
    there = sorted(path.name for path in CLUSTERS.iterdir())
    assert there == sorted(FILES.values())
    assert set(main.commands["cluster"].commands) == set(FILES)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", FILES)
def test_the_versions_are_those_of_the_project(name: str) -> None:
    found = text(name)
    pinned = [
        *re.findall(r"\b(ray|mlflow)(?:\[[\w,]+\])?==([\d.]+)[^.*\d]", found),
        *(("ray", version) for version in re.findall(r"(?:rayproject/ray:|rayVersion: \")([\d.]+)", found)),
    ]
    assert pinned
    for package, version in pinned:
        assert version in PINS[package], f"{package} {version}"
        assert f">={version}" in f"{PINS[package]}.0" or f">={version}" in str(PINS[package]), f"{package} {version}"
    for version in re.findall(r"/sweeper:([\d.]+)", found):
        assert version == PROJECT["project"]["version"]
    for extras in re.findall(r"\[(postgres[\w,]*)\]", found):
        assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


@pytest.mark.parametrize("name", FILES)
def test_no_file_holds_a_secret(name: str) -> None:
    """Whatever stands under a secret's name, or in an address, is the name of a place or a variable, or is in capitals:
    what to write there."""
    secret = r"(?i:password|secret_key|access_key\w*|token(?:_path)?)\b['\"]?\s*[=:]\s*(\S+)"
    values = re.findall(secret, text(name)) + re.findall(r"\w://\w+:([^\s@]+)@", text(name))
    harmless = re.compile(r"""["']?\$\{?\w+|[A-Z_]+$|~/|%s|\{|\?|sweeper$|sweeper\\n""")
    assert [value for value in values if not harmless.match(value)] == []
    assert not re.search(r"AKIA[A-Z0-9]{16}|BEGIN [A-Z ]*PRIVATE KEY|hf_\w{16}", text(name))


def test_ray_up_is_accepted_by_rays_launcher_and_asks_for_the_token() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = documents("ray-up")
    ready = prepare_config(config)
    validate_config(ready)
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = (command for command in ready[commands] if "ray start" in command)
        assert start.startswith("export RAY_AUTH_MODE=token; ray start ")
    assert "--dashboard-host=127.0.0.1" in ready["head_start_ray_commands"][1]
    assert ready["available_node_types"]["worker"]["min_workers"] == 1
    with pytest.raises(Exception, match="Additional properties are not allowed"):
        validate_config({**ready, "max_wrokers": 1})


def test_the_pods_and_the_volume_for_kuberay_are_valid_kubernetes() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate here").validate
    volume, job = documents("kuberay")
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]} for group in groups]
    for resource in (volume, *pods):
        validate(resource, "1.34", strict=True)
    misspelt = {**pods[0]["spec"]["containers"][0], "volumeMount": []}
    with pytest.raises(Exception, match="volumeMount"):
        validate({**pods[0], "spec": {"containers": [misspelt]}}, "1.34", strict=True)


def test_the_rayjob_asks_for_the_token_and_opens_nothing() -> None:
    _, job = documents("kuberay")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    mounted = {group["template"]["spec"]["containers"][0]["image"] for group in cluster["workerGroupSpecs"]}
    assert mounted == {cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]}


def test_the_stores_listen_on_loopback_unless_they_are_told_otherwise() -> None:
    (stores,) = documents("compose")
    ports = {name: service["ports"] for name, service in stores["services"].items() if "ports" in service}
    assert ports == {
        "postgres": ["${LISTEN:-127.0.0.1}:5432:5432"],
        "s3": ["${LISTEN:-127.0.0.1}:7070:7070"],
        "mlflow": ["127.0.0.1:5000:5000"],  # which asks nobody for a password
    }


def composed(folder: Path, **secrets: str) -> subprocess.CompletedProcess[str]:
    """What Compose makes of the file; it needs no Docker for that."""
    if shutil.which("docker-compose"):
        command = ["docker-compose"]
    elif (
        shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
    ):
        command = ["docker", "compose"]
    else:
        pytest.skip("no Docker Compose here")
    shutil.copy(CLUSTERS / "compose.yaml", folder)
    return subprocess.run(
        [*command, "-f", "compose.yaml", "config"],
        cwd=folder,
        env={**os.environ, **secrets},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_compose_accepts_its_file_and_misses_the_passwords(tmp_path: Path) -> None:
    made = composed(tmp_path, POSTGRES_PASSWORD="p", S3_ACCESS_KEY="a", S3_SECRET_KEY="s", LISTEN="10.1.2.3")
    assert made.returncode == 0, made.stderr
    published = [
        port["host_ip"] for one in yaml.safe_load(made.stdout)["services"].values() for port in one.get("ports", [])
    ]
    assert sorted(published) == ["10.1.2.3", "10.1.2.3", "127.0.0.1"]
    missing = composed(tmp_path)
    assert missing.stdout == ""
    assert "POSTGRES_PASSWORD is missing" in missing.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of both libraries
def test_the_buckets_are_made_and_a_second_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    server = pytest.importorskip("moto.server", reason="no moto here").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0
    )
    server.start()
    host, port = server.get_host_and_port()
    (stores,) = documents("compose")
    told = {**stores["services"]["buckets"]["environment"], "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    try:
        for _ in range(2):
            made: dict[str, Any] = {}
            exec(stores["configs"]["buckets"]["content"], made)
            assert {bucket["Name"] for bucket in made["s3"].list_buckets()["Buckets"]} == {"mlflow", "sweeps"}
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # MLflow's own
def test_mlflows_server_knows_the_options_it_is_started_with() -> None:
    from mlflow.cli import cli

    (stores,) = documents("compose")
    program, command, *options = stores["services"]["mlflow"]["command"]
    known = {name for option in cli.commands[command].params for name in option.opts}
    assert program == "mlflow"
    assert {option.split("=")[0] for option in options} <= known


def test_the_slurm_script_is_sound_shell() -> None:
    script = str(CLUSTERS / "slurm.sh")
    checked = subprocess.run([tool("shellcheck"), "--severity=warning", script], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, "")
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0


def test_slurm_reads_its_options_before_the_first_command() -> None:
    lines = [line for line in text("slurm").splitlines() if line]
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH ")]
    assert options
    assert max(options) < first
    assert "#SBATCH --signal=B:INT@120" in lines
    assert text("slurm").count("srun --overlap") == text("slurm").count('--cpus-per-task="$cpus"') == 2  # not inherited


def test_the_slurm_script_says_how_it_is_used() -> None:
    done = subprocess.run(["bash", str(CLUSTERS / "slurm.sh")], capture_output=True, text=True)
    assert done.returncode == 2
    assert "SEARCH_SPACE [KEY=VALUE]..." in done.stderr


SRUN = """\
#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SWEEPER = """\
#!{python}
# Says who runs and what Ray it finds, then waits for the signal.
import os, signal, sys
import ray

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
ray.init(address=sys.argv[-1], log_to_driver=False, logging_level="ERROR")
token = os.environ["RAY_AUTH_TOKEN_PATH"]
print(*sys.argv[1:-1], "nodes", len(ray.nodes()), "mode", oct(os.stat(token).st_mode & 0o777), flush=True)
print(sys.argv[-1], flush=True)
ray.shutdown()
signal.sigwait([signal.SIGINT])
print("saved", flush=True)
sys.exit(130)
"""


def unset(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what a sweep on this machine alone has set in this process: with it nodes cannot join each other."""
    return {name: value for name, value in environment.items() if name not in LOCAL}


@pytest.fixture
def submitted(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The job on two nodes, as Slurm starts it, both of them this machine."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, code in {"srun": SRUN, "sweeper": SWEEPER.format(python=sys.executable)}.items():
        (programs / name).write_text(code)
        (programs / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": "2", "SLURMD_NODENAME": "node1"}
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", str(CLUSTERS / "slurm.sh"), "space.yaml", "search.trials=2"],
        cwd=tmp_path,
        env={**unset(os.environ), **slurm, "HOME": str(tmp_path), "PATH": path},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    for one in session(process.pid):
        one.kill()
    process.kill()
    process.communicate()


def session(leader: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != leader and os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            pass
    return found


def stranger(address: str, folder: Path) -> str:
    """What somebody with another token is told."""
    code = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False)"
    environment = {
        **os.environ,
        "HOME": str(folder / "elsewhere"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a" * 64,
    }
    done = subprocess.run([sys.executable, "-c", code, address], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    return done.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_slurm_job_starts_its_nodes_hands_signals_on_and_leaves_nothing(
    submitted: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert submitted.stdout is not None
    first = submitted.stdout.readline()
    logs = "".join(log.read_text(encoding="utf-8") for log in tmp_path.glob("sweeper-*.log"))
    assert first, logs
    assert first == "run space.yaml search.trials=2 --address nodes 2 mode 0o600\n"
    address = submitted.stdout.readline().strip()
    assert "AuthenticationError" in stranger(address, tmp_path)
    submitted.send_signal(signal.SIGINT)
    assert submitted.stdout.readline() == "saved\n"
    assert submitted.wait(PATIENCE) == 130
    psutil.wait_procs(session(submitted.pid), timeout=30)
    assert session(submitted.pid) == []
    assert list((tmp_path / ".ray").iterdir()) == []

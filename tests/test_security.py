"""What is promised about security, row by row, and which test shows it; and what can be read off the source.

A surface, its rule, and its tests:
C1   YAML is read by a safe, strict loader         tests/sweeper/space/test_document.py, here
C2   names never become paths outside the root     test_sweep.py, test_reading.py, test_promotion.py
C3   weights come from safetensors, no pickle runs tests/sweeper/test_pickles.py, here
C4   a sweep goes on in its owner's folder only    tests/sweeper/driver/test_sweep.py
C5   code that comes with a backbone is not run    tests/jobs/model/test_backbones.py, test_imports.py
C6   Ray is reached from this machine alone        tests/sweeper/test_exposure.py
C7   MLflow's pages likewise, and run nothing      tests/sweeper/tracking/test_ui.py, test_exposure.py
C8   no model is loaded through MLflow             here
C9   secrets are in no output                      tests/sweeper/test_exposure.py, test_settings.py, here
C10  files are their owner's alone                 tests/sweeper/test_exposure.py, test_settings.py, here
C11  no archive is unpacked                        here
C12  answers survive CSV, tables hold no formula   tests/jobs/answering/test_submission.py, test_table.py
C13  addresses have schemes that are known         tests/sweeper/storage/test_settings.py, here
C14  names and answers are text on every page      tests/sweeper/results/test_report.py, test_plots.py, here
C15  dependencies are past known holes             here
C16  temporary files and locks lie in own folders  here
"""

from __future__ import annotations

import ast
import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from packaging.requirements import Requirement
from packaging.version import Version

from jobs.backbone.names import check_name
from jobs.dataset.data import Data
from sweeper.errors import ConfigError, EnvironmentFailure
from sweeper.release.promotion import promotion_lock
from sweeper.results import comparison, plots, report
from sweeper.results.overview import sweep_results
from sweeper.results.table import table_markdown
from sweeper.storage.settings import read_stores
from sweeper.tracking.server import private_log, server_environment
from tests.support.commands import invoke
from tests.support.sources import source_files
from tests.support.spaces import TOY
from tests.support.written import Told, written

ROOT = Path(__file__).parents[1]
SOURCES = source_files()
SECRET = "Zq9canary-of-this-test"

# The lowest version without the advisories known of what is used here.
FLOORS = {
    "torch": "2.11",  # CVE-2026-4538, which 2.10.0 still has; before it CVE-2025-32434, CVE-2026-24747
    "transformers": "5.2.1",  # CVE-2026-5241, which 5.2.0 still has; before it CVE-2023-6730, CVE-2024-11394
    "ray": "2.52",  # CVE-2025-62593; CVE-2026-32981
    "mlflow": "3.17.2",  # CVE-2026-115886 before 3.17.0, CVE-2026-53995 up to 3.17.1; CVE-2026-116692, see test_ui.py
}


def calls(path: Path) -> Iterator[tuple[str, dict[str | None, str]]]:
    """Every call in a file: what is called, and its keyword arguments, as text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


def unsafe(name: str, told: dict[str | None, str]) -> bool:
    """Whether a call runs what it reads, unpacks an archive, or hands text to a shell."""
    module, _, function = name.rpartition(".")
    return any(
        (
            name in ("eval", "exec", "os.system", "os.popen", "yaml.full_load", "yaml.unsafe_load"),
            name == "yaml.load" and "Safe" not in told.get("Loader", ""),
            module in ("pickle", "cloudpickle", "dill", "marshal", "joblib", "shelve") and function != "dumps",
            name == "torch.load" and told.get("weights_only") != "True",
            name == "np.load" and told.get("allow_pickle", "False") != "False",
            function == "load_model" and "mlflow" in module,
            function in ("extractall", "unpack_archive"),
            told.get("shell", "False") != "False",
            told.get("trust_remote_code", "False") != "False",
        )
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_runs_what_it_reads(path: Path) -> None:
    assert [name for name, told in calls(path) if unsafe(name, told)] == []


@pytest.mark.parametrize(
    "code",
    [
        "yaml.load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "pickle.load(file)",
        "mlflow.pyfunc.load_model(uri)",
        "subprocess.run(text, shell=True)",
        "archive.extractall(folder)",
        "shutil.unpack_archive(path)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "eval(text)",
    ],
)
def test_what_would_do_so_is_seen(tmp_path: Path, code: str) -> None:
    (tmp_path / "module.py").write_text(code)
    assert [unsafe(name, told) for name, told in calls(tmp_path / "module.py")] == [True]


def test_no_archive_is_opened() -> None:
    for path in SOURCES:
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        }
        assert not imported & {"zipfile", "tarfile", "gzip", "bz2", "lzma", "pickle", "shelve", "marshal"}, path.name


def test_pickles_and_jobs_are_switched_off_for_mlflow(tmp_path: Path) -> None:
    environment = server_environment(read_stores(tmp_path, {}))
    for name in ("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"):
        assert environment[name] == "false"


def declared() -> dict[str, Requirement]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = [Requirement(line) for line in tomllib.loads(text)["project"]["dependencies"]]
    return {requirement.name: requirement for requirement in found}


def lowest(requirement: Requirement) -> Version:
    bounds = [Version(one.version.removesuffix(".*")) for one in requirement.specifier if one.operator in (">=", "==")]
    return max(bounds)


@pytest.mark.parametrize("package", FLOORS)
def test_a_dependency_may_not_be_as_old_as_its_known_holes(package: str) -> None:
    assert lowest(declared()[package]) >= Version(FLOORS[package])


def test_every_dependency_has_a_lowest_version() -> None:
    assert {name: lowest(requirement) for name, requirement in declared().items()}.keys() == declared().keys()


@pytest.mark.parametrize(
    "address",
    ["ftp://h/x", "gopher://h", "mysql://h/x", "databricks", "http://", "javascript:alert(1)", "data:,x", "dict://h:1"],
)
def test_a_tracking_address_of_another_kind_is_refused(tmp_path: Path, address: str) -> None:
    for name in ("MLFLOW_TRACKING_URI", "SWEEPER_LEDGER"):
        with pytest.raises(ConfigError):
            read_stores(tmp_path, {name: address})


@pytest.mark.parametrize("name", ["http://169.254.169.254/x", "https://evil.example/m", "file:///etc", "s3://b/k"])
def test_a_backbone_is_no_address(name: str) -> None:
    assert check_name(name)


def test_where_records_go_is_not_for_a_search_space_to_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(TOY, encoding="utf-8")
    for key in ("tracking_uri", "mlflow.tracking_uri", "ledger"):
        result = invoke("plan", "toy.yaml", f"{key}=http://evil.example")
        assert (result.exit_code, "unknown" in result.stderr) == (2, True), result.output


NASTY = "</td><script>alert(1)</script><img src=x onerror=alert(2)>"


def test_names_are_text_on_every_page_that_mlflow_shows(storage: RDBStorage, tmp_path: Path) -> None:
    told = [Told([0.1, value], {"backbone": NASTY + str(value)}, reason=NASTY) for value in (0.3, 0.5)]
    ledger = written(storage, tmp_path, [*told, Told([], {"backbone": NASTY}, "FAIL", NASTY)], data=NASTY)
    pages = {
        "comparison.md": table_markdown(comparison.compare_sweeps([ledger])[1]),
        "report.html": report.report_html(ledger),
        **plots.plot_files(plots.draw_plots(sweep_results(ledger))),
    }
    assert len(pages) >= 5
    assert "script" in pages["report.html"]
    assert {name for name, page in pages.items() if "<script" in page or "<img src=x" in page} == set()


# secrets

HINTS = ("toy.yaml", "mlflow.ini")


def left(folder: Path) -> bytes:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in HINTS]
    return b"".join(path.read_bytes() for path in files)


@pytest.mark.parametrize(
    "command",
    [["ls"], pytest.param(["run", "toy.yaml"], marks=pytest.mark.slow), ["doctor"], ["resume", "toy"]],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("name", ["SWEEPER_LEDGER", "MLFLOW_TRACKING_URI"])
def test_a_password_in_an_address_is_told_to_nobody(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], name: str
) -> None:
    monkeypatch.setenv(name, f"postgresql://me:{SECRET}@127.0.0.1:1/records")
    result = invoke(*command)
    assert result.exit_code != 0 or command == ["ls"], result.output
    assert SECRET not in result.output + str(result.exception)
    assert SECRET.encode() not in left(toy_folder)


@pytest.mark.parametrize(
    "override",
    ["token={}", "parameters.token={}", "parameters.backbone={}", "parameters.learning_rate={}", "job={}", "name={}/"],
)
def test_a_token_in_a_search_space_is_not_repeated(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    result = invoke("plan", "toy.yaml", override.format(SECRET))
    assert result.exit_code == 2, result.output
    assert SECRET not in result.output
    assert SECRET.encode() not in left(toy_folder)


@pytest.mark.parametrize(
    "secret", ["hf_abcdefghijklmnopqrstuv", "postgresql://me:hunter22@db/x", "password=hunter22", SECRET]
)
def test_a_parameter_that_holds_a_secret_is_refused(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    result = invoke("plan", "toy.yaml", f"parameters.folder='{secret}'")
    assert result.exit_code == 2, result.output
    assert "holds a secret" in result.stderr
    assert not any(part in result.output for part in (secret, "hunter22"))


# files

unix = pytest.mark.skipif(os.name != "posix", reason="modes and links are Unix's")


@unix
def test_every_command_makes_files_for_their_owner_alone(toy_folder: Path) -> None:
    before = os.umask(0)  # the most careless one there is
    try:
        for arguments in (["data", "sample", "--output", "sample"], ["schema"]):
            assert invoke(*arguments).exit_code == 0
    finally:
        os.umask(before)
    made = [path for path in toy_folder.rglob("*") if path.name not in HINTS]
    assert len(made) > 3
    assert {path.name: oct(path.stat().st_mode) for path in made if path.stat().st_mode & 0o077} == {}


@unix
@pytest.mark.slow
def test_what_leaves_the_house_is_its_owners_alone_at_first(
    toy_folder: Path, few: Data, checkpoints: dict[str, Path]
) -> None:
    files = [str(Path(few.location) / name) for name in ("context.json", "test.json")]
    team = ["--mc", str(checkpoints["mc"]), "--qa", str(checkpoints["qa"]), "--weight", "0"]
    before = os.umask(0)
    try:
        for arguments in (["submit", "--context", files[0], "--test", files[1], *team], ["export", "bundle", *team]):
            result = invoke(*arguments)
            assert result.exit_code == 0, result.output
    finally:
        os.umask(before)
    made = [path for path in toy_folder.rglob("*") if path.name not in HINTS]
    assert {"submission.csv", "bundle", "answer.py", "SHA256SUMS", "mlflow.db"} <= {path.name for path in made}
    assert {path.name: oct(path.stat().st_mode) for path in made if path.stat().st_mode & 0o077} == {}


@unix
def test_a_log_is_private_and_no_link_is_followed(tmp_path: Path) -> None:
    with private_log(tmp_path / "mlflow.log") as log:
        log.write(b"line")
    assert stat.S_IMODE((tmp_path / "mlflow.log").stat().st_mode) == 0o600
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "link.log").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        private_log(tmp_path / "link.log")
    assert target.read_text() == "mine"


@unix
def test_a_lock_that_is_a_link_is_refused_and_its_target_left(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "qa.lock").symlink_to(target)
    with pytest.raises(EnvironmentFailure, match=r"qa\.lock: .*; remove it"), promotion_lock(tmp_path, "qa"):
        pytest.fail("had the lock")
    assert target.read_text() == "mine"


ELSEWHERE: dict[str, str] = {
    "sweeper/cluster/ray_folder.py": "Ray's sockets need a short path; in a folder of mode 0700 of its own",
    "sweeper/doctor.py": "only names the folder, to check its locks",
    "sweeper/tracking/client.py": "only names the folder, in which MLflow locks a file",
    "sweeper/tracking/replacement.py": "files on their way between two runs; in a folder of mode 0700 of its own",
    "jobs/backbone/tokenizers.py": "saved and loaded once, as a check; in a folder of mode 0700 of its own",
    "sweeper/forecast/probing.py": "what a probe trains on and writes; in a folder of mode 0700 of its own",
    "jobs/training/dry_run.py": "what a trial run caches; in a folder of mode 0700 of its own",
    "jobs/answering/offline.py": "an exported folder may be read-only; in a folder of mode 0700 of its own",
}


def test_temporary_files_lie_beside_what_they_become() -> None:
    """A folder that all users share holds links of theirs; where one is needed, it says here why."""
    found = set()
    for path in SOURCES:
        for name, told in calls(path):
            function = name.rpartition(".")[2]
            if function in ("mktemp", "gettempdir") or (
                function in ("TemporaryDirectory", "NamedTemporaryFile", "TemporaryFile", "mkstemp", "mkdtemp")
                and "dir" not in told
            ):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == ELSEWHERE.keys()


def test_the_table_names_files_that_exist() -> None:
    words = [word.strip(",") for word in (__doc__ or "").split()]
    files = {word.rpartition("/")[2] for word in words if word.endswith(".py")}
    assert files <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert [word for word in words if word in {f"C{row}" for row in range(1, 17)}] == [
        f"C{row}" for row in range(1, 17)
    ]

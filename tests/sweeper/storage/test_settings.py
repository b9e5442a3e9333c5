"""What mlflow.ini and the environment can say, and that passwords never show."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.errors import ConfigError
from sweeper.secrets import redacted, redacted_values
from sweeper.storage.files import create_private
from sweeper.storage.settings import Stores, read_stores

SHIPPED = Path(__file__).parents[3] / "mlflow.ini"


def write(folder: Path, text: str) -> Path:
    (folder / "mlflow.ini").write_text(text, encoding="utf-8")
    return folder


def mistakes(folder: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_stores(write(folder, text), {})
    return caught.value.lines


def defaults(folder: Path) -> Stores:
    root = folder / "sweeps"
    ledger, tracking = f"sqlite:///{root}/ledger.db", f"sqlite:///{root}/mlflow.db"
    return Stores(root, ledger, tracking, (root / "artifacts").as_uri(), "127.0.0.1", 5000)


def test_without_a_file_everything_lies_in_sweeps_and_nothing_is_created(tmp_path: Path) -> None:
    assert read_stores(tmp_path, {}) == defaults(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_current_folder_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_stores(environ={}) == defaults(tmp_path)


def test_the_shipped_file_says_what_its_absence_means(tmp_path: Path) -> None:
    shutil.copy(SHIPPED, tmp_path)
    assert read_stores(tmp_path, {}) == defaults(tmp_path)


def test_paths_in_the_file_start_at_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    text = "[storage]\nroot = ../here\nledger = sqlite:///l.db?timeout=60\n[mlflow]\nartifacts = files # all\n"
    stores = read_stores(write(tmp_path, text), {})
    assert stores.root == tmp_path.parent / "here"
    assert stores.ledger == f"sqlite:///{tmp_path}/l.db?timeout=60"
    assert stores.tracking == f"sqlite:///{tmp_path.parent}/here/mlflow.db"
    assert stores.artifacts == (tmp_path / "files").as_uri()


def test_the_environment_wins_and_its_paths_start_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    write(folder, "[storage]\nroot = here\nledger = sqlite:///l.db\n[mlflow]\ntracking_uri = sqlite:///m.db\n")
    environ = {
        "SWEEPER_ROOT": "there",
        "SWEEPER_LEDGER": "postgresql+psycopg://me:pw@db/ledger",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000/",
    }
    stores = read_stores(folder, environ)
    assert stores.root == tmp_path / "there"
    assert stores.ledger == environ["SWEEPER_LEDGER"]
    assert (stores.tracking, stores.remote, stores.address) == (
        "http://mlflow:5000",
        True,
        "http://mlflow:5000",
    )


def test_a_server_decides_where_artifacts_go(tmp_path: Path) -> None:
    stores = read_stores(write(tmp_path, "[mlflow]\ntracking_uri = https://mlflow.example.org\n"), {})
    assert stores.artifacts is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("s3://bucket/folder/", "s3://bucket/folder"), ("shared", "{}/shared"), ("/mnt/shared/", "/mnt/shared")],
)
def test_checkpoints_lie_in_a_folder_or_a_bucket(tmp_path: Path, text: str, expected: str) -> None:
    stores = read_stores(write(tmp_path, f"[storage]\ncheckpoints = {text}\n"), {})
    assert stores.checkpoints == expected.format(tmp_path)
    assert read_stores(tmp_path, {"SWEEPER_CHECKPOINTS": "s3://other/x"}).checkpoints == "s3://other/x"
    assert defaults(tmp_path).checkpoints is None


@pytest.mark.parametrize("text", ["gs://bucket/x", "s3:///x", "s3://key:hunter2@bucket/x", "s3://bucket/a?b"])
def test_checkpoints_elsewhere_are_refused(tmp_path: Path, text: str) -> None:
    (line,) = mistakes(tmp_path, f"[storage]\ncheckpoints = {text}\n")
    assert line.startswith("mlflow.ini:2: [storage] checkpoints: ")
    assert line.endswith("is neither a folder nor a bucket; write a path, or s3://BUCKET/FOLDER")
    assert "hunter2" not in line


def test_an_empty_variable_is_no_variable(tmp_path: Path) -> None:
    assert read_stores(tmp_path, {"SWEEPER_ROOT": "", "MLFLOW_TRACKING_URI": ""}) == defaults(tmp_path)


def test_an_address_is_where_the_pages_are_served(tmp_path: Path) -> None:
    stores = read_stores(write(tmp_path, "[ui]\nport = 5050\nhost = localhost\n"), {})
    assert (stores.address, stores.remote) == ("http://localhost:5050", False)


def test_a_mark_and_foreign_line_ends_are_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "mlflow.ini").write_bytes(b"\xef\xbb\xbf[ui]\r\nport = 5050\r\n")
    assert read_stores(tmp_path, {}).port == 5050


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    text = "[storrage]\nroot = x\n[storage]\nledgr = y\n\n[ui]\nport = 99999\nhost = 0.0.0.0\n"
    lines = mistakes(tmp_path, text)
    assert [line.split(" ")[0] for line in lines] == [
        "mlflow.ini:1:",
        "mlflow.ini:4:",
        "mlflow.ini:8:",
        "mlflow.ini:7:",
    ]
    assert "did you mean 'storage'?" in lines[0]
    assert "did you mean 'ledger'?" in lines[1]


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("[ui]\nport = no", "mlflow.ini:2: [ui] port", "whole number"),
        ("[ui]\nport = 0", "mlflow.ini:2: [ui] port", "1 to 65535"),
        ("[ui]\nport = ５０００", "mlflow.ini:2: [ui] port", "whole number"),
        ("[ui]\nhost = mlflow.example.org", "mlflow.ini:2: [ui] host", "ask for no password"),
        ("[DEFAULT]\nport = 1", "mlflow.ini:1: [DEFAULT]", "unknown section"),
        ("[ui]\nport = 5000\n  host = localhost", "mlflow.ini:2: [ui] port", "indented"),
        ("[ui]\nport = 1\nport = 2", "mlflow.ini:3: [ui] port", "twice"),
        ("[ui]\nport = 1\n[ui]", "mlflow.ini:3: [ui]", "twice"),
        ("[ui]\nport = 1\nwhat", "mlflow.ini:3: what", "key = value"),
        ("port = 1", "mlflow.ini:1: port = 1", "[section]"),
        (
            "[mlflow]\ntracking_uri = file:///runs",
            "mlflow.ini:2: [mlflow] tracking_uri",
            "no longer keeps runs",
        ),
        ("[mlflow]\ntracking_uri = ./mlruns", "mlflow.ini:2: [mlflow] tracking_uri", "sqlite:///mlflow.db"),
        ("[mlflow]\ntracking_uri = databricks", "mlflow.ini:2: [mlflow] tracking_uri", "neither"),
        (
            "[mlflow]\ntracking_uri = mysql://h/db",
            "mlflow.ini:2: [mlflow] tracking_uri",
            "unknown scheme 'mysql'",
        ),
        ("[mlflow]\ntracking_uri = htp://h", "mlflow.ini:2: [mlflow] tracking_uri", "did you mean 'http'?"),
        ("[mlflow]\ntracking_uri = http://", "mlflow.ini:2: [mlflow] tracking_uri", "no host"),
        ("[mlflow]\ntracking_uri = runs.db", "mlflow.ini:2: [mlflow] tracking_uri", "sqlite:///runs.db"),
        ("[storage]\nledger = sqlite://l.db", "mlflow.ini:2: [storage] ledger", "three slashes"),
        ("[storage]\nledger = sqlite:///:memory:", "mlflow.ini:2: [storage] ledger", "names no file"),
        ("[storage]\nledger = http://h", "mlflow.ini:2: [storage] ledger", "known here: postgresql, sqlite"),
        ("[storage]\nroot = what?", "mlflow.ini:2: [storage] root", "choose another folder"),
        (
            "[mlflow]\ntracking_uri = http://h\nartifacts = here",
            "mlflow.ini:3: [mlflow] artifacts",
            "remove this key",
        ),
    ],
)
def test_a_mistake_is_told_with_place_and_cure(tmp_path: Path, text: str, place: str, says: str) -> None:
    lines = mistakes(tmp_path, text)
    assert len(lines) == 1
    assert lines[0].startswith(f"{place}: ")
    assert says in lines[0]


def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^MLFLOW_TRACKING_URI: file:/x is neither"):
        read_stores(tmp_path, {"MLFLOW_TRACKING_URI": "file:/x"})


@pytest.mark.parametrize("content", [b"\xff\xfe[\x00u\x00", None])
def test_what_cannot_be_read_is_told(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "mlflow.ini"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^mlflow.ini: .*; make it a UTF-8 text file"):
        read_stores(tmp_path, {})


def test_a_mistake_shows_no_password(tmp_path: Path) -> None:
    lines = mistakes(tmp_path, "[mlflow]\ntracking_uri = mysql://me:hunter2@db/runs\n")
    assert "hunter2" not in lines[0]
    assert "mysql://me:***@db/runs" in lines[0]


def test_printing_stores_shows_no_password(tmp_path: Path) -> None:
    environ = {"SWEEPER_LEDGER": "postgresql://me:hun@ter2@db/x", "MLFLOW_TRACKING_URI": "https://t0ken@h:1"}
    stores = read_stores(tmp_path, environ)
    for shown in (str(stores), repr(stores), f"{stores}", stores.address):
        assert "ter2" not in shown
        assert "t0ken" not in shown
    assert "postgresql://me:***@db/x" in repr(stores)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ('{"password": "abc", "seed": 1}', '{"password": "***", "seed": 1}'),
        ("run --hf-token abc --seed 1", "run --hf-token *** --seed 1"),
        ("http://h/x?access_token=abc&y=2", "http://h/x?access_token=***&y=2"),
        ("HF said hf_abcdefghijklmnopqrst", "HF said ***"),
        ("tokenizer: bert-base-chinese, max_tokens=512", "tokenizer: bert-base-chinese, max_tokens=512"),
        ("http://127.0.0.1:5000/#/experiments/1", "http://127.0.0.1:5000/#/experiments/1"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("1970年代：問題 @ 答案", "1970年代：問題 @ 答案"),
    ],
)
def test_secrets_are_hidden_and_the_rest_is_kept(text: str, expected: str) -> None:
    assert redacted(text, {}) == expected


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=("Z", "C")), min_size=1))
def test_no_password_in_an_address_survives(password: str) -> None:
    shown = redacted(f"cannot reach postgresql://me:Zq9{password}@db/ledger: refused", {})
    assert shown.endswith("@db/ledger: refused")
    assert "Zq9" not in shown


@pytest.mark.parametrize("piece", ["長", "-", "--token ", "a://b:", "hf_", "eyJ", "password"])
def test_a_long_text_is_redacted_in_no_time(piece: str) -> None:
    began = time.perf_counter()
    redacted(piece * 20_000, {})
    assert time.perf_counter() - began < 1


def test_the_environments_own_secrets_are_hidden_wherever_they_turn_up() -> None:
    environ = {"WANDB_API_KEY": "correct horse", "DB_PASSWORD": "short", "HOME": "/home/me/project"}
    assert redacted("sent correct horse from /home/me/project, short", environ) == (
        "sent *** from /home/me/project, short"
    )


def test_values_under_a_secrets_name_are_hidden() -> None:
    values = {
        "hf_token": 5,
        "aws_secret_access_key": "x",
        "tokenizer": "bert",
        "note": "password=x",
        "seed": 1,
    }
    assert redacted_values(values, {}) == {
        "hf_token": "***",
        "aws_secret_access_key": "***",
        "tokenizer": "bert",
        "note": "password=***",
        "seed": 1,
    }


def test_databases_and_folders_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    create_private(f"sqlite:///{tmp_path}/a/b/runs.db?timeout=1")
    create_private((tmp_path / "a" / "files 文").as_uri())
    modes = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"a": 0o700, "a/b": 0o700, "a/b/runs.db": 0o600, "a/files 文": 0o700}


def test_what_exists_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "runs.db"
    file.write_text("content")
    file.chmod(0o640)
    create_private(f"sqlite:///{file}")
    create_private("postgresql://h/db")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("content", 0o640)
    assert list(tmp_path.iterdir()) == [file]

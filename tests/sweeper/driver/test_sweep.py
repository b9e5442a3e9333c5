"""A sweep goes on only in a folder of its own, below the root, that nobody else writes to."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import optuna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sweeper.driver.sweep import folder_problem, sweep_folder
from sweeper.errors import ConfigError, EnvironmentFailure, Failure
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import create_ledger
from sweeper.ledger.lookup import find_trial
from sweeper.release.lookup import find_checkpoint
from sweeper.space.search_space import SearchSpace
from sweeper.storage.settings import read_stores
from tests.support.commands import invoke

Make = Callable[..., SearchSpace]

NASTY = (
    "..",
    ".",
    "../x",
    "/etc/x",
    "x/../../y",
    "..%2fx",
    "x\0y",
    "~",
    "x\\..\\y",
    ".hidden",
    "x\n",
    "",
    "．．",
    "a" * 65,
)
unix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are Unix's")


@pytest.mark.parametrize("name", NASTY)
def test_a_name_that_leaves_the_root_makes_no_folder(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    with pytest.raises(ConfigError, match="cannot name a folder"):
        sweep_folder(root, name)
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=70) | st.from_regex(r"[./~%A-Za-z0-9_-]{1,20}", fullmatch=True))
@example("link")
@example("../outside")
def test_whatever_the_name_the_folder_lies_below_the_root(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    top = tmp_path_factory.getbasetemp() / "names"
    root, outside = top / "root", top / "outside"
    for folder in (root, outside):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "link").unlink(missing_ok=True)
    (root / "link").symlink_to(outside)
    try:
        folder = sweep_folder(root, name)
    except Failure:
        pass
    else:
        assert folder.resolve().parent == root.resolve()
    assert list(outside.iterdir()) == []
    assert {path.name for path in top.iterdir()} == {"root", "outside"}


@unix
def test_a_new_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    assert stat.S_IMODE(sweep_folder(tmp_path / "sweeps", "toy").stat().st_mode) == 0o700
    assert sweep_folder(tmp_path / "sweeps", "toy") == tmp_path / "sweeps" / "toy"


@unix
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_write_to_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    folder = sweep_folder(tmp_path, "toy")
    folder.chmod(mode)
    with pytest.raises(EnvironmentFailure, match=r"can be written to by others; `chmod go-w` it") as caught:
        sweep_folder(tmp_path, "toy")
    assert caught.value.exit_code == 4
    folder.chmod(0o755)
    assert sweep_folder(tmp_path, "toy") == folder


@unix
def test_another_users_folder_and_a_link_are_refused(tmp_path: Path) -> None:
    folder = sweep_folder(tmp_path, "toy")
    foreign = SimpleNamespace(st_mode=folder.stat().st_mode, st_uid=os.geteuid() + 1)
    assert f"belongs to user {os.geteuid() + 1}" in (folder_problem(cast(os.stat_result, foreign)) or "")
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(EnvironmentFailure, match="is a link"):
        sweep_folder(tmp_path, "link")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives a folder away")
def test_a_folder_that_was_given_away_is_refused(tmp_path: Path) -> None:
    os.chown(sweep_folder(tmp_path, "toy"), 12345, -1)
    with pytest.raises(EnvironmentFailure, match="belongs to user 12345"):
        sweep_folder(tmp_path, "toy")


@pytest.fixture
def home(here: Path, monkeypatch: pytest.MonkeyPatch, toy_space: Make) -> Path:
    """Return a current folder whose ledger has the sweep `toy` and one with a name that leads out of it."""
    home = here / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    storage = open_storage(read_stores(home, {}).ledger)
    attributes = create_ledger(storage, toy_space(), "toy").attributes
    study = optuna.create_study(storage=storage, study_name="../../evil")
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    return home


def below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.suffix not in (".db-wal", ".db-shm")}


COMMANDS = [
    ["resume"],
    ["sync"],
    ["compare"],
    ["report"],
    ["best"],
    ["errors"],
    ["promote"],
    ["evaluate", "sample", "--qa"],
    ["export", "bundle", "--end-to-end"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_names_on_the_command_line_lead_nowhere(home: Path, tmp_path: Path, command: list[str]) -> None:
    before = below(tmp_path)
    for name in ("../toy", "../../x/3", "/etc/x", "..%2fx", "../../x@champion", "x\nqa@champion", "toy/../../x"):
        result = invoke(*command, name)
        assert result.exit_code in (2, 4), (name, result.output, result.exception)
        assert "Traceback" not in result.output
    assert below(tmp_path) == before


@settings(max_examples=25)
@given(st.text(max_size=40) | st.from_regex(r"[./~%@A-Za-z0-9_-]{1,20}", fullmatch=True))
@example("toy@champion")
@example("/proc/self/root/0")
@example("~nobody-of-this-name")
@example("long" * 100)
def test_no_reference_finds_what_is_not_on_record(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    stores = read_stores(tmp_path_factory.getbasetemp() / "references", {})
    storage = open_storage(stores.ledger)
    for find in (lambda: find_trial(text, storage), lambda: find_checkpoint(text, stores)):
        with pytest.raises(Failure):
            find()


@pytest.mark.parametrize("command", [pytest.param("resume", marks=pytest.mark.slow), "sync"])
def test_a_name_from_the_database_leads_nowhere(home: Path, tmp_path: Path, command: str) -> None:
    before = below(tmp_path)
    result = invoke(command, "../../evil")
    assert (result.exit_code, below(tmp_path) - before - below(home / "sweeps")) == (2, set()), result.output
    assert "cannot name a folder" in result.stderr


@unix
@pytest.mark.parametrize("command", [pytest.param("resume", marks=pytest.mark.slow), "sync"])
def test_a_sweep_does_not_go_on_in_a_folder_that_others_write_to(home: Path, command: str) -> None:
    folder = sweep_folder(home / "sweeps", "toy")
    folder.chmod(0o777)
    result = invoke(command, "toy")
    assert result.exit_code == 4, result.output
    assert re.search(r"^sweep toy: its folder .* can be written to by others; `chmod go-w` it", result.stderr, re.M)
    assert list(folder.iterdir()) == []

"""The shell completes names, reads files only, and never hears of a mistake."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from jobs import JOBS
from sweeper.cli import main
from sweeper.ledger.database import open_storage
from tests.support.sources import ROOT
from tests.support.written import written

README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = {
    shell: rf"^.*_SWEEPER_COMPLETE={shell}_source sweeper.*?(?=\s+# {shell}: )" for shell in ("bash", "zsh", "fish")
}


def offered(*words: str) -> list[str]:
    """Return what is offered for the last of the words behind `sweeper`."""
    found = ShellComplete(main, {}, "sweeper", "_SWEEPER_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return [item.value if item.type == "plain" else f"<{item.type}>" for item in found]


@pytest.fixture(scope="module")
def ledger_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ledger with two sweeps."""
    folder = tmp_path_factory.mktemp("ledger")
    storage = open_storage(f"sqlite:///{folder}/ledger.db")
    for name in ("first", "first-2"):
        written(storage, folder, [], name=name)
    return folder / "ledger.db"


@pytest.fixture
def sweeps(ledger_file: Path, here: Path) -> Path:
    """Return the current folder, whose ledger holds two sweeps."""
    (here / "sweeps").mkdir()
    shutil.copy(ledger_file, here / "sweeps")
    return here


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_commands_are_completed(here: Path) -> None:
    assert offered("comp") == ["compare"]
    assert offered("data", "s") == ["sample"]


@pytest.mark.parametrize("command", ["run", "plan"])
def test_search_spaces_are_completed_by_file_and_by_name(here: Path, command: str) -> None:
    (here / "quick.yaml").touch()
    assert offered(command, "qu") == ["quick.yaml", "quickstart"]
    assert offered(command, "../") == ["<file>"]
    (here / "search_spaces").mkdir()
    (here / "search_spaces" / "quiet.yaml").touch()
    assert offered(command, "qui") == ["quick.yaml", "quickstart", "quiet"]


@pytest.mark.parametrize(
    "words",
    [
        *(
            [command]
            for command in ("resume", "status", "stop", "sync", "compare", "report", "errors", "best", "promote")
        ),
        ["compare", "first"],
        ["errors", "first", "--vs"],
    ],
)
def test_sweeps_are_completed_from_the_ledger(sweeps: Path, words: list[str]) -> None:
    before = contents(sweeps)
    assert offered(*words, "fi") == ["first", "first-2"]
    assert offered(*words, "x") == []
    assert contents(sweeps) == before


def test_jobs_and_folders_are_completed(here: Path) -> None:
    assert offered("init", "") == offered("params", "") == sorted(JOBS)
    assert offered("init", "--data", "") == offered("data", "check", "h") == offered("evaluate", "h") == ["<dir>"]


@pytest.mark.parametrize("trouble", ["no ledger", "a damaged ledger", "a broken mlflow.ini", "a ledger on a server"])
def test_nothing_is_offered_or_created_where_nothing_can_be_read(
    here: Path, trouble: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if trouble == "a damaged ledger":
        (here / "sweeps").mkdir()
        (here / "sweeps" / "ledger.db").write_bytes(b"no database" * 999)
    elif trouble == "a broken mlflow.ini":
        (here / "mlflow.ini").write_text("[storage]\nroot = a\nroot = b\n")
    elif trouble == "a ledger on a server":
        monkeypatch.setenv("SWEEPER_LEDGER", "postgresql://127.0.0.1:1/none")
    before = contents(here)
    assert offered("status", "") == []
    assert contents(here) == before
    assert capfd.readouterr() == ("", "")


SHELLS = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}
ASK = {
    "bash": """{line}
for typed in 'run qa_b' 'status fi'; do
  COMP_WORDS=(sweeper $typed); COMP_CWORD=2; COMPREPLY=()
  _sweeper_completion sweeper
  printf '%s\\n' "${{COMPREPLY[@]}}"
done""",
    "fish": """{line}
complete -C "sweeper run qa_b"; complete -C "sweeper status fi\"""",
    "zsh": """autoload -Uz compinit; compinit -D -u
{line}
[ $_comps[sweeper] = _sweeper_completion ] || exit 1
compadd() {{ local array=${{@[-1]}}; print -l ${{(P)array}} }}
_describe() {{ print -l ${{(P)3}} }}
for typed in 'run qa_b' 'status fi'; do words=(sweeper ${{=typed}}); CURRENT=3; _sweeper_completion; done""",
}


@pytest.mark.slow
@pytest.mark.parametrize("shell", ASK)
def test_the_line_of_the_readme_makes_a_real_shell_complete(shell: str, sweeps: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    line = re.search(rf"^.*_SWEEPER_COMPLETE={shell}_source sweeper.*?(?=\s+# {shell}: )", README, re.MULTILINE)
    assert line, f"README.md: show how {shell} completes"
    tools = sweeps / "bin"
    tools.mkdir()
    (tools / "sweeper").write_text(f"#!{sys.executable}\nfrom sweeper.cli import main\nmain()\n")
    (tools / "sweeper").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(sweeps)}
    command = (
        [program, "--norc"] if shell == "bash" else [program, "-f"] if shell == "zsh" else [program, "--no-config"]
    )
    done = subprocess.run(
        [*command, "-c", ASK[shell].format(line=line[0])],
        cwd=sweeps, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.split() == ["qa_backbones", "first", "first-2"]

"""What commands print fits the screen, and no word of it is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import create_ledger
from sweeper.space.reading import read_search_space
from tests.support.commands import invoke
from tests.support.spaces import TOY
from tests.support.trials import asked, evaluated

COMMANDS = (
    "ls",
    "status toy",
    "plan toy.yaml",
    "params qa",
    "compare toy",
    "compare toy --timing",
    "compare toy single",
    "compare single",
)
LONG = "/a/folder/that/holds/模型/of/a/name/that/is/longer/than/any/line/of/a/terminal/with/eighty/columns/has/room/for"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two sweeps: one of four trials with a long parameter, one with a single trial."""
    folder = tmp_path_factory.mktemp("width")
    (folder / "toy.yaml").write_text(TOY, encoding="utf-8")
    (folder / "sweeps").mkdir()
    storage = open_storage(f"sqlite:///{folder}/sweeps/ledger.db")
    drawn = ["parameters.folder={values: ['" + LONG + "', '']}", "parameters.warmup_ratio={min: 0, max: 1}"]
    for name, trials in (("toy", 4), ("single", 1)):
        space = read_search_space(folder / "toy.yaml", [f"name={name}", f"search.trials={trials}", *drawn])
        ledger = create_ledger(storage, space, name)
        for _ in range(trials):
            number = asked(ledger, space).number
            evaluated(ledger, number, folder / f"{name}-{number}", 1 + number)
            ledger.finish(number, "COMPLETE")
    return folder


@pytest.fixture
def printed(folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Print what a command does on a screen of so many columns, or into a file."""
    monkeypatch.chdir(folder)

    def run(command: str, columns: int | None = None) -> str:
        monkeypatch.setenv("COLUMNS", str(columns or ""))
        result = invoke(*command.split())
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_no_line_is_wider_than_the_screen(printed: Callable[..., str], command: str) -> None:
    whole = printed(command)
    assert LONG in whole or not command.startswith("compare toy") or "timing" in command
    known = words_in(whole) | {
        "no",
        "room",
        "for",
        "all",
        "columns",
        *["sweeper", "compare", "toy", "single", "--csv", "constant"],
    }
    for columns in (40, 80, 120):
        text = printed(command, columns)
        for line in text.splitlines():
            assert cell_len(line.rstrip()) <= columns or len(line.split()) == 1, line
        assert all(word in known or word.startswith("─") for word in words_in(text))


def words_in(text: str) -> set[str]:
    return {word.strip(",;:") for word in text.replace("=", " ").split()}


def test_every_parameter_of_a_single_trial_is_told_below_its_table(printed: Callable[..., str]) -> None:
    text = printed("compare single", 80)
    assert text.splitlines()[1].split()[:3] == ["trial", "state", "height"]
    assert {"constant:", "num_train_epochs=4", "seed=42"} <= set(text.split())

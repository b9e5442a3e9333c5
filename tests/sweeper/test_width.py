"""What commands print fits the screen, and no word of it is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import create_ledger
from sweeper.space.search_space import SearchSpace
from tests.support.commands import invoke
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


@pytest.fixture
def sweeps(toy_folder: Path, toy_space: Callable[..., SearchSpace]) -> None:
    """Two sweeps: one of four trials with a long folder, one with a single trial."""
    (toy_folder / "sweeps").mkdir()
    storage = open_storage(f"sqlite:///{toy_folder}/sweeps/ledger.db")
    folders = "parameters.folder={values: ['" + LONG + "', '']}"
    for name, trials in (("toy", 4), ("single", 1)):
        space = toy_space(
            f"name={name}", f"search.trials={trials}", folders, "parameters.warmup_ratio={min: 0, max: 1}"
        )
        ledger = create_ledger(storage, space, name)
        for _ in range(trials):
            number = asked(ledger, space).number
            evaluated(ledger, number, toy_folder / f"{name}-{number}", 1 + number)
            ledger.finish(number, "COMPLETE")


@pytest.mark.usefixtures("sweeps")
@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_no_line_is_wider_than_the_screen(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    whole = {command: invoke(*command.split()).stdout for command in COMMANDS}
    assert LONG in whole["compare toy"]
    monkeypatch.setenv("COLUMNS", str(columns))
    for command in COMMANDS:
        result = invoke(*command.split())
        assert result.exit_code == 0, result.output
        for line in result.stdout.splitlines():
            assert cell_len(line.rstrip()) <= columns or len(line.split()) == 1, line
        known = set(whole[command].replace("=", " ").split())
        notes = {"no", "room", "for", "all", "columns:", "sweeper", "compare", "toy", "single", "--csv", "constant:"}
        printed = (word.strip(",;:") for word in result.stdout.replace("=", " ").split())
        unknown = {word for word in printed if word not in {one.strip(",;:") for one in known | notes}}
        assert all(word.startswith("─") for word in unknown), unknown


@pytest.mark.usefixtures("sweeps")
def test_every_parameter_of_a_single_trial_is_told_below_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = invoke("compare", "single").stdout
    assert text.splitlines()[1].split()[:3] == ["trial", "state", "height"]
    assert {"constant:", "num_train_epochs=4", "seed=42", "weight_decay=0"} & set(text.split()) >= {
        "constant:",
        "num_train_epochs=4",
        "seed=42",
    }

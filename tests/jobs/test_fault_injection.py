from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from jobs import fault_injection
from tests.support.sources import ROOT, source_files


def test_a_fault_happens_once_and_leaves_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fault_injection.VARIABLE, str(tmp_path))
    (tmp_path / "asked").write_text("ledger.report:2:raise")
    fault_injection.point("ledger.report")
    fault_injection.point("ledger.finish")
    with pytest.raises(RuntimeError, match="asked for"):
        fault_injection.point("ledger.report")
    assert fault_injection.happened(tmp_path) == ["ledger.report:2:raise"]
    (tmp_path / "asked").write_text("ledger.report:2:raise ledger.finish:9:kill")  # counted anew
    fault_injection.point("ledger.report")
    fault_injection.point("ledger.report")
    assert fault_injection.happened(tmp_path) == ["ledger.report:2:raise"]


def test_nothing_happens_unless_the_environment_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(fault_injection.VARIABLE, raising=False)
    (tmp_path / "asked").write_text("ledger.report:1:kill")
    fault_injection.point("ledger.report")
    assert fault_injection.happened(tmp_path) == []


@pytest.mark.parametrize("line", ["nowhere:1:kill", "ledger.report:x:kill", "ledger.report:1:explode", "ledger.report"])
def test_a_fault_that_cannot_be_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="write POINT:N:ACTION"):
        fault_injection.parse_faults(line)


def passed_points() -> list[str]:
    """The points that stand in the code."""
    found = []
    for path in source_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "fault_injection.point":
                found.append(str(ast.literal_eval(node.args[0])))
    return found


def test_every_point_stands_in_the_code_once() -> None:
    assert sorted(passed_points()) == sorted(fault_injection.POINTS)


def test_every_point_has_a_test_that_makes_it_fail() -> None:
    """Each is asked for in a test other than this."""
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    assert len(tests) >= 70
    texts = [path.read_text(encoding="utf-8") for path in tests]
    asked = {name for text in texts for name in re.findall(r"\b([a-z]+\.[a-z]+)\b", text)}
    assert set(fault_injection.POINTS) <= asked

"""The readers of what users write, fuzzed: always the same inputs, and with SWEEPER_FUZZ_SECONDS=600 ten minutes of
more of them each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.corpora import CMRC, DRCD, ROWS, SQUAD
from tests.support.questions import GOOD

ROOT = Path(__file__).parents[1]
SECONDS = int(os.environ.get("SWEEPER_FUZZ_SECONDS", "0"))
HOW_LONG = f"-max_total_time={SECONDS}" if SECONDS else "-runs=500"
# The limit on memory leaves room for pytest's own peak, which Linux counts as its child's too.
LIMITS = ["-timeout=5", "-rss_limit_mb=3000", "-max_len=20000", "-len_control=10", "-print_final_stats=1", "-seed=1"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 120)]


def seeds(target: str, folder: Path) -> Path:
    """Valid inputs to begin with."""
    folder.mkdir()
    if target == "yaml":
        for path in (ROOT / "search_spaces").glob("*.yaml"):
            shutil.copy(path, folder)
        return folder
    corpora = {"squad": SQUAD, "drcd": DRCD, "cmrc": CMRC, "rows": ROWS, "references": {"q0": ["南投縣", "南投"]}}
    for name, content in {**GOOD, **corpora}.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    (folder / "submission.csv").write_text('id,answer\nq0,南投縣\nq1,"「湖」, 與山"\n', encoding="utf-8")
    return folder


@pytest.mark.parametrize("target", ["yaml", "data"])
def test_no_input_ends_in_anything_but_its_values_or_lines(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed")
    command = [sys.executable, "-m", "tests.support.fuzz", target, str(seeds(target, tmp_path / "inputs"))]
    done = subprocess.run(
        [*command, HOW_LONG, f"-artifact_prefix={tmp_path}/", *LIMITS],
        cwd=ROOT, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    found = [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
    assert (done.returncode, found) == (0, []), done.stdout[-2_000:] + done.stderr[-4_000:]
    assert "stat::number_of_executed_units" in done.stderr

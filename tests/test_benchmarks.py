"""Every benchmark runs, small, and says what it promises. How fast is for the benchmarks to tell, not for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_spans_agree_with_the_loop_or_beat_it() -> None:
    command = [sys.executable, "benchmarks/spans.py", "--windows", "20", "--length", "64", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    result = json.loads(done.stdout)
    assert result["windows"] == 20
    assert result["ratio"] > 0
    assert 0 < result["agree"] <= 1

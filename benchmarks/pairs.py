"""Time two implementations in turn and report medians and ratio. Uses the standard library only."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Pairs(NamedTuple):
    """Hold the median seconds of both implementations and the median ratio of the pairs (theirs / ours)."""

    ours: float
    reference: float
    ratio: float
    pairs: int


def alternate(ours: Callable[[], object], reference: Callable[[], object], pairs: int = 5, cpu: bool = False) -> Pairs:
    """Run both in turn, `pairs` times, with the order swapped every second time.

    The caller does one-time work (imports, building a model) before. With `cpu`, the CPU seconds of all threads of this
    process are counted; they depend less on other work on the machine than wall seconds.
    """
    taken: list[tuple[float, float]] = []
    for turn in range(pairs):
        ways = (ours, reference) if turn % 2 == 0 else (reference, ours)
        first, second = (seconds(way, time.process_time if cpu else time.perf_counter) for way in ways)
        taken.append((first, second) if turn % 2 == 0 else (second, first))
    mine, theirs = zip(*taken, strict=True)
    ratio = statistics.median(their / my for my, their in taken)
    return Pairs(statistics.median(mine), statistics.median(theirs), ratio, pairs)


def seconds(function: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    began = clock()
    function()
    return clock() - began


def arguments(description: str | None, **options: Any) -> argparse.Namespace:
    """Parse a benchmark's command line: `--pairs`, `--json`, and for each of `options` a number, a text, or a switch
    if its default is False."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"pairs": 5, **options}.items():
        kind = {"action": "store_true"} if default is False else {"type": type(default), "default": default}
        parser.add_argument(f"--{name.replace('_', '-')}", **kind)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def show(result: dict[str, Any], as_json: bool) -> None:
    """Print a result, one line of JSON or a line per entry."""
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:32} {value:.6g}" if isinstance(value, float) else f"{name:32} {value}")

"""Best span of each window: jobs.spans against a loop over the n best starts and ends, in turn in one process.

    python benchmarks/spans.py [--windows 300] [--length 512] [--json]

The loop is the way of Hugging Face's question-answering examples, in our own words: the `n_best` greatest starts
joined with the `n_best` greatest ends, spans that are upside down or too long left out, the best of the rest.
Wherever the loop finds a span, ours scores at least as high; how often they agree is printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from jobs.spans import best_spans

MOST_TOKENS, N_BEST, ROUNDS = 30, 20, 5


def loop(start: np.ndarray, end: np.ndarray) -> list[tuple[float, int, int]]:
    """Score, first and last position for each window; -inf where no candidate is a span."""
    found = []
    for starts, ends in zip(start, end, strict=True):
        best = (float("-inf"), 0, 0)
        for i in np.argsort(starts)[: -N_BEST - 1 : -1].tolist():
            for j in np.argsort(ends)[: -N_BEST - 1 : -1].tolist():
                if i <= j < i + MOST_TOKENS and starts[i] + ends[j] > best[0]:
                    best = (float(starts[i] + ends[j]), i, j)
        found.append(best)
    return found


def ours(start: np.ndarray, end: np.ndarray) -> list[tuple[float, int, int]]:
    spans = best_spans(start, end, np.ones(start.shape, dtype=bool), MOST_TOKENS)
    return list(zip(spans.scores.tolist(), spans.first.tolist(), spans.last.tolist(), strict=True))


def seconds(function: Callable[..., object], *arguments: np.ndarray) -> float:
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def measure(windows: int, length: int) -> dict[str, float]:
    """Median milliseconds a window of both, their ratio, and the share of windows in which they agree."""
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, windows, length)).astype(np.float32)
    pairs = list(zip(ours(start, end), loop(start, end), strict=True))
    assert all(mine[0] >= theirs[0] - 1e-6 for mine, theirs in pairs)
    times = [(seconds(ours, start, end), seconds(loop, start, end)) for _ in range(ROUNDS)]
    mine, theirs = (statistics.median(column) * 1000 / windows for column in zip(*times, strict=True))
    agree = sum(abs(m[0] - t[0]) < 1e-6 for m, t in pairs) / windows
    return {
        "windows": windows,
        "length": length,
        "ours_ms": mine,
        "loop_ms": theirs,
        "ratio": theirs / mine,
        "agree": agree,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=300)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    result = measure(given.windows, given.length)
    text = "{windows} windows of {length}: ours {ours_ms:.4f} ms, loop {loop_ms:.4f} ms, ratio {ratio:.1f}, "
    text += "agree {agree:.3f}"
    print(json.dumps(result) if given.json else text.format(**result))


if __name__ == "__main__":
    main()

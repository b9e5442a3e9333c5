"""Compare jobs.features.spans with a loop over the n best starts and ends: best span and text of each window.

    python benchmarks/spans.py [--windows 1000] [--lengths 512,4096] [--pairs 5] [--cpu 0] [--json]

The loop follows Hugging Face's question-answering examples. It combines the 20 greatest starts and 20 greatest ends,
drops spans that end before they begin, are too long or lie outside the paragraph, sorts the rest, and adds text and
probability. It reads a window's offsets from a `datasets.Dataset`, as the examples do, or from a list. Ours has offsets
in an array, as jobs.features stores them. Logits are random.

Before timing, two things are checked. If the loop finds a span, our best span scores at least as high. The best of the
loop's own candidates (candidate_spans) is the loop's answer in every window.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pairs

from jobs.features.spans import Spans, best_spans

MOST_TOKENS, N_BEST, QUESTION = 30, 20, 20
NOTHING = (float("-inf"), -1, -1, "")
Answer = tuple[float, int, int, str]  # score, first and last token, text


@dataclass(frozen=True)
class Windows:
    """Hold logits [windows, positions], the paragraph's positions, the characters of each token, and the text.

    Characters and text are the same for all windows."""

    start: np.ndarray
    end: np.ndarray
    allowed: np.ndarray
    chars: np.ndarray
    text: str


def made(windows: int, length: int) -> Windows:
    """Return windows of a question and a paragraph with one or two characters per token; the last are shorter."""
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, windows, length)).astype(np.float32)
    ends = np.cumsum(rng.integers(1, 3, size=length))
    chars = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
    filled = rng.integers(length // 2, length, size=windows)
    place = np.arange(length)
    allowed = (place >= min(QUESTION, length // 4)) & (place < filled[:, None])
    return Windows(start, end, allowed, chars, "".join(map(chr, range(0x4E00, 0x4E00 + int(ends[-1])))))


def features(source: Windows) -> list[dict[str, Any]]:
    """Return one row per window with the columns of the examples; offsets outside the paragraph are None."""
    chars = source.chars.tolist()
    return [
        {
            "input_ids": [1] * len(chars),
            "attention_mask": [1] * len(chars),
            "token_type_ids": [1] * len(chars),
            "example_id": str(number),
            "offset_mapping": [pair if inside else None for pair, inside in zip(chars, row, strict=True)],
        }
        for number, row in enumerate(source.allowed.tolist())
    ]


def loop(source: Windows, rows: Sequence[dict[str, Any]] | datasets.Dataset) -> list[Answer]:
    """Return the best candidate of each window, or NOTHING if there is none."""
    found = []
    for number in range(len(source.start)):
        start, end, offsets = source.start[number], source.end[number], rows[number]["offset_mapping"]
        starts, ends = (np.argsort(scores)[: -N_BEST - 1 : -1].tolist() for scores in (start, end))
        best = sorted(_candidates(start, end, starts, ends, offsets), key=lambda one: one["score"], reverse=True)
        _described(best[:N_BEST], offsets, source.text)
        found.append((float(best[0]["score"]), best[0]["first"], best[0]["last"], best[0]["text"]) if best else NOTHING)
    return found


def _candidates(
    start: np.ndarray, end: np.ndarray, starts: list[int], ends: list[int], offsets: list[Any]
) -> list[dict[str, Any]]:
    found = []
    for i in starts:
        for j in ends:
            if offsets[i] is None or offsets[j] is None or j < i or j - i + 1 > MOST_TOKENS:
                continue
            found.append({"first": i, "last": j, "score": start[i] + end[j]})
    return found


def _described(best: list[dict[str, Any]], offsets: list[Any], text: str) -> None:
    weights = np.exp([one["score"] - best[0]["score"] for one in best])
    for one, weight in zip(best, weights, strict=True):
        one["text"] = text[offsets[one["first"]][0] : offsets[one["last"]][1]]
        one["probability"] = weight / weights.sum()


def ours(source: Windows) -> list[Answer]:
    return _texts(source, best_spans(source.start, source.end, source.allowed, MOST_TOKENS))


def candidate_spans(
    start: np.ndarray, end: np.ndarray, allowed: np.ndarray, max_tokens: int, n_best: int = 20
) -> Spans:
    """Return the best span of each window among those that join one of its `n_best` greatest starts with one of its
    `n_best` greatest ends, as Hugging Face's question-answering examples do. The score is -inf where there is none.

    The greatest are taken from all positions, `allowed` or not. Of equal spans the one with the greater start wins,
    then the one with the greater end.
    """
    rows = np.arange(len(start))[:, None]
    starts, ends = (scores.argsort(axis=1)[:, : -n_best - 1 : -1] for scores in (start, end))
    totals = start[rows, starts][:, :, None] + end[rows, ends][:, None, :]
    tokens = ends[:, None, :] - starts[:, :, None] + 1
    spans = (tokens >= 1) & (tokens <= max_tokens)
    spans &= allowed[rows, starts][:, :, None] & allowed[rows, ends][:, None, :]
    totals = np.where(spans, totals, -np.inf).reshape(len(start), -1)
    best = totals.argmax(axis=1)
    first, last = np.divmod(best, ends.shape[1])
    window = rows[:, 0]
    return Spans(totals[window, best], starts[window, first], ends[window, last])


def _texts(source: Windows, spans: Spans) -> list[Answer]:
    begin, end = source.chars[spans.first, 0].tolist(), source.chars[spans.last, 1].tolist()
    rows = zip(*(column.tolist() for column in spans), begin, end, strict=True)
    return [(score, first, last, source.text[i:j]) for score, first, last, i, j in rows]


def compare(source: Windows, theirs: list[Answer]) -> dict[str, Any]:
    """Return the number of windows with an answer by the loop, and how many of them agree with ours."""
    best = ours(source)
    assert all(mine[0] >= other[0] for mine, other in zip(best, theirs, strict=True))
    among = _texts(source, candidate_spans(source.start, source.end, source.allowed, MOST_TOKENS, N_BEST))
    assert [one if one[0] > float("-inf") else NOTHING for one in among] == theirs
    same = sum(mine == other for mine, other in zip(best, theirs, strict=True))
    return {"answered by loop": sum(one != NOTHING for one in theirs), "same": same}


def measure(given: Namespace, length: int) -> dict[str, Any]:
    source = made(given.windows, length)
    rows = features(source)
    result = compare(source, loop(source, rows))
    for name, kind in (("dataset", datasets.Dataset.from_list(rows)), ("list", rows)):
        found = pairs.alternate(
            lambda: ours(source), lambda kind=kind: loop(source, kind), given.pairs, bool(given.cpu)
        )
        result |= {f"{name} ours ms": 1000 * found.ours / given.windows}
        result |= {f"{name} loop ms": 1000 * found.reference / given.windows, f"{name} ratio": found.ratio}
    return {f"{length} {name}": value for name, value in result.items()}


def main() -> None:
    given = pairs.arguments(__doc__, windows=1000, lengths="512,4096", cpu=0)
    result = {"windows": given.windows, "pairs": given.pairs}
    for length in given.lengths.split(","):
        result |= measure(given, int(length))
    pairs.show(result, given.json)


if __name__ == "__main__":
    main()

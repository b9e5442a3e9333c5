"""Compare the time to make features: texts tokenized once and cut into windows, against `datasets.map`.

    python benchmarks/features.py [--data FOLDER] [--max-length 384] [--questions 0] [--pairs 5] [--cpu 0] [--json]

`first`    nothing is stored yet: ours tokenizes and stores all paragraphs and questions; theirs maps both splits.
`later`    another trial on the same data in the same process: ours checks that the stored tokens are current and cuts
           windows again; theirs maps again, which it must do when the lengths of the trial differ.
`process`  the same in a new process: ours checks all stored tokens.
`repeated` another trial with the same arguments: ours as in `later`; theirs finds its stored result.

Before timing, ids, masks, token types, labels and characters of all tokens are compared, window by window.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pairs
import reference

from jobs import qa
from jobs.dataset.data import Data
from jobs.features.windows import Windows

Both = tuple[Any, Any]  # of the training and of the validation questions


def ours(tokenizer: Any, data: Data, max_length: int, cache: Path) -> tuple[Windows, Windows]:
    params = qa.QaParams(max_length=max_length, doc_stride=reference.DOC_STRIDE)
    train, valid = (qa.paragraph_windows(params, tokenizer, data, rows, cache) for rows in (data.train, data.valid))
    return train, valid


def ours_unread(tokenizer: Any, data: Data, max_length: int, cache: Path) -> tuple[Windows, Windows]:
    """Make features as a new process does, from stored tokens."""
    from jobs.features import tokens

    tokens._verified_entry.cache_clear()
    tokens._texts_digest.cache_clear()
    return ours(tokenizer, data, max_length, cache)


def ours_anew(tokenizer: Any, data: Data, max_length: int, cache: Path) -> tuple[Windows, Windows]:
    """Make features with nothing stored, neither on disk nor in this process."""
    shutil.rmtree(cache, ignore_errors=True)
    return ours_unread(tokenizer, data, max_length, cache)


def theirs(tokenizer: Any, rows: Both, max_length: int, cached: bool) -> Both:
    return (
        reference.training_features(tokenizer, rows[0], max_length, cached),
        reference.validation_features(tokenizer, rows[1], max_length, cached),
    )


def compare(windows: tuple[Windows, Windows], features: Both, max_length: int) -> None:
    """Raises AssertionError at the first difference."""
    for split, maps in zip(windows, features, strict=True):
        assert len(split) == len(maps)
        for row, feature in enumerate(maps):
            for name, values in split.batch([row])._asdict().items():
                if name not in feature:  # the reference knows no global attention
                    continue
                filling = split.pad_id if name == "input_ids" else 0
                padded = np.pad(values[0], (0, max_length - values.shape[1]), constant_values=filling)
                assert padded.tolist() == feature[name], (row, name)
    for row, feature in enumerate(features[0]):
        assert windows[0].labels[row].tolist() == [feature["start_positions"], feature["end_positions"]], row
    for row, feature in enumerate(features[1]):
        assert characters(windows[1], row) == [place for place in feature["offset_mapping"] if place], row


def characters(windows: Windows, row: int) -> list[list[int]]:
    """Return the characters [tokens, 2] of the paragraph's tokens in one window."""
    base = windows.paragraphs.bounds[windows.segments.paragraph[row]]  # one segment a window: it has one paragraph
    places: list[list[int]] = windows.paragraphs.chars[base + windows.first[row] : base + windows.last[row]].tolist()
    return places


def on_disk(rows: datasets.Dataset, folder: Path) -> datasets.Dataset:
    """Write a data set to disk, as `load_dataset` does; `map` stores results only for data on disk."""
    rows.save_to_disk(str(folder))
    return datasets.load_from_disk(str(folder))


def measure(place: str, max_length: int, questions: int, count: int, cpu: bool) -> dict[str, Any]:
    data = reference.first(place, questions, questions)
    tokenizer = reference.tokenizer(data)
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        train, valid = (reference.answer_rows(data, rows) for rows in (data.train, data.valid))
        rows = (on_disk(train, Path(scratch) / "train"), on_disk(valid, Path(scratch) / "valid"))
        compare(ours(tokenizer, data, max_length, cache), theirs(tokenizer, rows, max_length, True), max_length)
        ways = {
            "first": (lambda: ours_anew(tokenizer, data, max_length, cache), False),
            "later": (lambda: ours(tokenizer, data, max_length, cache), False),
            "process": (lambda: ours_unread(tokenizer, data, max_length, cache), False),
            "repeated": (lambda: ours(tokenizer, data, max_length, cache), True),
        }
        found = {
            name: pairs.alternate(way, lambda cached=cached: theirs(tokenizer, rows, max_length, cached), count, cpu)
            for name, (way, cached) in ways.items()
        }
    figures = {f"{name}_{key}": value for name, one in found.items() for key, value in one._asdict().items()}
    return {"questions": len(data.train) + len(data.valid), "max_length": max_length, "equal": True, **figures}


def main() -> None:
    given = pairs.arguments(__doc__, data=reference.location(), max_length=384, questions=0, cpu=0)
    datasets.disable_progress_bars()
    pairs.show(measure(given.data, given.max_length, given.questions, given.pairs, bool(given.cpu)), given.json)


if __name__ == "__main__":
    main()

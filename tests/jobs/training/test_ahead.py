"""Batches that a thread prepares are the batches that the training would prepare itself."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.dataset.data import Data
from jobs.job import Report
from jobs.qa import TASK as QA
from jobs.qa import QaParams
from jobs.training import train
from jobs.training.ahead import Ahead

PARAMS = QaParams(
    backbone="scratch:1x32x2", max_length=64, doc_stride=16, effective_batch_size=4, per_device_train_batch_size=2,
    num_train_epochs=2, learning_rate=1e-3,
)  # fmt: skip


def prepared() -> list[str]:
    """Return the names of the threads that prepare batches."""
    return [one.name for one in threading.enumerate() if one.name.startswith("batches")]


@given(st.integers(0, 20), st.integers(0, 5), st.integers(1, 25))
def test_items_come_in_their_order_and_no_more_than_asked_are_prepared(count: int, most: int, taken: int) -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for number in range(count):
            made.append(number)
            yield number

    with closing(Ahead(source(), max(most, 1))) as ahead:
        got = [item for item, _ in zip(ahead, range(taken), strict=False)]
    assert got == list(range(min(count, taken)))
    assert len(made) <= taken + 1 + max(most, 1)
    assert not prepared()


def test_items_after_the_first_are_prepared_in_another_thread() -> None:
    with closing(Ahead((threading.current_thread().name for _ in range(3)), 2)) as ahead:
        first, *others = ahead
    assert first == threading.current_thread().name
    assert all(name.startswith("batches") for name in others)


def test_an_exception_comes_where_its_item_would_and_names_the_place_of_the_fault() -> None:
    def source() -> Iterator[int]:
        yield from (0, 1)
        try:
            [].pop()
        except IndexError as error:
            raise ValueError("row 2 is broken") from error

    with closing(Ahead(source(), 3)) as ahead:
        assert [next(ahead), next(ahead)] == [0, 1]
        with pytest.raises(ValueError, match="row 2 is broken") as found:
            next(ahead)
    assert isinstance(found.value.__cause__, IndexError)
    assert found.traceback[-1].name == "source"
    assert not prepared()


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: float(torch.rand(()))])
def test_items_that_draw_random_numbers_are_prepared_when_they_are_asked_for(draw: Callable[[], float]) -> None:
    def drawn(use: Callable[[Iterator[float]], Iterator[float]]) -> list[float]:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)  # type: ignore[func-returns-value]
        return [one for item in use(draw() for _ in range(4)) for one in (item, draw())]

    assert drawn(lambda items: Ahead(items, 3)) == drawn(lambda items: items)


Reports = list[tuple[dict[str, float], Path]]


def trained(data: Data, workdir: Path, report: Report, **options: Any) -> None:
    workdir.mkdir()
    train(
        options.pop("task", QA), replace(PARAMS, **options.pop("knobs", {})), data.location, workdir, report, **options
    )


class Stop(Exception):
    """Ends a training."""


@pytest.mark.parametrize("stop", [SystemExit, Stop])
def test_the_thread_ends_with_a_training_that_is_stopped(stop: type[BaseException], few: Data, tmp_path: Path) -> None:
    seen: list[str] = []

    def report(*_: Any) -> None:
        seen.extend(prepared())
        raise stop

    with pytest.raises(stop):
        trained(few, tmp_path / "run", report, knobs={"eval_steps": 1})
    assert seen
    assert not prepared()


def test_a_fault_in_a_batch_of_a_training_is_told_as_it_is(few: Data, tmp_path: Path) -> None:
    asked: list[str] = []

    def collate(*args: Any) -> Any:
        asked.append(threading.current_thread().name)
        if len(asked) > 2:
            raise ValueError("this batch is broken")
        return QA.collate(*args)

    with pytest.raises(ValueError, match="this batch is broken"):
        trained(few, tmp_path / "run", lambda *_: None, task=replace(QA, collate=collate))
    assert asked[-1].startswith("batches")
    assert not prepared()


def test_a_training_resumed_within_an_epoch_goes_on_with_the_remaining_batches(few: Data, tmp_path: Path) -> None:
    runs: list[Reports] = [[], []]
    asked: list[list[tuple[str, tuple[int, ...]]]] = [[], []]

    for place, reports in enumerate(runs):

        def collate(inputs: Any, rows: Any, params: Any, place: int = place) -> Any:
            asked[place].append((threading.current_thread().name, tuple(rows)))
            return QA.collate(inputs, rows, params)

        resume = {"resume_from": runs[0][1][1]} if place else {}
        trained(
            few, tmp_path / str(place), lambda *one, reports=reports: reports.append(one),
            task=replace(QA, collate=collate), knobs={"eval_steps": 3}, **resume,
        )  # fmt: skip
    (*_, whole), (*_, resumed) = runs
    assert resumed[0] == whole[0]
    assert len(runs[1]) == len(runs[0]) - 2
    for name in ("predictions.json", "model.safetensors"):
        assert (resumed[1] / name).read_bytes() == (whole[1] / name).read_bytes()
    assert any(name.startswith("batches") for name, _ in asked[1])

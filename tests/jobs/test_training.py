from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.params import TrainingParams
from jobs.training import arguments, device_batch


@given(st.integers(1, 256), st.integers(1, 64), st.integers(1, 8))
def test_batches_of_the_devices_make_the_effective_batch(share: int, most: int, workers: int) -> None:
    size = device_batch(share * workers, most, workers)
    assert 1 <= size <= most
    assert share % size == 0


def test_a_batch_that_cannot_be_shared_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot be shared among 3 workers"):
        device_batch(8, 8, 3)


def test_accumulation_makes_up_for_small_devices(tmp_path: Path) -> None:
    args = arguments(TrainingParams(effective_batch_size=8, per_device_train_batch_size=1), tmp_path)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (1, 8)
    args = arguments(TrainingParams(effective_batch_size=8, per_device_train_batch_size=2), tmp_path, workers=2)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (2, 2)


@pytest.mark.parametrize(
    ("ratio", "steps", "expected"),
    [(0.1, 0, 100), (0.0, 1500, 1500), (0.0, 1, 1), (0.0, 0, 0), (0.999, 0, 999)],
)
def test_warm_up_by_ratio_or_by_steps(tmp_path: Path, ratio: float, steps: int, expected: int) -> None:
    args = arguments(TrainingParams(warmup_ratio=ratio, warmup_steps=steps), tmp_path)
    assert args.get_warmup_steps(1000) == expected


def test_evaluation_checkpoint_and_log_share_their_rhythm(tmp_path: Path) -> None:
    by_epoch, by_steps = (
        arguments(TrainingParams(), tmp_path),
        arguments(TrainingParams(eval_steps=7), tmp_path),
    )
    assert {by_epoch.eval_strategy, by_epoch.save_strategy, by_epoch.logging_strategy} == {"epoch"}
    assert {by_steps.eval_strategy, by_steps.save_strategy, by_steps.logging_strategy} == {"steps"}
    assert by_steps.eval_steps == by_steps.save_steps == by_steps.logging_steps == 7

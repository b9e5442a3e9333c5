"""The host does not wait for the device in a step of training, nor for each batch of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import get_job
from jobs.backbone import tokenizers
from jobs.dataset.data import Data
from jobs.model import facts
from jobs.training import predict
from jobs.training.arguments import training_arguments
from jobs.training.batches import keep_batch
from jobs.training.predict import Outputs
from jobs.training.trainer import BatchTrainer, input_dataset
from tests.support.pretended import Questions
from tests.support.spaces import SMALL


def make(name: str, data: Data, folder: Path, steps: int, rows: int) -> BatchTrainer:
    """Return a Trainer of one of the jobs for some steps, whose evaluation has one row in a batch."""
    job = get_job(name)
    params = job.params(
        **{"backbone": "scratch:1x32x2", **SMALL[name], "effective_batch_size": 2, "per_device_train_batch_size": 1}
    )
    assert job.task
    tokenizer = tokenizers.load_tokenizer(params.backbone, data.paragraphs)
    inputs = job.task.inputs(params, tokenizer, data, data.train, folder / "cache")
    arguments = training_arguments(params, folder)
    for key, value in {"max_steps": steps, "eval_strategy": "no", "save_strategy": "no", "logging_steps": 99}.items():
        setattr(arguments, key, value)
    arguments.logging_strategy = arguments.logging_strategy.__class__("steps")
    return BatchTrainer(
        score=lambda logits: {"sum": float(sum(part.sum() for part in logits))},
        model=job.task.model(params, tokenizer), args=arguments, data_collator=keep_batch,
        train_dataset=input_dataset(job.task, inputs, range(len(inputs)), params),
        eval_dataset=input_dataset(job.task, inputs, range(rows), params), compute_loss_func=job.task.loss,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["longformer", "mc", "qa"])
def test_more_steps_and_more_batches_ask_the_device_for_no_more_numbers(
    name: str, few: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "waits", lambda device: True)
    monkeypatch.setattr("jobs.training.batches.CPU_BATCH_TOKENS", 1)
    counts = []
    for size in (2, 5):
        trainer = make(name, few, tmp_path / str(size), size, size)
        with Questions() as training:
            trainer.train()
        with Questions() as evaluation:
            trainer.evaluate()
        counts.append((training.count, evaluation.count))
        assert trainer.state.global_step == size
    assert counts[0] == counts[1]


@pytest.mark.parametrize("most", [1, 7, 2**24])
def test_outputs_come_back_as_they_were_whenever_they_are_copied(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "MOST_HELD", most)
    shapes: list[Any] = [[(), (2, 3), (2, 1)], [(), (1, 5), (1, 2)], [(), (0, 4), (3, 3)]]
    made = [[torch.rand(shape) for shape in batch] for batch in shapes]
    outputs, held = Outputs(), []
    for batch in made:
        outputs.add(batch)
        held.append(outputs.numbers)
    assert max(held) < most
    for own, batch in zip(outputs.arrays(), made, strict=True):
        for array, tensor in zip(own, batch, strict=True):
            np.testing.assert_array_equal(array, tensor.numpy())
            assert array.dtype == np.float32


def test_a_tensor_is_copied_to_the_device_while_the_host_goes_on(few: Data, tmp_path: Path) -> None:
    copies: list[dict[str, Any]] = []

    class Copied(torch.Tensor):  # type: ignore[misc]
        def to(self, *args: Any, **options: Any) -> Any:
            copies.append(options)
            return super().to(*args, **options)

    trainer = make("qa", few, tmp_path, 1, 1)
    batch = {"input_ids": torch.ones(1).as_subclass(Copied), "weight": 0.5}
    assert trainer._prepare_inputs(batch)["weight"] == 0.5
    assert copies == [{"non_blocking": True}]
    assert trainer.floating_point_ops(batch) == 0

"""Run a trained model over inputs and return its scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
)

from jobs.params import TrainingParams
from jobs.task import Task
from jobs.training.batches import Batch, Floats, evaluation_batches, restore_order


def has_bf16() -> bool:
    """Whether the device that is trained on has bfloat16 products of its own."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def uses_bf16(params: TrainingParams) -> bool:
    """fp32, which is never less exact, takes the place of bf16 where the device would have to imitate it."""
    if params.bf16 and not has_bf16():
        logging.getLogger(__name__).warning("bf16 is not to be had on this device; fp32 takes its place")
    return params.bf16 and has_bf16()


def predict(task: Task, model: PreTrainedModel, inputs: Any, params: TrainingParams) -> tuple[Floats, ...]:
    """The model's logits for all inputs, in their order: arrays [inputs, positions], 0 beyond an input's own.

    Neighbours in length share a batch, so that little is padding; precision is that of the training.
    """
    batches = evaluation_batches(inputs.lengths(), params.per_device_eval_batch_size)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=uses_bf16(params)):
        outputs = [_logits(model.eval(), task.collate(inputs, rows, params)) for rows in batches]
    return tuple(restore_order(batches, parts) for parts in zip(*outputs, strict=True))


LABELS = ("labels", "start_positions", "end_positions")


def _logits(model: PreTrainedModel, batch: Batch) -> list[Floats]:
    with torch.inference_mode():
        output = model(**{name: tensor.to(model.device) for name, tensor in batch.items() if name not in LABELS})
    return logit_arrays(output)


def logit_arrays(output: Mapping[str, torch.Tensor]) -> list[Floats]:
    return [output[name].float().cpu().numpy() for name in output if name.endswith("logits")]

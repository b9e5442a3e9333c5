"""Compute the logits of a trained model for the inputs of a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from jobs.model.padding import padded_lengths
from jobs.params import EVALUATION_BATCH, TrainingParams, batch_size
from jobs.task import Task
from jobs.training.batches import Batch, Floats, evaluation_batches, restore_order
from jobs.training.precision import FP32, UsedPrecision, computing_in


def disable_cudnn_attention() -> None:
    """Make PyTorch choose another of its attentions than cuDNN's, which is the default on H100 and H200.

    With torch from 2.11, cuDNN's may give gradients that are not numbers if a mask is passed and the length is 64 more
    than a multiple of 128 (pytorch#196678). Answers use the same attention as training.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def predict(
    task: Task, model: PreTrainedModel, inputs: Any, params: TrainingParams, precision: UsedPrecision = FP32
) -> tuple[Floats, ...]:
    """Return the model's logits for all inputs, in their order: arrays [inputs, widest], padded with 0.

    Inputs of similar length share a batch to save padding.
    """
    disable_cudnn_attention()
    batches = evaluation_batches(padded_lengths(model, inputs.lengths()), batch_size(params, EVALUATION_BATCH))
    half = precision.half
    with computing_in(precision), torch.autocast(model.device.type, half, enabled=half is not None):
        outputs = [_logits(model.eval(), task.collate(inputs, rows, params)) for rows in batches]
    return tuple(restore_order(batches, parts) for parts in zip(*outputs, strict=True))


def _logits(model: PreTrainedModel, batch: Batch) -> list[Floats]:
    labels = {name for name in batch if name == "labels" or name.endswith("_positions")}
    with torch.inference_mode():
        output = model(**{name: tensor.to(model.device) for name, tensor in batch.items() if name not in labels})
    return logit_arrays(output)


def logit_arrays(output: Mapping[str, torch.Tensor]) -> list[Floats]:
    """Return the outputs whose names end in `logits` as float32 arrays."""
    return [output[name].float().cpu().numpy() for name in output if name.endswith("logits")]

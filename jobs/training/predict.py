"""Compute the logits of a trained model for the inputs of a task."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from jobs.model.padding import padded_lengths
from jobs.params import EVALUATION_BATCH, TrainingParams, batch_size
from jobs.task import Task
from jobs.training.batches import Batch, Floats, evaluation_batches, restore_order


def has_bf16() -> bool:
    """Return true if this machine's device computes bfloat16 matrix products in hardware."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private in torch 2.13: no public function says whether the CPU computes bfloat16 products itself.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def uses_bf16(params: TrainingParams) -> bool:
    """Return true if the params ask for bf16 and the device supports it. Warns if fp32 is used instead."""
    asked = bool(params.bf16) or params.precision == "bf16"
    if asked and not has_bf16():
        logging.getLogger(__name__).warning("this device does not support bf16; training in fp32")
    return asked and has_bf16()


def disable_cudnn_attention() -> None:
    """Make PyTorch choose another of its attentions than cuDNN's, which is the default on H100 and H200.

    With torch from 2.11, cuDNN's may give gradients that are not numbers if a mask is passed and the length is 64 more
    than a multiple of 128 (pytorch#196678). Answers use the same attention as training.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def predict(task: Task, model: PreTrainedModel, inputs: Any, params: TrainingParams) -> tuple[Floats, ...]:
    """Return the model's logits for all inputs, in their order: arrays [inputs, widest], padded with 0.

    Inputs of similar length share a batch to save padding. The precision is the same as in training.
    """
    disable_cudnn_attention()
    batches = evaluation_batches(padded_lengths(model, inputs.lengths()), batch_size(params, EVALUATION_BATCH))
    with torch.autocast(model.device.type, torch.bfloat16, enabled=uses_bf16(params)):
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

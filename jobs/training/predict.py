"""Compute the logits of a trained model for the inputs of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from jobs.model.facts import batch_facts, known_facts
from jobs.model.padding import padded_lengths
from jobs.params import EVALUATION_BATCH, TrainingParams, batch_size
from jobs.task import Task
from jobs.training.ahead import AHEAD, Ahead
from jobs.training.batches import FACTS, Floats, evaluation_batches, pinned_batch, restore_order
from jobs.training.precision import FP32, UsedPrecision, computing_in

MOST_HELD = 2**24  # numbers that stay on the device until they are copied: 64 MiB


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

    Inputs of similar length share a batch to save padding. What fp16 cannot hold is computed again in fp32: a
    model that was trained in bf16 may have larger numbers.
    """
    disable_cudnn_attention()
    batches = evaluation_batches(padded_lengths(model, inputs.lengths()), batch_size(params, EVALUATION_BATCH))
    half, outputs = precision.half, Outputs()
    made = (_told_batch(task.collate(inputs, rows, params)) for rows in batches)
    autocast = torch.autocast(model.device.type, half, enabled=half is not None)
    with computing_in(precision), autocast, closing(Ahead(made, AHEAD)) as ahead:
        for batch in ahead:
            outputs.add(_logits(model.eval(), dict(batch)))
    tables = tuple(restore_order(batches, parts) for parts in zip(*outputs.arrays(), strict=True))
    if precision.name == "fp16" and not all(np.isfinite(table).all() for table in tables):
        return predict(task, model, inputs, params)
    return tables


def _told_batch(batch: Mapping[str, torch.Tensor]) -> Mapping[str, Any]:
    return {**pinned_batch(batch), FACTS: batch_facts(batch)}


def _logits(model: PreTrainedModel, batch: dict[str, Any]) -> list[torch.Tensor]:
    facts = batch.pop(FACTS)
    read = [name for name in batch if name != "labels" and not name.endswith("_positions")]
    with torch.inference_mode(), known_facts(model, facts):
        return logits_of(model(**{name: batch[name].to(model.device, non_blocking=True) for name in read}))


def logits_of(output: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the outputs whose names end in `logits`."""
    return [output[name] for name in output if name.endswith("logits")]


class Outputs:
    """Collect the outputs of batches and copy many of them to the host at once, since it waits for each copy."""

    def __init__(self) -> None:
        self.held: list[list[torch.Tensor]] = []
        self.numbers = 0
        self.copied: list[list[Floats]] = []

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        self.held.append([tensor.detach().float() for tensor in tensors])
        self.numbers += sum(tensor.numel() for tensor in tensors)
        if self.numbers >= MOST_HELD:
            self._copy()

    def arrays(self) -> list[list[Floats]]:
        """Return the outputs of each batch, in their order, as float32 arrays."""
        if self.held:
            self._copy()
        return self.copied

    def _copy(self) -> None:
        flat = torch.cat([tensor.flatten() for tensors in self.held for tensor in tensors]).cpu().numpy()
        at = 0
        for tensors in self.held:
            ends = at + np.cumsum([tensor.numel() for tensor in tensors])
            parts = np.split(flat[at : ends[-1]], ends[:-1] - at)
            self.copied.append([part.reshape(one.shape) for part, one in zip(parts, tensors, strict=True)])
            at = ends[-1]
        self.held, self.numbers = [], 0

"""Try batches on a GPU before training, beside the memory that gradients and optimizer will take."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from jobs.model.padding import padded_lengths
from jobs.model.recomputation import recompute_activations
from jobs.params import TrainingParams
from jobs.training import workers
from jobs.training.batches import Ints, evaluation_batches
from jobs.training.memory.shortage import out_of_memory

if TYPE_CHECKING:
    from jobs.training.trainer import BatchTrainer

SPARE_SHARE = 0.05  # of the memory: room for fragments between tensors, and for the buffers of NCCL
MOMENTS = 2  # numbers that AdamW keeps for each weight


def longest_rows(lengths: Ints, counts: Ints, size: int) -> Ints:
    """Return up to `size` rows whose batch takes as much memory as any batch of that size.

    lengths  positions of each row
    counts   sequences of each row, such as candidates; a batch is padded to the most
    """
    if size == 1:
        return np.array([(lengths * counts).argmax()])
    order = np.argsort(-lengths, kind="stable")
    widest = counts.argmax()
    return np.append(order[order != widest][: size - 1], widest)


def largest_batch(batches: list[Ints], lengths: Ints, counts: Ints) -> Ints:
    """Return the batch that takes the most memory with its padding."""
    return max(batches, key=lambda rows: len(rows) * int(lengths[rows].max()) * int(counts[rows].max()))


def device_memory(trainer: BatchTrainer, params: TrainingParams) -> DeviceMemory | None:
    """Return the memory of this worker's GPU; None on a CPU, and for a model of which each GPU holds only a part."""
    if not torch.cuda.is_available() or params.fsdp:
        return None
    return DeviceMemory(trainer, params, workers.count())


class DeviceMemory:
    """Try batches of a Trainer's inputs on its GPU, before the model is wrapped for several workers.

    precision   of matrix products, such as bf16
    name        name of the GPU
    bytes       memory that this process may use
    recomputes  the model can compute activations again
    peak        bytes that the largest batch that fit has taken, with those of gradients and optimizer
    """

    def __init__(self, trainer: BatchTrainer, params: TrainingParams, count: int) -> None:
        self.trainer = trainer
        self.params = params
        self.workers = count
        self.precision: str = trainer.precision.name
        self.recomputes = bool(trainer.model.supports_gradient_checkpointing)
        self.peak = 0
        self.name = torch.cuda.get_device_name()
        free, total = torch.cuda.mem_get_info()
        allowed = int(total * torch.cuda.get_per_process_memory_fraction())
        self.bytes = min(allowed, free + torch.cuda.memory_reserved())

    def longest(self, evaluation: bool) -> tuple[int, int]:
        """Return the most sequences that a row of a data set has, and the most positions of a sequence."""
        dataset = self.trainer.eval_dataset if evaluation else self.trainer.train_dataset
        return int(dataset.counts.max()), int(padded_lengths(self.trainer.model, dataset.lengths).max())

    def fits_training(self, rows: int, recompute: bool) -> bool:
        """Return True if the longest batch of so many rows fits, forward and backward.

        With `recompute`, the model computes activations again, from then on.
        """
        dataset, model = self.trainer.train_dataset, self.trainer.model
        if recompute:
            recompute_activations(model, self.params.backbone)
        longest = longest_rows(padded_lengths(model, dataset.lengths), dataset.counts, rows)

        def train() -> None:
            model.train()
            for weight in trained(model):
                weight.grad = torch.zeros_like(weight)  # as from the second batch of a step on
            self._loss(dataset.batch(longest)).backward()

        return self._fits(train)

    def fits_evaluation(self, rows: int) -> bool:
        """Return True if the largest batch of an evaluation with this batch size fits, without gradients."""
        dataset, model = self.trainer.eval_dataset, self.trainer.model
        lengths = padded_lengths(model, dataset.lengths)
        chosen = largest_batch(evaluation_batches(lengths, rows), lengths, dataset.counts)

        def evaluate() -> None:
            model.eval()
            with torch.no_grad():
                self._loss(dataset.batch(chosen))

        return self._fits(evaluate)

    def _loss(self, batch: Any) -> torch.Tensor:
        # Private in transformers 5.24: no public method moves a batch to the device as a training step does.
        inputs = self.trainer._prepare_inputs(dict(batch))
        with self.trainer.accelerator.autocast():
            loss: torch.Tensor = self.trainer.compute_loss(self.trainer.model, inputs)
        return loss

    def _fits(self, compute: Callable[[], None]) -> bool:
        """Return True if `compute` succeeds beside the memory of the optimizer."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            with unchanged(self.trainer.model):
                self._compute_beside_optimizer(compute)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            fits = False
        else:
            fits = True
        if not fits:
            gc.collect()  # the error's traceback held tensors
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return fits

    def _compute_beside_optimizer(self, compute: Callable[[], None]) -> None:
        """Compute while tensors as large as those of the optimizer and of DDP, and a spare one, take memory."""
        model, optim = self.trainer.model, self.params.optim
        times = MOMENTS * (optim != "adafactor") + (self.workers > 1)  # DDP copies the gradients
        spare = torch.empty(int(self.bytes * SPARE_SHARE), dtype=torch.uint8, device=model.device)
        held = [torch.empty_like(weight) for weight in trained(model) for _ in range(times)]
        compute()
        if optim == "adamw_torch":  # it computes with all weights at once, and keeps a root of each
            held += [torch.empty_like(weight) for weight in trained(model)]
        torch.cuda.synchronize()
        self.peak = max(self.peak, torch.cuda.max_memory_reserved() - spare.numel())


def trained(model: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    """Yield the weights that training changes."""
    return (weight for weight in model.parameters() if weight.requires_grad)


@contextmanager
def unchanged(model: torch.nn.Module) -> Iterator[None]:
    """Restore gradients, buffers and modes of a model, and all random states, at the end of the block."""
    gradients = [(weight, weight.grad) for weight in model.parameters()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    modes = [(module, module.training) for module in model.modules()]
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for weight, gradient in gradients:
            weight.grad = gradient
        for module, name, buffer, before in buffers:
            setattr(module, name, buffer)
            if not torch.equal(buffer, before):
                buffer.copy_(before)
        for module, mode in modes:
            module.training = mode

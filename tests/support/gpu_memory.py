"""Pretend a GPU whose memory holds a limited number of rows: a larger batch runs out of memory. The CPU computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch

from jobs.params import TrainingParams
from jobs.training import trainer as training
from jobs.training import workers
from jobs.training.memory.device import DeviceMemory

GIB = 2**30
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB"


@dataclass
class PretendedGpu:
    """Hold how many rows fit in training, with activations computed again, and in evaluation; 0 for none.

    tried    the batches that were computed: "train", "again" or "evaluate", and their rows
    longest  tokens of the longest row so far; a batch with short rows may have more of them
    """

    train: int
    again: int
    evaluate: int
    longest: int = 0
    tried: list[tuple[str, int]] = field(default_factory=list)

    def compute(self, model: Any, args: Any, inputs: dict[str, Any]) -> None:
        rows, tokens = len(inputs["input_ids"]), inputs["input_ids"].numel()
        self.longest = max(self.longest, tokens // rows)
        kind = ("again" if model.is_activation_checkpointing else "train") if torch.is_grad_enabled() else "evaluate"
        self.tried.append((kind, rows))
        if tokens > getattr(self, kind) * self.longest:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)


@contextmanager
def pretended_memory(
    train: int, again: int = 0, evaluate: int = 1_000_000, gib: int = 16, later: Mapping[str, int] | None = None
) -> Iterator[PretendedGpu]:
    """Train inside the block as on a GPU with `gib` GiB in which these batches fit.

    later  what fits once the training has begun, after the search
    """
    gpu = PretendedGpu(train, max(train, again), evaluate)
    numbers = {
        "get_device_name": "Tesla T4",
        "mem_get_info": (gib * GIB, gib * GIB),
        "get_per_process_memory_fraction": 1.0,
        "memory_reserved": 0,
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "synchronize": None,
        "max_memory_reserved": 3 * GIB,
    }

    def memory(trainer: training.BatchTrainer, params: TrainingParams) -> DeviceMemory:
        if not any(hook is gpu.compute for hook in trainer.model._forward_pre_hooks.values()):
            trainer.model.register_forward_pre_hook(gpu.compute, with_kwargs=True)
        return DeviceMemory(trainer, params, workers.count())

    begin = training.BatchTrainer.train

    def train_later(trainer: Any, *args: Any, **options: Any) -> Any:
        with ExitStack() as smaller:
            for kind, rows in (later or {}).items():
                smaller.enter_context(patch.object(gpu, kind, rows))
            return begin(trainer, *args, **options)

    with ExitStack() as stack:
        stack.enter_context(patch.object(training.BatchTrainer, "train", train_later))
        for name, value in numbers.items():
            stack.enter_context(patch.object(torch.cuda, name, lambda *_, value=value: value))
        stack.enter_context(patch.object(training, "device_memory", memory))
        stack.enter_context(patch("jobs.training.memory.device.SPARE_SHARE", 0.0))
        stack.enter_context(patch("gc.collect"))  # takes long in the tests' process
        yield gpu

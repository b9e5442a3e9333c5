"""Tell a model what the host knows of a batch, so that no layer waits for the device to ask for it.

A number that the host reads from a GPU makes it wait until the GPU has finished all its work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from jobs.backbone.architectures import BERTS


@dataclass(frozen=True)
class BatchFacts:
    """Hold what is known of a batch: its number of positions, if it has padding, and most global tokens in a row."""

    width: int
    padded: bool
    most_global: int


_facts: ContextVar[BatchFacts | None] = ContextVar("facts", default=None)


def batch_facts(batch: Mapping[str, Any]) -> BatchFacts | None:
    """Return the facts of a batch whose tensors are still in the host's memory, or None without an attention mask."""
    mask = batch.get("attention_mask")
    if mask is None:
        return None
    wide = batch.get("global_attention_mask")
    most = 0 if wide is None else int(((wide != 0) & (mask != 0)).sum(-1).max())
    return BatchFacts(mask.shape[-1], not bool(mask.all()), most)


@contextmanager
def known_facts(model: torch.nn.Module, facts: BatchFacts | None) -> Iterator[None]:
    """Let the layers of a model of transformers use the facts inside the block.

    A model of a job's own may make another mask than the batch's, so it does not get them.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    own = type(model).__module__.startswith("transformers.models.")
    token = _facts.set(facts if own and kind in (*BERTS, "longformer") else None)
    try:
        yield
    finally:
        _facts.reset(token)


def told() -> BatchFacts | None:
    """Return the facts of the batch that is computed; None while torch compiles, which reads no context."""
    return None if torch.compiler.is_compiling() else _facts.get()


def waits(device: torch.device) -> bool:
    """Return True if reading a number from a device makes the host wait."""
    return str(device) != "cpu"


def told_mask(*args: Any, attention_mask: torch.Tensor | None = None, **options: Any) -> torch.Tensor | None:
    """Return the mask of sdpa_mask. If the facts tell whether it hides anything, the device is not asked.

    Without a mask, PyTorch chooses its fastest attention.
    """
    facts = told()
    skips = options.get("allow_is_bidirectional_skip") and options.get("local_size") is None
    if attention_mask is not None and skips and facts and waits(attention_mask.device):
        same = attention_mask.shape[-1] == facts.width  # else the model has padded the batch itself
        if same and not facts.padded:
            return None
        options["allow_is_bidirectional_skip"] = False
    return sdpa_mask(*args, attention_mask=attention_mask, **options)


# In place of transformers' own function for this attention, which asks the device (transformers 5.24).
AttentionMaskInterface.register("sdpa", told_mask)

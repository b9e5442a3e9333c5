"""Apply dropout quickly on CPUs, where torch's random numbers take a quarter of a training step.

Sixteen random bits decide whether a number is dropped. The generator is seeded from torch's, so seeds and checkpoints
stay reproducible. The dropped numbers differ from torch's; their distribution is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from jobs.model.facts import told_mask

BITS = 2**16
NAME = "sdpa_quick_dropout"


def keep_mask(like: torch.Tensor, p: float) -> torch.Tensor:
    """Return 1 for each number of `like` to keep and 0 for each to drop, in its dtype.

    On a CPU, multiplying by numbers is several times faster than filling by a Boolean mask.
    """
    seed = int(torch.randint(2**63 - 1, ()))
    bits = np.random.SFC64(seed).random_raw(-(-like.numel() // 4)).view(np.int16)[: like.numel()]
    return torch.ge(torch.from_numpy(bits).view(like.shape), _threshold(p) - BITS // 2, out=torch.empty_like(like))


def _threshold(p: float) -> int:
    return round(p * BITS)


def _kept_scale(p: float) -> float:
    """Return the factor for kept numbers: 1 / their probability after rounding, so that the expected value stays."""
    return BITS / (BITS - _threshold(p))


class Dropout(torch.nn.Dropout):  # type: ignore[misc]
    """Replaces torch.nn.Dropout, with faster random numbers on a CPU."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or not 0 < self.p < 1 or input.device.type != "cpu":
            return super().forward(input)
        return input * keep_mask(input.detach(), self.p).mul_(_kept_scale(self.p))


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Compute softmax attention over [batch, heads, positions, size], with transformers' attention interface.

    Calls torch's fused kernel on GPUs and without dropout. For dropout on CPUs torch has no fused kernel.
    """
    if not 0 < dropout < 1 or query.device.type != "cpu":
        whole: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return whole
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(-1, -2)
    if attention_mask is not None:
        hidden = torch.zeros(attention_mask.shape, dtype=scores.dtype)
        # Half the minimum, whose sum with a score is finite in float16 too.
        scores = scores + hidden.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min / 2)
    weights = scores.softmax(-1)
    weights = weights * keep_mask(weights.detach(), dropout)
    return ((weights @ value) * _kept_scale(dropout)).transpose(1, 2).contiguous(), None


def quicken(model: PreTrainedModel) -> PreTrainedModel:
    """Replace torch's dropout in all layers of a model, and its attention if that is `sdpa`. Returns the model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))
    # Private in transformers 5.23: no public attribute gives the attention that a model uses.
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attention)
        AttentionMaskInterface.register(NAME, told_mask)
        model.set_attn_implementation(NAME)
    return model

"""Dropout for CPUs, where drawing its random numbers one by one takes a quarter of a training step. Here sixteen
random bits decide about each number. The generator is seeded from torch's own, so a seed and a checkpoint mean
what they always do; the dropped numbers are others than torch would drop, their distribution is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BITS = 2**16
NAME = "sdpa_quick_dropout"


def keep_mask(like: torch.Tensor, p: float) -> torch.Tensor:
    """1 for each number of `like` that stays and 0 for one that is dropped, as numbers: a CPU multiplies by them
    several times as fast as it fills by a mask of truth values."""
    seed = int(torch.randint(2**63 - 1, ()))
    bits = np.random.SFC64(seed).random_raw(-(-like.numel() // 4)).view(np.int16)[: like.numel()]
    return torch.ge(torch.from_numpy(bits).view(like.shape), _threshold(p) - BITS // 2, out=torch.empty_like(like))


def _threshold(p: float) -> int:
    return round(p * BITS)


def _kept_scale(p: float) -> float:
    """What is kept is scaled by the chance that really was used, so that the expectation is exact."""
    return BITS / (BITS - _threshold(p))


class Dropout(torch.nn.Dropout):  # type: ignore[misc]
    """torch.nn.Dropout, quick on a CPU."""

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
    """Softmax attention over [batch, heads, positions, size], as transformers asks its attention functions for it.

    torch's kernel is used wherever it need not drop anything: with dropout it has none for CPUs and takes many
    small steps, of which these are the ones that count.
    """
    if not 0 < dropout < 1 or query.device.type != "cpu":
        whole: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return whole
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(-1, -2)
    if attention_mask is not None:
        hidden = torch.zeros(attention_mask.shape, dtype=scores.dtype)
        scores = scores + hidden.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    weights = weights * keep_mask(weights.detach(), dropout)
    return ((weights @ value) * _kept_scale(dropout)).transpose(1, 2).contiguous(), None


def quicken(model: PreTrainedModel) -> PreTrainedModel:
    """Put this dropout in the place of torch's, in all layers, and in attention where that is torch's own."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
    return model

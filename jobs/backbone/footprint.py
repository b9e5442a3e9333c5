"""Estimate the memory that a training takes of a GPU, from the sizes in an encoder's config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STATE_BYTES = 18  # of each weight: itself, its gradient and two moments of AdamW in fp32, and a copy in 16 bits
ACTIVATION_BYTES = 13  # that the backward pass needs, of each token, layer and number of an inner layer; in 16 bits
FULL_PRECISION = 2  # activations take so many times as much in fp32
LEAST_BYTES = 2**29  # of anything that trains


def training_bytes(config: Mapping[str, Any], tokens: int, half: bool = True, recompute: bool = False) -> int | None:
    """Return the estimated bytes of a training step with attention that does not store its scores.

    config     a BERT's or Longformer's config.json; None is returned if it does not name the sizes as BERT does
    tokens     of a batch on the device, with padding
    half       matrix products are computed in 16 bits
    recompute  activations of one layer at a time are kept (gradient checkpointing)

    >>> large = {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096, "vocab_size": 21128}
    >>> round(training_bytes(large, 8 * 512) / 2**30)
    10
    """
    try:
        layers, hidden, inner = (
            int(config[name]) for name in ("num_hidden_layers", "hidden_size", "intermediate_size")
        )
        weights = int(config["vocab_size"]) * hidden + layers * (4 * hidden**2 + 2 * hidden * inner)
    except (KeyError, TypeError, ValueError):
        return None
    kept = 1 if recompute else layers
    activations = tokens * kept * inner * ACTIVATION_BYTES * (1 if half else FULL_PRECISION)
    return LEAST_BYTES + weights * STATE_BYTES + activations

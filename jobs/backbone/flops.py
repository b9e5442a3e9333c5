"""Count the floating-point operations that an encoder needs, from the sizes in its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TRAINING = 3  # a backward pass computes two products for each one of the forward pass


def forward_flops(config: Mapping[str, Any], tokens: int, window: int | None = None) -> float | None:
    """Return the operations of matrix products in one input's forward pass, without padding, embeddings and the head.

    config  a BERT's or Longformer's config.json; None is returned if it does not name the sizes as BERT does
    tokens  the input's length
    window  neighbours that a token attends to; None: all tokens. A model with a window projects each token a second
            time, for its global tokens

    >>> large = {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096}
    >>> round(TRAINING * forward_flops(large, 392) / 1e12, 2)
    0.76
    """
    try:
        layers, hidden, inner = (config[name] for name in ("num_hidden_layers", "hidden_size", "intermediate_size"))
    except KeyError:
        return None
    projections = (4 if window is None else 6) * hidden**2
    products = 2 * tokens * (projections + 2 * hidden * inner)
    scores = 4 * hidden * tokens * (tokens if window is None else min(tokens, window + 1))
    return float(layers * (products + scores))

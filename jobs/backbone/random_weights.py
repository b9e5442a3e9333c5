"""Build a backbone's model with random weights instead of reading them, to try it within seconds and little memory."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

LAYERS = 2  # architectures that alternate between two kinds of layers have one of each
# The names that configs of transformers 5.24 use for a number of layers.
LAYER_COUNTS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "num_encoder_layers",
    "num_decoder_layers",
)
LARGE = 2**20  # numbers; a weight with more of them is zero, and no memory is used for zeros that are only read


def random_model(auto_class: Any, source: str, whole: bool, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Return the model that `from_pretrained` with these options returns, with random weights, and an empty report.

    It has all layers if `whole` is true, else the first LAYERS of them. Its large weights are zero. Raises what
    transformers raises.
    """
    import numpy as np
    import torch
    from transformers import AutoConfig

    config = options.pop("config", None)
    if config is None:
        config, options = AutoConfig.from_pretrained(
            source, trust_remote_code=False, return_unused_kwargs=True, **options
        )
    config = deepcopy(config) if whole else with_few_layers(config)
    with torch.device("meta"):
        empty = auto_class.from_config(config)
    large = {name: weight.shape for name, weight in empty.named_parameters() if weight.numel() >= LARGE}
    # NumPy's zeros take memory only where they are written; torch's are written at once.
    zeros = {name: torch.from_numpy(np.zeros(shape, np.float32)) for name, shape in large.items()}
    options = {**options, "dtype": torch.float32, "output_loading_info": True, "use_safetensors": None}
    model, _ = type(empty).from_pretrained(None, config=config, state_dict=zeros, trust_remote_code=False, **options)
    return model, {"missing_keys": set(), "mismatched_keys": set(), "unexpected_keys": set()}


def with_few_layers(config: Any) -> Any:
    """Return a copy of a config with at most LAYERS layers, and of its lists with a value for each layer as many."""
    values = config.to_dict()
    counts = {values[name] for name in LAYER_COUNTS if isinstance(values.get(name), int)}
    for name, value in values.items():
        if name in LAYER_COUNTS and isinstance(value, int):
            values[name] = min(value, LAYERS)
        elif name in ("block_sizes", "block_repeats"):  # Funnel's layers in each of its blocks
            values[name] = [1] * len(value)
        elif isinstance(value, list) and len(value) in counts:
            values[name] = value[:LAYERS]
    return type(config).from_dict(values)

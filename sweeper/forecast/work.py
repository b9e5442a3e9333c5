"""Count the work of a trial: operations and batches of an epoch and of an evaluation. Reads configs, never weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.backbone.flops import TRAINING, forward_flops
from jobs.backbone.names import SCRATCH, scratch_size
from jobs.backbone.positions import local_config
from jobs.dataset.data import Data
from jobs.dataset.lengths import InputLengths, Ints
from jobs.job import Job

CHECKPOINTED = 4  # passes in which a step with gradient checkpointing computes; TRAINING has the number without it
BASE = {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072}
LARGE = {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096}
# Names of the same sizes in the configs of DistilBERT, and of XLNet, GPT and their like.
ALIASES = {
    "num_hidden_layers": ("n_layers", "n_layer", "num_layers"),
    "hidden_size": ("dim", "d_model", "n_embd"),
    "intermediate_size": ("hidden_dim", "d_inner", "d_ff", "ffn_dim"),
}


@dataclass(frozen=True)
class Work:
    """Hold the work of a trial.

    train, valid   FLOP of matrix products in an epoch, and in one evaluation
    steps          batches of an epoch, as the device gets them
    batches        batches of one evaluation
    layers, width  of the backbone; the width is its hidden size
    weights        number of the backbone's weights, without embeddings
    assumed        True if the backbone's config is not here, and its name has told the sizes
    """

    train: float
    valid: float
    steps: int
    batches: int
    layers: int
    width: int
    weights: float
    assumed: bool = False


def work_of(job: Job, params: Any, data: Data) -> Work | None:
    """Return the work of a trial; None for a job that does not tell the lengths of its inputs."""
    if job.lengths is None:
        return None
    lengths: InputLengths = job.lengths(params, data)
    config, assumed = sizes_of(params.backbone)
    window = _window(params, config)
    passes = CHECKPOINTED if getattr(params, "gradient_checkpointing", False) else TRAINING
    layers, width, inner = (int(config[name]) for name in BASE)
    return Work(
        passes * _forward(config, lengths.train, window),
        _forward(config, lengths.valid, window),
        -(-lengths.inputs(lengths.train) // params.effective_batch_size),
        -(-lengths.inputs(lengths.valid) // params.effective_batch_size),
        layers,
        width,
        layers * (4 * width**2 + 2 * width * inner),
        assumed,
    )


def sizes_of(backbone: str) -> tuple[Mapping[str, Any], bool]:
    """Return the backbone's config with BERT's names of the sizes, and True if its name alone has told them."""
    if match := SCRATCH.fullmatch(backbone):
        size = scratch_size(match)
        names = {"num_hidden_layers": size.layers, "hidden_size": size.hidden, "intermediate_size": 4 * size.hidden}
        return names, False
    config = local_config(backbone) or {}
    named = {name: config.get(name) or _first(config, others) for name, others in ALIASES.items()}
    if named["hidden_size"] and not named["intermediate_size"]:
        named["intermediate_size"] = 4 * int(named["hidden_size"])
    if all(isinstance(value, int) for value in named.values()):
        return {**config, **named}, False
    return (LARGE if re.search(r"large", backbone, re.IGNORECASE) else BASE), True


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((config[name] for name in names if config.get(name)), None)


def _window(params: Any, config: Mapping[str, Any]) -> int | None:
    """Return the neighbours that a token attends to; None if it attends to all."""
    window = getattr(params, "attention_window", None)
    return window if window is not None and config.get("model_type", "bert") in ("bert", "longformer") else None


def _forward(config: Mapping[str, Any], lengths: Ints, window: int | None) -> float:
    tokens, counts = np.unique(lengths, return_counts=True)
    each = (forward_flops(config, int(length), window) or 0.0 for length in tokens)
    return float(sum(flops * count for flops, count in zip(each, counts.tolist(), strict=True)))

"""List what differs between architectures: padding, positions and attention, by the `model_type` of config.json.

Read with transformers 5.24. Imports no torch and no transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]  # the content of config.json
ROBERTA_PADDING = 1  # RoBERTa's pad_token_id, for a config.json that has none
HASH_SEED = 0  # of Reformer's random projections
# The model types that compute exactly what a BERT computes.
BERTS = ("bert", "camembert", "data2vec-text", "distilbert", "electra", "ernie", "roberta", "xlm-roberta")


def rounded_up(number: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is at least `number`.

    >>> rounded_up(500, 64)
    512
    """
    return -(-number // multiple) * multiple


def whole_width(config: Config, length: int) -> int:
    """Return `length`: rows are padded to the longest input that is allowed."""
    return length


def any_width(config: Config, length: int) -> int:
    """Return 0: padding changes no score, so rows need no more of it than their batch."""
    return 0


def no_settings(config: Config, length: int) -> dict[str, Any]:
    """Return no changes."""
    return {}


def declared_limit(config: Config) -> int | None:
    """Return max_position_embeddings."""
    return _number(config, "max_position_embeddings")


def no_limit(config: Config) -> int | None:
    """Return None: any number of tokens is read."""
    return None


def _number(config: Config, key: str) -> int | None:
    value = config.get(key)
    return None if value is None else int(value)


@dataclass(frozen=True)
class Architecture:
    """Describe how a model type is padded and how much it reads. The defaults are safe for an unknown type.

    width     width(config, max_length): the fixed number of positions of every row; 0 if padding on the right changes
              no score of a row
    settings  settings(config, max_length): values of the config that a trial changes, so that all its batches are
              computed in one way
    limit     limit(config): the longest input in tokens, or None
    relative  True if no score changes when all tokens of a row move by some positions
    refusal   why no job can use it, and the cure
    """

    width: Callable[[Config, int], int] = whole_width
    settings: Callable[[Config, int], dict[str, Any]] = no_settings
    limit: Callable[[Config], int | None] = declared_limit
    relative: bool = False
    refusal: str = ""


def _limit_of(key: str) -> Callable[[Config], int | None]:
    return lambda config: _number(config, key)


def _behind(padding: int) -> Callable[[Config], int | None]:
    """Return the limit of RoBERTa's kind: tokens begin behind the position pad_token_id; `padding` is its default."""

    def limit(config: Config) -> int | None:
        positions, pad = declared_limit(config), _number(config, "pad_token_id")
        return None if positions is None else positions - (padding if pad is None else pad) - 1

    return limit


def _led_limit(config: Config) -> int | None:
    """Return the shorter of both limits: a reader's decoder reads the whole input too, and has fewer positions."""
    limits = (_number(config, f"max_{part}_position_embeddings") for part in ("encoder", "decoder"))
    return min((limit for limit in limits if limit is not None), default=None)


def _mpnet_limit(config: Config) -> int | None:
    positions = declared_limit(config)
    return None if positions is None else positions - 2  # its padding has position 1, whatever its pad_token_id


def _deberta_limit(config: Config) -> int | None:
    return declared_limit(config) if config.get("position_biased_input", True) else None


def _reformer_limit(config: Config) -> int | None:
    if config.get("axial_pos_embds", True) and config.get("axial_pos_shape"):
        return math.prod(config["axial_pos_shape"])
    return declared_limit(config)


def _sparse_settings(config: Config, length: int) -> dict[str, Any]:
    """Return BigBird's attention for the whole trial: full where its blocks do not fit.

    transformers changes it in place, for good, at the first batch that is too short for blocks.
    """
    return {} if _blocks_fit(config, length) else {"attention_type": "original_full"}


def _blocks_fit(config: Config, length: int) -> bool:
    block, random = int(config.get("block_size", 64)), int(config.get("num_random_blocks", 3))
    width = rounded_up(length, block)
    return (5 + 2 * random) * block < width <= (declared_limit(config) or width)


def _sparse_width(config: Config, length: int) -> int:
    sparse = config.get("attention_type", "block_sparse") == "block_sparse" and _blocks_fit(config, length)
    return rounded_up(length, config.get("block_size", 64)) if sparse else 0


def _landmark_settings(config: Config, length: int) -> dict[str, Any]:
    """Return Nystromformer's full attention. Its landmarks take no padding, and mix the rows of a batch.

    In transformers 5.24 the mask of padding has the wrong shape for landmarks, and `iterative_inv` divides by the
    greatest sum in the batch.
    """
    return {"segment_means_seq_len": config.get("num_landmarks", 64)}


def _hash_settings(config: Config, length: int) -> dict[str, Any]:
    """Return Reformer's fixed hashes and no dropout.

    In training its layers seed torch anew from the machine's entropy, so dropout could not be repeated.
    """
    dropouts = ("hidden_dropout_prob", "lsh_attention_probs_dropout_prob", "local_attention_probs_dropout_prob")
    return {"hash_seed": HASH_SEED, **dict.fromkeys(dropouts, 0.0)}


def _chunk_width(config: Config, length: int) -> int:
    """Return Reformer's width: all positions of its axial embeddings, which training needs, or whole chunks."""
    if config.get("axial_pos_embds", True) and config.get("axial_pos_shape"):
        return math.prod(config["axial_pos_shape"])
    kinds = set(config.get("attn_layers", ("local", "lsh")))
    return rounded_up(length, math.lcm(*(int(config.get(f"{kind}_attn_chunk_length", 64)) for kind in kinds)))


# Padding on the right changes none of their scores: tests/jobs/model/test_padding.py measures it.
STEADY = (
    "albert bart bert distilbert electra ernie eurobert flaubert gte jina_embeddings_v3 llama mbart megatron-bert "
    "modernbert nomic_bert qwen2 rembert splinter squeezebert xlm"
)
ROBERTAS = (
    "roberta xlm-roberta xlm-roberta-xl camembert longformer ibert data2vec-text roberta-prelayernorm xmod luke lilt"
)
ARCHITECTURES: dict[str, Architecture] = {
    **dict.fromkeys(STEADY.split(), Architecture(any_width)),
    **dict.fromkeys(ROBERTAS.split(), Architecture(any_width, limit=_behind(ROBERTA_PADDING))),
    **dict.fromkeys(("t5", "mt5", "umt5"), Architecture(any_width, limit=no_limit)),
    **dict.fromkeys(("deberta", "deberta-v2"), Architecture(any_width, limit=_deberta_limit)),
    **dict.fromkeys(("big_bird", "bigbird_pegasus"), Architecture(_sparse_width, _sparse_settings)),
    "funnel": Architecture(limit=no_limit),
    "gpt2": Architecture(any_width, limit=_limit_of("n_positions")),
    "led": Architecture(any_width, limit=_led_limit),
    "markuplm": Architecture(limit=_behind(0)),
    "mpnet": Architecture(any_width, limit=_mpnet_limit),
    "mra": Architecture(
        refusal="its attention needs a CUDA kernel from the hub, and code from the hub is never run; "
        "choose another backbone"
    ),
    "nystromformer": Architecture(settings=_landmark_settings),
    "reformer": Architecture(_chunk_width, _hash_settings, _reformer_limit),
    "roformer": Architecture(any_width, relative=True),
    "xlnet": Architecture(any_width, limit=no_limit, relative=True),
}


def architecture(config: Config) -> Architecture:
    """Return the Architecture of a config; the default one for a model type that is not listed."""
    return ARCHITECTURES.get(str(config.get("model_type")), Architecture())

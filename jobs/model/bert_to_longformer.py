"""Convert a BERT to a Longformer with the same weights (Beltagy, Peters, Cohan 2020, arXiv 2004.05150, section 5).

In a BERT every token attends to every other. In a Longformer it attends to its nearest neighbours and a few global
tokens, so the cost grows linearly with the length. The module also loads Longformers for span prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from jobs.model import backbones
from jobs.model.source import BackboneError

if TYPE_CHECKING:
    import torch
    from transformers import LongformerConfig, PreTrainedModel, PreTrainedTokenizerFast

# The two classes of a pair have heads with the same names, so the head's weights can be copied too.
LONG_CLASSES = {"BertModel": "LongformerModel", "BertForQuestionAnswering": "LongformerForQuestionAnswering"}

# Values that the Longformer's config copies from the BERT's config.
SAME = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
)
LOCAL = (".self.query.", ".self.key.", ".self.value.")


def made_long(bert: PreTrainedModel, attention_window: int, max_length: int) -> PreTrainedModel:
    """Return a Longformer for `max_length` tokens with the weights of a BertModel or BertForQuestionAnswering.

    Each token attends to `attention_window` others, half on each side. Both models return the same hidden states for
    inputs so short that every token attends to every other: at most attention_window / 2 + 1 tokens, or more with
    global attention. Beyond the BERT's last position the results differ.
    """
    import torch
    import transformers

    model_class = getattr(transformers, LONG_CLASSES[type(bert).__name__])
    pooler = {"add_pooling_layer": bert.pooler is not None} if model_class is transformers.LongformerModel else {}
    with torch.device("meta"):  # skips the initialisation of random weights, which are overwritten below
        model = model_class(_long_config(bert, attention_window, max_length), **pooler)
    model.load_state_dict(dict(_long_weights(bert.state_dict(), max_length, bert.config.pad_token_id)), assign=True)
    return model.train(bert.training)


def _long_config(bert: PreTrainedModel, attention_window: int, max_length: int) -> LongformerConfig:
    from transformers import LongformerConfig

    return LongformerConfig(
        **{name: getattr(bert.config, name) for name in SAME},
        attention_window=[attention_window] * bert.config.num_hidden_layers,
        max_position_embeddings=_reserved(bert.config.pad_token_id) + max_length,
    )


def _reserved(pad_token_id: int) -> int:
    """Return the number of positions before the first token. As in RoBERTa, it follows the padding's position."""
    return pad_token_id + 1


def _long_weights(
    weights: Mapping[str, torch.Tensor], max_length: int, pad_token_id: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the Longformer's weights. Global projections are copies of the local ones; positions repeat (section 5)."""
    for name, weight in weights.items():
        long_name = f"longformer.{name.removeprefix('bert.')}" if name.startswith("bert.") else name
        if "position_embeddings" in name:
            weight = _repeat_positions(weight, max_length, _reserved(pad_token_id))
        yield long_name, weight.clone()
        for local in LOCAL:
            if local in name:
                yield long_name.replace(local, f"{local[:-1]}_global."), weight.clone()


def _repeat_positions(positions: torch.Tensor, max_length: int, reserved: int) -> torch.Tensor:
    """Return position embeddings [reserved + max_length, hidden]: zeros, then the BERT's, repeated as needed."""
    import torch

    rows = torch.arange(max_length, device=positions.device) % len(positions)
    return torch.cat([positions.new_zeros(reserved, positions.shape[1]), positions[rows]])


def load_long_model(
    name: str, tokenizer: PreTrainedTokenizerFast, attention_window: int, max_length: int
) -> PreTrainedModel:
    """Load a LongformerForQuestionAnswering from a backbone; its attention runs in blocks (jobs.model.attention).

    A Longformer gets this `attention_window`; a BERT or a `scratch:` backbone is converted. Raises BackboneError when
    the backbone cannot be loaded, reads fewer than `max_length` tokens, or has another architecture.
    """
    from jobs.model.attention import in_blocks

    head = "AutoModelForQuestionAnswering"
    kind = long_model_type(name)
    if kind == "longformer":
        model = backbones.load_model(name, head, tokenizer, max_length, attention_window=attention_window)
    else:
        positions = max_length if kind == "scratch" else 1
        model = made_long(backbones.load_model(name, head, tokenizer, positions), attention_window, max_length)
    model.config.sep_token_id = tokenizer.sep_token_id
    return in_blocks(model)


def long_model_type(name: str) -> str:
    """Return `scratch`, `bert` or `longformer`. Raises BackboneError for any other architecture."""
    kind = backbones.model_type(name)
    if kind not in ("scratch", "bert", "longformer"):
        raise BackboneError(
            f"{name}: its architecture is {kind}, which cannot become a Longformer; choose a BERT or a Longformer"
        )
    return kind


def fetch_long(name: str) -> None:
    """Download a backbone for `load_long_model`, unless it is already on this machine. Raises BackboneError."""
    long_model_type(name)
    backbones.fetch_backbone(name)

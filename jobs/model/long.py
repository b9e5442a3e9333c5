"""From a BERT to a Longformer that starts with all it knows (Beltagy, Peters, Cohan 2020, arXiv
2004.05150, section 5), and from a backbone's name to a Longformer that marks spans.

A BERT attends from every token to every other; the Longformer made of it attends to the nearest ones and
to a few global ones, at a cost that grows with the length and not with its square.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from jobs.model import backbones
from jobs.model.backbones import BackboneError

if TYPE_CHECKING:
    import torch
    from transformers import LongformerConfig, PreTrainedModel, PreTrainedTokenizerFast

# Each has the other's heads under the same names.
LONG_CLASSES = {"BertModel": "LongformerModel", "BertForQuestionAnswering": "LongformerForQuestionAnswering"}

# What a Longformer's config takes over from a BERT's as it is.
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
    """The Longformer that reads `max_length` tokens with the weights of a BertModel or a
    BertForQuestionAnswering, each token seeing `attention_window` others, half on each side.

    As long as every token sees every other, by windows or by global attention, both give the same hidden
    states: up to attention_window / 2 + 1 tokens, and at most as many as the BERT has positions.
    """
    import torch
    import transformers

    model_class = getattr(transformers, LONG_CLASSES[type(bert).__name__])
    pooler = {"add_pooling_layer": bert.pooler is not None} if model_class is transformers.LongformerModel else {}
    with torch.device("meta"):  # no time goes into random weights that would be overwritten
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
    """Rows before the first token's position: a Longformer counts from the padding's index on, as RoBERTa does."""
    return pad_token_id + 1


def _long_weights(
    weights: Mapping[str, torch.Tensor], max_length: int, pad_token_id: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """Local projections serve for the global ones too, and positions are repeated: section 5's start,
    from which both learn to differ."""
    for name, weight in weights.items():
        long_name = f"longformer.{name.removeprefix('bert.')}" if name.startswith("bert.") else name
        if "position_embeddings" in name:
            weight = _repeat_positions(weight, max_length, _reserved(pad_token_id))
        yield long_name, weight.clone()
        for local in LOCAL:
            if local in name:
                yield long_name.replace(local, f"{local[:-1]}_global."), weight.clone()


def _repeat_positions(positions: torch.Tensor, max_length: int, reserved: int) -> torch.Tensor:
    """[reserved + max_length, hidden]: zeros, which padding gets, then the positions over and over."""
    import torch

    rows = torch.arange(max_length, device=positions.device) % len(positions)
    return torch.cat([positions.new_zeros(reserved, positions.shape[1]), positions[rows]])


def load_long_model(
    name: str, tokenizer: PreTrainedTokenizerFast, attention_window: int, max_length: int
) -> PreTrainedModel:
    """A LongformerForQuestionAnswering from the backbone `name`: a Longformer as it is, but with this
    window; a BERT or a `scratch:` backbone made long. Its attention is computed in blocks; see jobs.attention.

    Raises BackboneError when it cannot be had, reads less than `max_length` tokens, or is another kind of model.
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
    """`scratch`, `bert` or `longformer`. Raises BackboneError for a backbone that is none of them."""
    kind = backbones.model_type(name)
    if kind not in ("scratch", "bert", "longformer"):
        raise BackboneError(
            f"{name}: its architecture is {kind}, which cannot be made long; choose a BERT or a Longformer"
        )
    return kind


def fetch_long(name: str) -> None:
    """Make sure `name` can be loaded by `load_long_model`; see jobs.backbones.fetch."""
    long_model_type(name)
    backbones.fetch_backbone(name)

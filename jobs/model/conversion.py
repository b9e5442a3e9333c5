"""Convert a BERT to a Longformer with the same weights (Beltagy, Peters, Cohan 2020, arXiv 2004.05150, section 5).

In a BERT every token attends to every other. In a Longformer it attends to its nearest neighbours and a few global
tokens, so the cost grows linearly with the length. Many encoders are BERTs under another name, such as ELECTRA and
RoBERTa. The module also loads models for span prediction over long texts: Longformers, and other encoders as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from jobs.backbone.architectures import BERTS
from jobs.backbone.names import SCRATCH
from jobs.backbone.positions import position_limit
from jobs.backbone.source import BackboneError, from_pretrained
from jobs.model import backbones

if TYPE_CHECKING:
    import torch
    from transformers import LongformerConfig, PreTrainedModel, PreTrainedTokenizerFast

HEAD = "AutoModelForQuestionAnswering"

# Values that the Longformer's config copies, each with its name in the BERT's config.
SAME = (
    ("vocab_size", "vocab_size"),
    ("hidden_size", "hidden_size"),
    ("num_hidden_layers", "num_hidden_layers"),
    ("num_attention_heads", "num_attention_heads"),
    ("intermediate_size", "intermediate_size"),
    ("hidden_act", "hidden_act"),
    ("hidden_dropout_prob", "hidden_dropout_prob"),
    ("attention_probs_dropout_prob", "attention_probs_dropout_prob"),
    ("type_vocab_size", "type_vocab_size"),
    ("initializer_range", "initializer_range"),
    ("layer_norm_eps", "layer_norm_eps"),
    # A DistilBERT's config has these instead. It has neither token types nor a `layer_norm_eps`.
    ("intermediate_size", "hidden_dim"),
    ("hidden_act", "activation"),
    ("hidden_dropout_prob", "dropout"),
    ("attention_probs_dropout_prob", "attention_dropout"),
)

# The parts of a DistilBERT's weight names, and what they are called in a BERT.
DISTILBERT_NAMES = (
    ("transformer.layer.", "encoder.layer."),
    (".attention.q_lin.", ".attention.self.query."),
    (".attention.k_lin.", ".attention.self.key."),
    (".attention.v_lin.", ".attention.self.value."),
    (".attention.out_lin.", ".attention.output.dense."),
    (".sa_layer_norm.", ".attention.output.LayerNorm."),
    (".ffn.lin1.", ".intermediate.dense."),
    (".ffn.lin2.", ".output.dense."),
    (".output_layer_norm.", ".output.LayerNorm."),
)
LOCAL = (".self.query.", ".self.key.", ".self.value.")
TASKS, TYPES = "embeddings.task_type_embeddings.weight", "embeddings.token_type_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"


def unlike_bert(config: Mapping[str, Any]) -> str | None:
    """Return why a model with this config is no Longformer and cannot become one, or None if it is or can.

    >>> unlike_bert({"model_type": "modernbert"})
    'its architecture is modernbert'
    """
    kind = config.get("model_type")
    if kind != "longformer" and kind not in BERTS:
        return f"its architecture is {kind}"
    if kind == "electra":
        # The sizes that ElectraConfig has where config.json names none (transformers 5.24).
        narrow, wide = config.get("embedding_size", 128), config.get("hidden_size", 256)
        if narrow != wide:
            return f"its embeddings have {narrow} numbers and its layers {wide}"
    if config.get("is_decoder"):
        return "its tokens attend to earlier ones only"
    return None


def too_short(name: str, config: Mapping[str, Any], max_length: int) -> str | None:
    """Return the error message for a model that cannot read `max_length` tokens, as it is or as a Longformer.

    Returns None for a model that can.
    """
    limit, reason = position_limit(name), unlike_bert(config)
    if limit is None or limit >= max_length or (reason is None and config.get("model_type") != "longformer"):
        return None
    cause = f" and cannot become a Longformer, because {reason}" if reason else ""
    return (
        f"{name} reads at most {limit} tokens{cause}; set max_length to at most {limit}, or choose a Longformer, "
        f"a BERT, or another encoder that reads {max_length} tokens"
    )


def made_long(
    bert: PreTrainedModel, attention_window: int, max_length: int, pad_token_id: int | None = None
) -> PreTrainedModel:
    """Return a Longformer for `max_length` tokens with the weights of a BERT, with its question-answering head if any.

    Each token attends to `attention_window` others, half on each side. Both models return the same hidden states for
    inputs so short that every token attends to every other: at most attention_window / 2 + 1 tokens, or more with
    global attention. Beyond the BERT's last position the results differ. `pad_token_id` is the tokenizer's padding, if
    the BERT's config names another token.
    """
    import torch
    import transformers

    config = _long_config(
        bert, attention_window, max_length, bert.config.pad_token_id if pad_token_id is None else pad_token_id
    )
    with torch.device("meta"):  # skips the initialisation of random weights, which are overwritten below
        if hasattr(bert, "qa_outputs"):
            model = transformers.LongformerForQuestionAnswering(config)
        else:
            model = transformers.LongformerModel(config, add_pooling_layer=getattr(bert, "pooler", None) is not None)
    weights = _bert_weights(bert, config.type_vocab_size)
    weights[POSITIONS] = _repeat_positions(_real_positions(bert, weights[POSITIONS]), config)
    model.load_state_dict(dict(_long_weights(weights, model)), assign=True)
    return model.train(bert.training)


def _long_config(bert: PreTrainedModel, attention_window: int, max_length: int, pad_token_id: int) -> LongformerConfig:
    from transformers import LongformerConfig

    return LongformerConfig(
        **{name: getattr(bert.config, own) for name, own in SAME if hasattr(bert.config, own)},
        pad_token_id=pad_token_id,
        attention_window=[attention_window] * bert.config.num_hidden_layers,
        max_position_embeddings=_reserved(pad_token_id) + max_length,
    )


def _reserved(pad_token_id: int) -> int:
    """Return the number of positions before the first token. As in RoBERTa, it follows the padding's position."""
    return pad_token_id + 1


def _bert_weights(bert: PreTrainedModel, types: int) -> dict[str, torch.Tensor]:
    """Return the weights by their names in a BertModel, those of a head by their own names.

    The embedding of an ERNIE's first task is added to all token types, because the inputs name no other task. A model
    without token types gets `types` that change nothing.
    """
    weights = {_bert_name(bert, name): weight for name, weight in bert.state_dict().items()}
    tasks = weights.pop(TASKS, None)
    if TYPES not in weights:
        weights[TYPES] = weights[POSITIONS].new_zeros(types, bert.config.hidden_size)
    if tasks is not None:
        weights[TYPES] = weights[TYPES] + tasks[0]
    return weights


def _bert_name(bert: PreTrainedModel, name: str) -> str:
    name = name.removeprefix(f"{bert.base_model_prefix}.")
    for own, berts in DISTILBERT_NAMES if bert.config.model_type == "distilbert" else ():
        name = name.replace(own, berts)
    return name


def _real_positions(bert: PreTrainedModel, positions: torch.Tensor) -> torch.Tensor:
    """Return the position embeddings of tokens, from the first one on. RoBERTa's begin behind the padding's."""
    # Only RoBERTa and its like have this undocumented attribute (transformers 5.24).
    padding = getattr(bert.base_model.embeddings, "padding_idx", None)
    return positions if padding is None else positions[_reserved(padding) :]


def _repeat_positions(positions: torch.Tensor, config: LongformerConfig) -> torch.Tensor:
    """Return position embeddings [reserved + tokens, hidden]: zeros, then those of the BERT, repeated as needed."""
    import torch

    reserved = _reserved(config.pad_token_id)
    rows = torch.arange(config.max_position_embeddings - reserved, device=positions.device) % len(positions)
    return torch.cat([positions.new_zeros(reserved, positions.shape[1]), positions[rows]])


def _long_weights(weights: Mapping[str, torch.Tensor], model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the Longformer's weights. Global projections are copies of the local ones (section 5)."""
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    for name, weight in weights.items():
        long_name = name if name.startswith("qa_outputs.") else f"{prefix}{name}"
        yield long_name, weight.clone()
        for local in LOCAL:
            if local in name:
                yield long_name.replace(local, f"{local[:-1]}_global."), weight.clone()


def load_long_model(
    name: str, tokenizer: PreTrainedTokenizerFast, attention_window: int, max_length: int
) -> PreTrainedModel:
    """Load a model for question answering that reads `max_length` tokens.

    A Longformer gets this `attention_window`; a BERT, under any name, or a `scratch:` backbone is converted to one. Its
    attention runs in blocks (jobs.model.attention). Any other encoder that reads `max_length` tokens stays as it is.
    Raises BackboneError when the backbone cannot be loaded or reads fewer tokens.
    """
    from jobs.model.attention import in_blocks
    from jobs.model.inputs import adapt_inputs

    config = _config(name)
    if problem := too_short(name, config, max_length):
        raise BackboneError(problem)
    if unlike_bert(config):
        return backbones.load_model(name, HEAD, tokenizer, max_length)
    if config["model_type"] == "longformer":
        model = backbones.load_model(name, HEAD, tokenizer, max_length, attention_window=attention_window)
    else:
        bert = backbones.load_model(name, HEAD, tokenizer, max_length if SCRATCH.fullmatch(name) else 1)
        model = adapt_inputs(made_long(bert, attention_window, max_length, tokenizer.pad_token_id))
    model.config.sep_token_id = tokenizer.sep_token_id
    return in_blocks(model)


def _config(name: str) -> dict[str, Any]:
    """Return the values of a backbone's config. Raises BackboneError when it cannot be loaded."""
    if SCRATCH.fullmatch(name):
        return {"model_type": "bert"}
    from transformers import AutoConfig

    config: dict[str, Any] = from_pretrained(AutoConfig, name).to_dict()
    return config

"""Load a model by the backbone's name (see jobs.backbone.names). Weights are read from safetensors only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.backbone.architectures import architecture
from jobs.backbone.folders import parameter_count
from jobs.backbone.names import SCRATCH, Size, is_path, scratch_size
from jobs.backbone.positions import limit_of_config
from jobs.backbone.random_weights import LAYER_COUNTS
from jobs.backbone.source import BackboneError, check_files, describe_failure, from_pretrained
from jobs.backbone.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

BERT_VOCABULARY = 21_128  # pieces in BERT's Chinese vocabulary; an upper estimate for a vocabulary of characters
WRAPPERS = ("module.", "_orig_mod.", "model.")  # DataParallel's, torch.compile's, Lightning's
ROTARY = ("rope_parameters", "rotary_value")  # settings of models that turn their states by the position
LAYER_NUMBER = re.compile(r"\.\d+\.")
MOST_NAMED = 3  # tokens in a message
NARROW_HIDDEN = 256  # smaller hidden sizes get other initial weights and no dropout; see _narrow


def load_model(
    name: str, auto_class: str, tokenizer: PreTrainedTokenizerFast, positions: int, **config: Any
) -> PreTrainedModel:
    """Load the backbone with a task's head.

    auto_class  name of a transformers class, such as `AutoModelForQuestionAnswering`
    positions   the longest input in tokens
    config      overrides values of the model's config, such as `num_labels`

    Raises BackboneError when the model cannot be loaded, reads fewer than `positions` tokens, lacks weights of its
    encoder, or has a smaller vocabulary than the tokenizer.
    """
    from jobs.model.inputs import adapt_inputs
    from jobs.model.padding import settle_padding

    match = SCRATCH.fullmatch(name)
    model = (
        _scratch_model(scratch_size(match), auto_class, tokenizer, positions, **config)
        if match
        else _pretrained_model(name, auto_class, tokenizer, positions, **config)
    )
    limit = limit_of_config(model.config.to_dict())
    if limit is not None and limit < positions:
        raise BackboneError(f"{name}: reads at most {limit} tokens; lower max_length from {positions}")
    if len(tokenizer) > model.config.vocab_size:
        raise BackboneError(f"{name}: {_too_many_pieces(tokenizer, model.config.vocab_size)}")
    return settle_padding(adapt_inputs(model), tokenizer, positions)


def _too_many_pieces(tokenizer: PreTrainedTokenizerFast, count: int) -> str:
    """Return what is wrong with a tokenizer for a model of `count` pieces, with the cure."""
    beyond = [repr(piece) for piece, index in tokenizer.get_added_vocab().items() if index >= count]
    if len(tokenizer) - count > len(beyond):
        return (
            f"its tokenizer has {len(tokenizer)} pieces and the model only {count}; "
            "set the right tokenizer_class in its tokenizer_config.json"
        )
    return (
        f"its tokenizer adds {', '.join(beyond[:MOST_NAMED])}{', …' * (len(beyond) > MOST_NAMED)} to its vocabulary, "
        f"and the model has no embeddings beyond {count} pieces; remove these from the tokenizer's files, name special "
        "tokens of the vocabulary in tokenizer_config.json, or save the model after resize_token_embeddings"
    )


def _scratch_model(
    size: Size, auto_class: str, tokenizer: PreTrainedTokenizerFast, positions: int, **config: Any
) -> PreTrainedModel:
    import transformers

    made = transformers.BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=size.layers,
        hidden_size=size.hidden,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.hidden,
        max_position_embeddings=max(512, positions),
        pad_token_id=tokenizer.pad_token_id,
        **{**(_narrow(size.hidden) if size.hidden < NARROW_HIDDEN else {}), **config},
    )
    return getattr(transformers, auto_class).from_config(made)


def _narrow(hidden: int) -> dict[str, float]:
    """Return config values for a narrow BERT, so that it learns within minutes.

    The initial weights keep the variance of activations (LeCun et al. 1998, "Efficient BackProp", section 4.6), and
    there is no dropout. BERT's own values, 0.02 and 0.1, are for hidden size 768 and long training.
    """
    return {"initializer_range": hidden**-0.5, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def _pretrained_model(
    name: str, auto_class: str, tokenizer: PreTrainedTokenizerFast, positions: int, **options: Any
) -> PreTrainedModel:
    import torch
    import transformers

    from jobs.model import heads, inputs

    config = _usable_config(name)
    head = heads.choose_head(auto_class, config)
    if head is None:
        raise BackboneError(
            f"{name}: its architecture, {config.model_type}, has no head {heads.purpose(auto_class)}; "
            "choose another backbone"
        )
    trial = architecture(config.to_dict()).settings(config.to_dict(), positions)
    for key, value in {
        **trial,
        **inputs.input_settings(config, tokenizer),
        **heads.head_settings(head, options),
    }.items():
        setattr(config, key, value)
    model, info = from_pretrained(
        getattr(transformers, head.auto_class),
        name,
        config=config,
        use_safetensors=True,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # a head for another task; _check_encoder allows no other weights
        output_loading_info=True,
    )
    _check_encoder(name, model, info, shorter=not options.keys().isdisjoint(LAYER_COUNTS))
    return heads.mix_in(model, head.scores)


def _check_encoder(name: str, model: PreTrainedModel, info: dict[str, Any], shorter: bool = False) -> None:
    """Raise BackboneError if the checkpoint lacks weights of the encoder, has them in another shape, or more layers.

    A new head and a new pooler are allowed, and further layers if the task wants a `shorter` model.
    """
    encoder = _encoder_weights(model)
    missing = sorted(key for key in info["missing_keys"] if key in encoder and ".pooler." not in key)
    for key, there, wanted in sorted(info["mismatched_keys"]):
        if key in encoder:
            raise BackboneError(
                f"{name}: its weights do not fit the model in its config.json: {key} is {_shape(there)} in the "
                f"checkpoint and {_shape(wanted)} in the model; correct config.json, or choose another backbone"
            )
    if wrapper := _wrapper(model, missing, info["unexpected_keys"]):
        raise BackboneError(
            f"{name}: the names of its weights begin with {wrapper!r}, which is not part of the model; save the model "
            "that is inside the wrapper"
        )
    if not shorter and (more := _further_layers(model, encoder, info["unexpected_keys"])):
        raise BackboneError(
            f"{name}: its checkpoint has more layers than its config.json asks for, such as the one of {more[0]}; "
            "correct the number of layers in config.json, or save the shorter model"
        )
    if missing:
        raise BackboneError(
            f"{name}: {len(missing)} weights of the encoder are not in the checkpoint, such as {missing[0]}; "
            "correct the architecture in its config.json, or choose another backbone"
        )


def _wrapper(model: PreTrainedModel, missing: Iterable[str], unexpected: Iterable[str]) -> str | None:
    """Return what stands before the names of weights in a checkpoint of a wrapped model, such as `module.`."""
    names = set(missing)
    return next((found for key in unexpected for found in WRAPPERS if _in_model(model, key, found) in names), None)


def _in_model(model: PreTrainedModel, key: str, wrapper: str = "") -> str:
    """Return a weight's name in the model, for its name in a checkpoint of the model, its encoder, or a wrapper."""
    own = f"{model.base_model_prefix}."
    inner = key.removeprefix(wrapper).removeprefix(own)
    return key if wrapper and not key.startswith(wrapper) else own + inner


def _further_layers(model: PreTrainedModel, encoder: Iterable[str], unexpected: Iterable[str]) -> list[str]:
    """Return the weights of a checkpoint that differ from the encoder's by the number of their layer alone."""
    known = {LAYER_NUMBER.sub(".#.", key) for key in encoder}
    return sorted(key for key in unexpected if LAYER_NUMBER.sub(".#.", _in_model(model, key)) in known)


def _shape(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes))


def _encoder_weights(model: PreTrainedModel) -> set[str]:
    """Return the names of the model's weights that are not its head's."""
    import torch
    import transformers

    if model.base_model is not model:
        return {key for key in model.state_dict() if key.startswith(f"{model.base_model_prefix}.")}
    # The parts of a T5's encoder and decoder lie beside the head, without a module around them.
    with torch.device("meta"):
        return set(transformers.AutoModel.from_config(model.config).state_dict())


def model_type(name: str) -> str:
    """Return `scratch`, or the model type in a checkpoint's config.json, such as `bert`.

    Raises BackboneError when the config cannot be loaded, or no job can use the model.
    """
    if SCRATCH.fullmatch(name):
        return "scratch"
    return str(_usable_config(name).model_type)


def _usable_config(name: str) -> PretrainedConfig:
    """Return a checkpoint's config. Raises BackboneError when it cannot be loaded, or no job can use the model."""
    from transformers import AutoConfig

    config = from_pretrained(AutoConfig, name)
    if refusal := architecture(config.to_dict()).refusal or _unread_setting(config):
        raise BackboneError(f"{name}: {refusal}")
    return config


def _unread_setting(config: PretrainedConfig) -> str | None:
    """Return why a model of this config is not the one whose weights the checkpoint has, with the cure."""
    if getattr(config, "quantization_config", None):
        return "its weights are quantized, and such weights cannot be trained; choose the backbone without quantization"
    kind = getattr(config, "position_embedding_type", None) or "absolute"
    # transformers 5 took other kinds out of BERTs. Classes that still have one declare it, and rotary ones their turns.
    if kind != "absolute" and not any(hasattr(type(config), one) for one in ("position_embedding_type", *ROTARY)):
        return (
            f"its config.json asks for a position_embedding_type of {kind}, and transformers computes absolute ones "
            f"for {config.model_type}; choose another backbone"
        )
    return None


def fetch_backbone(name: str) -> None:
    """Download a backbone from the hub, unless it is already on this machine.

    Raises BackboneError when it cannot be loaded. A scratch backbone needs only its tokenizer, if it names one.
    """
    match = SCRATCH.fullmatch(name)
    if match and not match["tokenizer"]:
        return
    load_tokenizer(name, ())
    if not match:
        model_type(name)
        _fetch_weights(name)


def _fetch_weights(name: str) -> None:
    if is_path(name):
        check_files(name)
        if not list(Path(name).expanduser().glob("*.safetensors")):
            raise BackboneError(f"{name}: holds no *.safetensors; save the weights again with a current transformers")
        return
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model"])
    except (OSError, ValueError) as error:
        raise BackboneError(f"{name}: {describe_failure(name, error)}") from error
    check_files(name)


def weight_bytes(name: str) -> int | None:
    """Return the bytes of a backbone's fp32 weights, estimated for `scratch:`; None if no local folder holds them."""
    match = SCRATCH.fullmatch(name)
    if match:
        size = scratch_size(match)
        return 4 * (size.layers * 12 * size.hidden**2 + (BERT_VOCABULARY + 512) * size.hidden)
    count = parameter_count(Path(name).expanduser()) if is_path(name) else None
    return 4 * count if count else None

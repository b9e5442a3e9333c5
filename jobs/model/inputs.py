"""Adapt a batch to the model that reads it: a forward pre-hook, installed once when a model is loaded.

All jobs make the same batches. Architectures differ in the inputs that they take: a DistilBERT has no token types, a
RoBERTa has one, and only models with sliding windows take a global attention mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

TYPES = "token_type_ids"
# These models compare the token types of two positions; they have no table of types, so every number is right.
COMPARED_TYPES = ("funnel", "xlnet")


@dataclass(frozen=True)
class InputFilter:
    """Drop the tensors that a model does not take and limit its token types. Called by torch before `forward`.

    taken  the names of the model's inputs
    types  the number of token types that the model has; None if it takes every number
    """

    taken: frozenset[str]
    types: int | None

    def __call__(self, model: torch.nn.Module, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Any:
        """Return `args` and the inputs to use. Values that are no tensors with a row for each input stay."""
        kept = {name: value for name, value in inputs.items() if name in self.taken or not _has_rows(value)}
        if self.types is not None and TYPES in kept:
            kept[TYPES] = kept[TYPES].clamp(max=self.types - 1)
        return args, kept


def _has_rows(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0


def adapt_inputs(model: PreTrainedModel) -> PreTrainedModel:
    """Install an InputFilter that fits the model, in place, and return the model."""
    types = _type_count(model.config)
    taken = input_names(model) - ({TYPES} if types == 0 else set())
    model.register_forward_pre_hook(InputFilter(taken, types), with_kwargs=True)
    return model


def input_names(model: PreTrainedModel) -> frozenset[str]:
    """Return the names of the arguments that the model or the encoder in it declares.

    Most heads of transformers take any keyword and pass it on to their encoder, so a head takes what its encoder takes.
    """
    forwards = (model.forward, model.base_model.forward)
    parameters = [one for forward in forwards for one in inspect.signature(forward).parameters.values()]
    return frozenset(one.name for one in parameters if one.kind is not one.VAR_KEYWORD)


def _type_count(config: Any) -> int | None:
    """Return how many token types a model has: 0 without a table of types, None if it takes every number."""
    if config.model_type in COMPARED_TYPES:
        return None
    return int(getattr(config, "type_vocab_size", None) or 0)


def input_settings(config: Any, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return the values of a model's config to change, so that the model reads the batches of all jobs."""
    values: dict[str, Any] = {"return_dict": True, "output_attentions": False, "output_hidden_states": False}
    if hasattr(config, "use_cache"):
        values["use_cache"] = False
    if hasattr(config, "chunk_size_feed_forward"):  # saves memory, and fails where a batch is no multiple of it
        values["chunk_size_feed_forward"] = 0
    for adapt in (_decoder, _special_tokens, _language):
        values |= adapt(config, tokenizer)
    return values


def _decoder(config: Any, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return settings for a model with a decoder, so that its input is made of the batch and ends as it expects."""
    if not config.is_encoder_decoder:
        return {}
    ids = tokenizer("一")["input_ids"]
    start, end = (getattr(config, f"{name}_token_id", None) for name in ("decoder_start", "eos"))
    return {
        "decoder_start_token_id": tokenizer.pad_token_id if start is None else start,
        # Classifiers read the state of this token; in a decoder the first one has seen nothing of the text.
        "eos_token_id": end if end in ids[1:] else ids[-1],
    }


def _special_tokens(config: Any, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return the ids of tokens that some models look for in their input, as the tokenizer numbers them."""
    found: dict[str, Any] = {}
    padding = getattr(config, "pad_token_id", None)
    if padding is None or not 0 <= padding < config.vocab_size:
        # Set before the model is made: a checkpoint whose config names another padding than the model that was trained
        # gets other embeddings for it when it is loaded again (Funnel in transformers 5.24).
        found["pad_token_id"] = tokenizer.pad_token_id
    if getattr(config, "sep_token_id", None) is not None:  # ends the question in a BigBird
        found["sep_token_id"] = tokenizer.sep_token_id
    if config.model_type == "splinter" and tokenizer.convert_tokens_to_ids("[QUESTION]") != config.question_token_id:
        found["question_token_id"] = tokenizer.cls_token_id  # its state is compared with that of each token
    return found


def _language(config: Any, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return the language of the adapters that an XMOD uses: Chinese if it has no language and knows Chinese."""
    if config.model_type != "xmod" or config.default_language:
        return {}
    return {"default_language": next((one for one in config.languages if one.startswith("zh")), config.languages[0])}

"""Pad the batches of a model as its architecture needs it, so that a row's scores do not depend on the other rows.

Tasks pad on the right, to the longest row of a batch. `settle_padding` makes a model that needs other padding change
its batches itself, just before `forward`, and cut the scores of positions that were added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jobs.backbone.architectures import architecture

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

WIDTH = "padded_width"  # the attribute of a model with the number of positions to which it pads every row
LAST_READERS = ("last", "cls_index")  # summary types of heads that read the last position, padding or not


def settle_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, length: int) -> PreTrainedModel:
    """Make a model pad its batches as its architecture needs it. Returns the model.

    `length` is the longest input in tokens. A model whose scores do not depend on padding stays as it is.
    """
    config = model.config.to_dict()
    kind, summaries = architecture(config), {getattr(module, "summary_type", None) for module in model.modules()}
    left = not summaries.isdisjoint(LAST_READERS)
    width = kind.width(config, length)
    if "mean" in summaries or (left and not kind.relative):
        width = max(width, length)
    pad = _padding_id(model, tokenizer)
    if width or left or pad != tokenizer.pad_token_id:
        padder = BatchPadder(width, left, pad)
        setattr(model, WIDTH, width)
        # First of the model's hooks: another one may drop the mask, which tells tokens from padding.
        model.register_forward_pre_hook(padder.widen, prepend=True, with_kwargs=True)
        model.register_forward_hook(padder.cut, with_kwargs=True)
    return model


def _padding_id(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Return the id that the model takes for padding, some models by nothing but this id. Writes it if it has none."""
    own = getattr(model.config, "pad_token_id", None)
    if own is None or not 0 <= own < model.config.vocab_size:
        own = model.config.pad_token_id = tokenizer.pad_token_id
    return own


@dataclass
class BatchPadder:
    """Pad the batches of a model and cut its scores. Called by torch before and after `forward`.

    width  the least number of positions
    left   True if padding comes first
    pad    the id of padding
    shown  the number of positions of the batch that `forward` is computing
    """

    width: int
    left: bool
    pad: int
    shown: int = 0

    def widen(self, model: torch.nn.Module, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self.shown = inputs["input_ids"].shape[-1]
        return args, padded_batch(inputs, self.width, self.left, self.pad)

    def cut(self, model: torch.nn.Module, args: Any, inputs: dict[str, Any], output: Any) -> None:
        for name in ("start_logits", "end_logits"):
            if name in output:
                output[name] = output[name][..., : self.shown]


def padded_batch(batch: Mapping[str, torch.Tensor], width: int, left: bool, pad: int) -> dict[str, torch.Tensor]:
    """Return a batch with at least `width` positions, its padding on the left or the right and with the id `pad`.

    All tensors of the shape of `input_ids` [..., positions] are changed; they get zeros where `input_ids` gets `pad`.
    """
    import torch

    shape = batch["input_ids"].shape
    missing = max(0, width - shape[-1])
    mask = torch.nn.functional.pad(batch["attention_mask"], (0, missing))
    order = mask.argsort(dim=-1, stable=True) if left else None  # padding first, then the tokens as they were

    def placed(name: str, values: torch.Tensor) -> torch.Tensor:
        wide = torch.nn.functional.pad(values, (0, missing))
        if name == "input_ids":
            wide = wide.masked_fill(mask == 0, pad)
        return wide if order is None else wide.gather(-1, order)

    return {name: placed(name, values) if values.shape == shape else values for name, values in batch.items()}


def padded_lengths(model: PreTrainedModel, lengths: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Return how many positions each input takes in a batch of this model, given its number of tokens."""
    return lengths.clip(min=getattr(model, WIDTH, 0))

"""Compute a Longformer's sliding-window self-attention in blocks, for inputs of any length.

Each block is one call of scaled_dot_product_attention. The results equal those of transformers'
LongformerSelfAttention, in less time. Weights and configs keep their names, so each class loads what the other saves.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import LongformerModel, PreTrainedModel

# transformers 5.23 exports LongformerBaseModelOutputWithPooling only from its internal module.
from transformers.models.longformer.modeling_longformer import (
    LongformerBaseModelOutputWithPooling,
    LongformerSelfAttention,
)

from jobs.model.facts import told

MIN_BLOCK_TOKENS = 64  # queries in a block; smaller blocks need more calls, whose overhead exceeds their arithmetic
MAX_SCORES = 2**20  # scores computed at once in _written_out: 4 MiB in float32, about the size of a core's cache
DROPOUT_STEPS = 2**16  # values of a random int16; the dropout share is rounded to a multiple of 1 / DROPOUT_STEPS


class Visibility(NamedTuple):
    """Describes which tokens attend to which in a batch; layers with the same window share it.

    block    queries in a block; a row's last block may extend past the row's end
    margin   a block's keys are the global tokens and the tokens from `margin` before it to `margin` after it
    local    [rows * blocks, 1, block, keys] added to scores: 0 for visible keys, half the dtype's minimum for others
    places   [rows, most] positions of each row's global tokens, padded with positions of other tokens
    held     [rows, most, 1] True where `places` is a global token
    wide     [rows, 1, 1, positions] added to the scores of global tokens
    kept     [rows, positions, 1] True for tokens that are not padding
    """

    block: int
    margin: int
    local: Tensor
    places: Tensor
    held: Tensor
    wide: Tensor
    kept: Tensor

    def windows(self, values: Tensor, missing: int) -> Tensor:
        """Gather the neighbourhood of each block: [rows, positions, ...] to [rows, blocks, ..., block + 2 * margin]."""
        around = (*(0, 0) * (values.dim() - 2), self.margin, self.margin + missing)
        return pad(values, around).unfold(1, self.block + 2 * self.margin, self.block)


def layout(tokens: Tensor, reach: int, dtype: torch.dtype) -> Visibility:
    """Compute the Visibility of `tokens` [rows, positions] for scores of type `dtype`.

    A token is 0 for padding, 1 if it attends to `reach` neighbours on each side, 2 if it is global: it attends to all
    tokens and all attend to it.
    """
    positions = tokens.shape[1]
    block, margin = _block(positions, reach)
    blocks, missing = _blocks(positions, block)
    is_global, kept = tokens == 2, tokens > 0
    facts = told()
    most = facts.most_global if facts else int(is_global.sum(1).max())  # which waits for the device
    places = is_global.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    held = is_global.gather(1, places)
    plan = Visibility(
        block, margin, tokens, places, held[..., None], _added(kept[:, None, None], dtype), kept[..., None]
    )
    place = torch.arange(block + 2 * margin, device=tokens.device) - margin
    near = (place - torch.arange(block, device=tokens.device)[:, None]).abs() <= reach
    seen = plan.windows(tokens == 1, missing)[:, :, None, :] & near
    seen = torch.cat([held[:, None, None, :].expand(-1, blocks, block, -1), seen], dim=-1)
    return plan._replace(local=_added(seen.flatten(0, 1)[:, None], dtype))


def _block(positions: int, reach: int) -> tuple[int, int]:
    """Return the block size and its margin: one block for the whole input if smaller blocks would need as many keys."""
    block = max(reach, MIN_BLOCK_TOKENS)
    return (positions, 0) if positions <= block + 2 * reach else (block, reach)


def _blocks(positions: int, block: int) -> tuple[int, int]:
    """Return the number of blocks and the number of positions to pad in the last block."""
    blocks = -(-positions // block)
    return blocks, blocks * block - positions


def _added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 for visible keys and half the dtype's minimum for others.

    -inf gives NaN in padding rows, and so does the whole minimum: in float16 its sum with a negative score is -inf.
    """
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min / 2)


class BlockSelfAttention(LongformerSelfAttention):  # type: ignore[misc]
    """Computes self-attention in blocks if the mask is a Visibility. Calls transformers' code if it is a tensor."""

    def forward(self, hidden_states: Tensor, attention_mask: Any = None, *rest: Any, **others: Any) -> Any:
        if not isinstance(attention_mask, Visibility):
            return super().forward(hidden_states, attention_mask, *rest, **others)
        outputs = self._local(hidden_states, attention_mask).masked_fill(~attention_mask.kept, 0)
        if attention_mask.places.shape[1]:
            outputs = self._wide(outputs, hidden_states, attention_mask)
        return (outputs,)

    def _local(self, states: Tensor, plan: Visibility) -> Tensor:
        """Compute each token's attention to its neighbours and to the global tokens."""
        rows, positions, _ = states.shape
        blocks, missing = _blocks(positions, plan.block)
        query = pad(self.query(states), (0, 0, 0, missing)).unflatten(1, (blocks, plan.block))
        key, value = (_keys(project(states), plan, missing) for project in (self.key, self.value))
        outputs = self._attend(query.flatten(0, 1), key, value, plan.local)
        return outputs.unflatten(0, (rows, blocks)).flatten(1, 2)[:, :positions]

    def _wide(self, outputs: Tensor, states: Tensor, plan: Visibility) -> Tensor:
        """Replace the outputs of global tokens by their attention to all tokens, using the global projections."""
        query = self.query_global(_taken(states, plan.places))
        wide = self._attend(query, self.key_global(states), self.value_global(states), plan.wide)
        wide = torch.where(plan.held, wide, _taken(outputs, plan.places))
        return outputs.scatter(1, plan.places[..., None].expand_as(wide), wide)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, added: Tensor) -> Tensor:
        """Compute attention over tensors [batch, positions, hidden]; `added` is [batch, 1, queries or 1, keys]."""
        apart = (self.num_heads, self.head_dim)
        query, key, value = (part.unflatten(-1, apart).transpose(1, 2) for part in (query, key, value))
        return attend(query, key, value, added, self.dropout if self.training else 0.0).transpose(1, 2).flatten(2)


def _keys(states: Tensor, plan: Visibility, missing: int) -> Tensor:
    """Return the hidden states of each block's keys [rows * blocks, keys, hidden]."""
    near = plan.windows(states, missing).transpose(2, 3)
    wide = _taken(states, plan.places)[:, None].expand(-1, near.shape[1], -1, -1)
    return torch.cat([wide, near], dim=2).flatten(0, 1)


def _taken(states: Tensor, places: Tensor) -> Tensor:
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[2]))


def attend(query: Tensor, key: Tensor, value: Tensor, added: Tensor, dropout: float) -> Tensor:
    """Compute scaled_dot_product_attention of tensors [batch, heads, positions, size] the fastest way for their device.

    On a CPU, the fused kernel is slower in bfloat16 than in float32, so inputs are converted to float32. It also has no
    dropout. With dropout, the scores are computed explicitly, a few blocks at a time so that they fit into the cache.
    """
    if query.device.type != "cpu":
        return scaled_dot_product_attention(query, key, value, attn_mask=added, dropout_p=dropout)
    with torch.autocast("cpu", enabled=False):
        if not dropout:
            attended = scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=added)
        else:
            few = max(1, MAX_SCORES // (query.shape[1] * query.shape[2] * key.shape[2]))
            pieces = zip(*(part.split(few) for part in (query.float(), key.float(), value.float(), added)), strict=True)
            attended = torch.cat([_written_out(dropout, *piece) for piece in pieces])
    return attended.to(query.dtype)


def _written_out(dropout: float, query: Tensor, key: Tensor, value: Tensor, added: Tensor) -> Tensor:
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-1, -2) + added
    share = min(round(dropout * DROPOUT_STEPS), DROPOUT_STEPS - 1)
    left_out = _random_bits(scores) < share - DROPOUT_STEPS // 2
    return scores.softmax(-1).masked_fill(left_out, 0) @ value * (DROPOUT_STEPS / (DROPOUT_STEPS - share))


def _random_bits(scores: Tensor) -> Tensor:
    """Draw a random int16 for each score, four from each random int64.

    PyTorch's dropout draws one number at a time on one core, which takes longer than the attention itself.
    """
    draws = torch.empty(-(-scores.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    return draws.view(torch.int16)[: scores.numel()].view(scores.shape)


class BlockLongformer(LongformerModel):  # type: ignore[misc]
    """Passes a Visibility to its layers. Calls transformers' code for inputs and outputs that blocks do not support."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        **others: Any,
    ) -> Any:
        if input_ids is None or attention_mask is None or self._asks_for_more(others):
            return super().forward(
                input_ids, attention_mask, global_attention_mask, token_type_ids, position_ids, **others
            )
        tokens = (attention_mask != 0).long()
        if global_attention_mask is not None:
            tokens = tokens * (1 + (global_attention_mask != 0).long())
        states = self.embeddings(input_ids, token_type_ids, position_ids)
        plans: dict[int, Visibility] = {}
        for layer in self.encoder.layer:
            # Undocumented attribute in transformers 5.23: the config has only the sizes of whole windows.
            reach = layer.attention.self.one_sided_attn_window_size
            plans[reach] = plans.get(reach) or layout(tokens, reach, score_type(states))
            states = layer(states, attention_mask=plans[reach])[0]
        return LongformerBaseModelOutputWithPooling(
            last_hidden_state=states, pooler_output=self.pooler(states) if self.pooler is not None else None
        )

    def _asks_for_more(self, options: dict[str, Any]) -> bool:
        """Return True if the caller wants attentions, all hidden states or a tuple, or passes embeddings."""
        told = {name: getattr(self.config, name) for name in ("output_attentions", "output_hidden_states")}
        told |= {"return_dict": self.config.return_dict, "inputs_embeds": None}
        told |= {name: value for name, value in options.items() if value is not None}
        return bool(
            told["output_attentions"]
            or told["output_hidden_states"]
            or not told["return_dict"]
            or told["inputs_embeds"] is not None
        )


def score_type(states: Tensor) -> torch.dtype:
    """Return the dtype of the scores in `attend`."""
    device = states.device.type
    if device == "cpu":
        return torch.float32
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


BLOCKWISE = {LongformerSelfAttention: BlockSelfAttention, LongformerModel: BlockLongformer}


def in_blocks(model: PreTrainedModel) -> PreTrainedModel:
    """Switch a Longformer's attention to blocks, in place, and return the model. Its parameters do not change."""
    for module in model.modules():
        if type(module) in BLOCKWISE:
            # Changing the class keeps the weights in place; the subclasses add no attributes (transformers 5.23).
            module.__class__ = BLOCKWISE[type(module)]
    return model

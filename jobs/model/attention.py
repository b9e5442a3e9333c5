"""A Longformer's sliding-window self-attention in blocks, each one call of scaled_dot_product_attention: the same
numbers as transformers' LongformerSelfAttention in less time, for inputs of any length.

Weights keep their names and a saved config its classes, so that either reads what the other has saved.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import LongformerModel, PreTrainedModel
from transformers.models.longformer.modeling_longformer import (
    LongformerBaseModelOutputWithPooling,
    LongformerSelfAttention,
)

SMALLEST = 64  # queries in a block: with fewer the calls cost more than the arithmetic
SCORES = 2**20  # at once where they are written out: 4 MiB, about what a core's cache holds
STEPS = 2**16  # in which the share that dropout takes is told


class Visibility(NamedTuple):
    """Who sees whom in a batch; the same for all layers with one window.

    block    queries in a block; the last block of a row may reach beyond its end
    margin   a block's keys are the global tokens and all from so many before it to so many behind it
    local    [rows * blocks, 1, block, keys] added to scores: 0, or where out of sight the dtype's least number
    places   [rows, most] where each row's global tokens are, filled up with other tokens
    held     [rows, most, 1] which of these are global
    wide     [rows, 1, 1, positions] added to the scores of global tokens
    kept     [rows, positions, 1] which are no padding
    """

    block: int
    margin: int
    local: Tensor
    places: Tensor
    held: Tensor
    wide: Tensor
    kept: Tensor

    def windows(self, values: Tensor, missing: int) -> Tensor:
        """[rows, positions, ...] to [rows, blocks, ..., block + 2 * margin]: what stands around each block."""
        around = (*(0, 0) * (values.dim() - 2), self.margin, self.margin + missing)
        return pad(values, around).unfold(1, self.block + 2 * self.margin, self.block)


def layout(tokens: Tensor, reach: int, dtype: torch.dtype) -> Visibility:
    """The layout for `tokens` [rows, positions], each 0 for padding, 1 where it sees `reach` neighbours on each
    side, 2 where it sees and is seen by all. `dtype` is that of the scores."""
    positions = tokens.shape[1]
    block, margin = _block(positions, reach)
    blocks, missing = _blocks(positions, block)
    is_global, kept = tokens == 2, tokens > 0
    most = int(is_global.sum(1).max())
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
    """Queries in a block, and its margin: one block over all where its keys would be no fewer otherwise."""
    block = max(reach, SMALLEST)
    return (positions, 0) if positions <= block + 2 * reach else (block, reach)


def _blocks(positions: int, block: int) -> tuple[int, int]:
    """How many blocks there are, and how many positions the last one lacks."""
    blocks = -(-positions // block)
    return blocks, blocks * block - positions


def _added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """The least number is finite, so that padding that sees nothing gets no NaN."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


class BlockSelfAttention(LongformerSelfAttention):  # type: ignore[misc]
    """Takes a Layout for its attention mask; with a tensor it is transformers' own."""

    def forward(self, hidden_states: Tensor, attention_mask: Any = None, *rest: Any, **others: Any) -> Any:
        if not isinstance(attention_mask, Visibility):
            return super().forward(hidden_states, attention_mask, *rest, **others)
        outputs = self._local(hidden_states, attention_mask).masked_fill(~attention_mask.kept, 0)
        if attention_mask.places.shape[1]:
            outputs = self._wide(outputs, hidden_states, attention_mask)
        return (outputs,)

    def _local(self, states: Tensor, plan: Visibility) -> Tensor:
        """What every token takes from its neighbours and the global tokens."""
        rows, positions, _ = states.shape
        blocks, missing = _blocks(positions, plan.block)
        query = pad(self.query(states), (0, 0, 0, missing)).unflatten(1, (blocks, plan.block))
        key, value = (_keys(project(states), plan, missing) for project in (self.key, self.value))
        outputs = self._attend(query.flatten(0, 1), key, value, plan.local)
        return outputs.unflatten(0, (rows, blocks)).flatten(1, 2)[:, :positions]

    def _wide(self, outputs: Tensor, states: Tensor, plan: Visibility) -> Tensor:
        """`outputs`, and in the global tokens' places what these take from all, by projections of their own."""
        query = self.query_global(_taken(states, plan.places))
        wide = self._attend(query, self.key_global(states), self.value_global(states), plan.wide)
        wide = torch.where(plan.held, wide, _taken(outputs, plan.places))
        return outputs.scatter(1, plan.places[..., None].expand_as(wide), wide)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, added: Tensor) -> Tensor:
        """[batch, positions, hidden] each; `added` is [batch, 1, queries or 1, keys]."""
        apart = (self.num_heads, self.head_dim)
        query, key, value = (part.unflatten(-1, apart).transpose(1, 2) for part in (query, key, value))
        return attend(query, key, value, added, self.dropout if self.training else 0.0).transpose(1, 2).flatten(2)


def _keys(states: Tensor, plan: Visibility, missing: int) -> Tensor:
    """[rows * blocks, keys, hidden]: the states of each block's keys."""
    near = plan.windows(states, missing).transpose(2, 3)
    wide = _taken(states, plan.places)[:, None].expand(-1, near.shape[1], -1, -1)
    return torch.cat([wide, near], dim=2).flatten(0, 1)


def _taken(states: Tensor, places: Tensor) -> Tensor:
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[2]))


def attend(query: Tensor, key: Tensor, value: Tensor, added: Tensor, dropout: float) -> Tensor:
    """scaled_dot_product_attention of [batch, heads, positions, size] each, in the way that its device does fastest.

    A CPU's fused kernel is slower in bfloat16 than in float32, and has no dropout: then scores are written
    out, a few blocks at a time so that they stay in the cache.
    """
    if query.device.type != "cpu":
        return scaled_dot_product_attention(query, key, value, attn_mask=added, dropout_p=dropout)
    with torch.autocast("cpu", enabled=False):
        if not dropout:
            attended = scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=added)
        else:
            few = max(1, SCORES // (query.shape[1] * query.shape[2] * key.shape[2]))
            pieces = zip(*(part.split(few) for part in (query.float(), key.float(), value.float(), added)), strict=True)
            attended = torch.cat([_written_out(dropout, *piece) for piece in pieces])
    return attended.to(query.dtype)


def _written_out(dropout: float, query: Tensor, key: Tensor, value: Tensor, added: Tensor) -> Tensor:
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-1, -2) + added
    share = min(round(dropout * STEPS), STEPS - 1)
    left_out = _random_bits(scores) < share - STEPS // 2
    return scores.softmax(-1).masked_fill(left_out, 0) @ value * (STEPS / (STEPS - share))


def _random_bits(scores: Tensor) -> Tensor:
    """A random int16 for each score, four to a draw: PyTorch's dropout draws one by one on one core, which takes
    longer than all the arithmetic."""
    draws = torch.empty(-(-scores.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    return draws.view(torch.int16)[: scores.numel()].view(scores.shape)


class BlockLongformer(LongformerModel):  # type: ignore[misc]
    """Gives its layers a Layout, unless it is asked for what only transformers' own attention can tell."""

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
            reach = layer.attention.self.one_sided_attn_window_size
            plans[reach] = plans.get(reach) or layout(tokens, reach, score_type(states))
            states = layer(states, attention_mask=plans[reach])[0]
        return LongformerBaseModelOutputWithPooling(
            last_hidden_state=states, pooler_output=self.pooler(states) if self.pooler is not None else None
        )

    def _asks_for_more(self, options: dict[str, Any]) -> bool:
        """Whether attentions, all hidden states, or a tuple are wanted, or embeddings given."""
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
    """The dtype in which `attend` adds to scores."""
    device = states.device.type
    if device == "cpu":
        return torch.float32
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


BLOCKWISE = {LongformerSelfAttention: BlockSelfAttention, LongformerModel: BlockLongformer}


def in_blocks(model: PreTrainedModel) -> PreTrainedModel:
    """The same model, its Longformer's attention computed in blocks from now on; its parameters stay as they are."""
    for module in model.modules():
        if type(module) in BLOCKWISE:
            module.__class__ = BLOCKWISE[type(module)]
    return model

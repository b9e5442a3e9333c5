"""Attention in blocks is right when it gives transformers' own numbers, wherever global tokens and padding are."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LongformerConfig, LongformerForQuestionAnswering
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

from jobs.model import attention
from jobs.model.attention import BlockSelfAttention, in_blocks, layout


def config(window: int, **more: Any) -> LongformerConfig:
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    values = {"intermediate_size": 24, "max_position_embeddings": 600, "pad_token_id": 0, "sep_token_id": 1}
    return LongformerConfig(**{"attention_window": [window] * 2, **sizes, **values, **dropout, **more})


def modules(window: int, **more: Any) -> tuple[LongformerSelfAttention, BlockSelfAttention]:
    """transformers' module, with biases and weights large enough to matter, and ours with the same."""
    theirs = LongformerSelfAttention(config(window, **more), 0)
    generator = torch.Generator().manual_seed(1)
    for parameter in theirs.parameters():
        parameter.data.normal_(0, 0.4, generator=generator)
    ours = in_blocks(copy.deepcopy(theirs))
    assert type(ours) is BlockSelfAttention
    return theirs, ours


def masks(tokens: Tensor) -> dict[str, Any]:
    """What transformers' encoder tells its attention about the same tokens."""
    least, most = torch.finfo(torch.float32).min, torch.finfo(torch.float32).max
    mask = torch.tensor([least, 0.0, most])[tokens]
    wide = mask > 0
    return {
        "attention_mask": mask,
        "is_index_masked": mask < 0,
        "is_index_global_attn": wide,
        "is_global_attn": bool(wide.any()),
    }


def states(tokens: Tensor, size: int = 16) -> Tensor:
    return torch.randn((*tokens.shape, size), generator=torch.Generator().manual_seed(2))


def compared(tokens: Tensor, window: int) -> tuple[tuple[Tensor, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]:
    """Outputs, and gradients of a sum weighed at random, of both modules."""
    theirs, ours = modules(window)
    plan = layout(tokens, window // 2, torch.float32)
    weights = torch.randn((*tokens.shape, 16), generator=torch.Generator().manual_seed(3))
    found = []
    for module, told in ((theirs, masks(tokens)), (ours, {"attention_mask": plan})):
        inputs = states(tokens).requires_grad_()
        (outputs,) = module(inputs, **told)
        (outputs * weights).sum().backward()
        gradients = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
        found.append((outputs.detach(), {"inputs": inputs.grad, **gradients}))
    return found[0], found[1]


def assert_equal(tokens: Tensor, window: int) -> None:
    (expected, wanted), (outputs, gradients) = compared(tokens, window)
    torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=0)
    assert gradients.keys() == wanted.keys()
    largest = max(1.0, *(float(gradient.abs().max()) for gradient in wanted.values()))
    for name, gradient in gradients.items():
        assert float((gradient - wanted[name]).abs().max()) < 1e-5 * largest, name


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, int]:
    """One to three rows of whole windows, as transformers' module needs them, each with padding behind it and
    global tokens anywhere; and the window."""
    window = draw(st.sampled_from([4, 6, 8, 30]))  # its module fails with 2
    positions = window * draw(st.integers(1, 330 // window if window > 8 else 9))
    rows = draw(st.integers(1, 3))
    tokens = torch.zeros(rows, positions, dtype=torch.long)
    for row in range(rows):
        length = draw(st.integers(1, positions))
        tokens[row, :length] = 1
        wide = draw(st.sampled_from(["none", "prefix", "some", "all"]))
        if wide == "prefix":
            tokens[row, : draw(st.integers(1, length))] = 2
        elif wide == "some":
            tokens[row, draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=9))] = 2
        elif wide == "all":
            tokens[row, :length] = 2
    return tokens, window


@settings(deadline=None, max_examples=40)
@given(batches())
def test_outputs_and_gradients_are_those_of_transformers(case: tuple[Tensor, int]) -> None:
    assert_equal(*case)


@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
@pytest.mark.parametrize("wide", [0, 7])
def test_several_blocks_are_as_exact_as_one(blocks: int, wide: int) -> None:
    """Windows of 160 make blocks of 80, which are more than the smallest one."""
    tokens = torch.ones(2, 160 * blocks, dtype=torch.long)
    tokens[:, :wide], tokens[1, -37:] = 2, 0
    assert_equal(tokens, 160)


def test_padding_within_a_row_is_not_seen_either() -> None:
    tokens = torch.ones(1, 320, dtype=torch.long)
    tokens[0, 40:150], tokens[0, [3, 200]] = 0, 2
    assert_equal(tokens, 32)


def test_what_lies_beyond_the_reach_is_not_seen() -> None:
    _, ours = modules(80)
    tokens = torch.ones(1, 400, dtype=torch.long)
    plan = layout(tokens, 40, torch.float32)
    inputs = states(tokens)
    changed = inputs.clone()
    changed[0, 200] += 9
    moved = (ours(changed, plan)[0] - ours(inputs, plan)[0]).abs().sum(-1)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == list(range(160, 241))


def test_matrix_products_in_bfloat16_stay_as_near_as_transformers_own() -> None:
    theirs, ours = modules(32)
    tokens = torch.ones(2, 320, dtype=torch.long)
    tokens[:, :5], tokens[1, 300:] = 2, 0
    inputs, plan = states(tokens), layout(tokens, 16, torch.float32)
    exact = theirs(inputs, **masks(tokens))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, rougher = ours(inputs, plan)[0], theirs(inputs, **masks(tokens))[0]
    assert rough.dtype == rougher.dtype == torch.bfloat16
    far = (rougher.float() - exact).abs().mean()
    assert 0 < (rough.float() - exact).abs().mean() <= 1.1 * far


def test_dropout_takes_as_much_as_transformers_own() -> None:
    """Over many draws the outputs' mean is that without dropout, and their spread transformers' own."""
    theirs, ours = modules(16, attention_probs_dropout_prob=0.3)
    tokens = torch.ones(1, 96, dtype=torch.long)
    tokens[:, :3] = 2
    inputs, plan, told = states(tokens), layout(tokens, 8, torch.float32), masks(tokens)
    torch.manual_seed(0)
    with torch.no_grad():
        plain = ours.eval()(inputs, plan)[0]
        mine = torch.stack([ours.train()(inputs, plan)[0] for _ in range(300)])
        reference = torch.stack([theirs.train()(inputs, **told)[0] for _ in range(300)])
    error = mine.std(0) / 300**0.5
    assert ((mine.mean(0) - plain).abs() / error).pow(2).mean() == pytest.approx(1, abs=0.15)
    assert (mine.var(0) / reference.var(0)).mean() == pytest.approx(1, abs=0.05)
    assert (mine[:, :, 40].var(0) / reference[:, :, 40].var(0)).mean() == pytest.approx(1, abs=0.15)


def test_scores_written_out_in_pieces_are_the_fused_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dropout too small to take anything leaves only the arithmetic."""
    monkeypatch.setattr(attention, "MAX_SCORES", 1)
    query, key, value = torch.randn(3, 5, 2, 7, 4)
    added = torch.zeros(5, 1, 7, 7).masked_fill(torch.rand(5, 1, 7, 7) < 0.3, torch.finfo(torch.float32).min)
    torch.testing.assert_close(
        attention.attend(query, key, value, added, 1e-12), attention.attend(query, key, value, added, 0.0)
    )


# The whole model


def models(window: int = 16, **more: Any) -> tuple[LongformerForQuestionAnswering, LongformerForQuestionAnswering]:
    torch.manual_seed(0)
    theirs = LongformerForQuestionAnswering(config(window, initializer_range=0.3, **more)).eval()
    return theirs, in_blocks(copy.deepcopy(theirs))


def inputs(length: int = 150) -> dict[str, Tensor]:
    ids = torch.randint(2, 40, (2, length), generator=torch.Generator().manual_seed(4))
    kept = torch.ones_like(ids)
    ids[1, -20:], kept[1, -20:] = 0, 0
    wide = (torch.arange(length) < torch.tensor([[6], [9]])).long()
    return {"input_ids": ids, "attention_mask": kept, "global_attention_mask": wide}


@pytest.mark.parametrize("length", [150, 160, 29])
def test_a_models_logits_and_loss_are_those_of_transformers_at_any_length(length: int) -> None:
    theirs, ours = models()
    labels = {"start_positions": torch.tensor([9, 0]), "end_positions": torch.tensor([12, 0])}
    mine, reference = (model(**inputs(length), **labels) for model in (ours, theirs))
    kept = inputs(length)["attention_mask"].bool()
    for name in ("start_logits", "end_logits"):
        torch.testing.assert_close(mine[name][kept], reference[name][kept], atol=1e-4, rtol=1e-4)
    assert mine.attentions is None
    assert mine.hidden_states is None
    mine.loss.backward()
    assert ours.longformer.encoder.layer[0].attention.self.key_global.weight.grad.abs().max() > 0


def test_layers_may_differ_in_their_windows() -> None:
    theirs, ours = models(attention_window=[8, 64])
    with torch.no_grad():
        mine, reference = (model(**inputs()).start_logits[0] for model in (ours, theirs))
    torch.testing.assert_close(mine, reference, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "more",
    [{"output_attentions": True}, {"output_hidden_states": True}, {"return_dict": False}, {"attention_mask": None}],
    ids=lambda more: next(iter(more)),
)
def test_what_only_transformers_can_tell_comes_from_it(more: dict[str, Any]) -> None:
    theirs, ours = models()
    given = {**inputs(160), **more}
    with torch.no_grad():
        mine, reference = (model(**given) for model in (ours, theirs))
    assert type(mine) is type(reference)
    for one, other in zip(flat(mine), flat(reference), strict=True):
        assert torch.equal(one, other)


def flat(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in (output.values() if isinstance(output, dict) else output) for tensor in flat(part)]


def test_a_saved_model_is_a_plain_longformer_and_the_other_way_round(tmp_path: Any) -> None:
    theirs, ours = models()
    ours.save_pretrained(tmp_path)
    again = LongformerForQuestionAnswering.from_pretrained(tmp_path)
    assert again.config.architectures == ["LongformerForQuestionAnswering"]
    assert type(again.longformer.encoder.layer[0].attention.self) is LongformerSelfAttention
    assert list(ours.state_dict()) == list(theirs.state_dict())
    in_blocks(again).load_state_dict(theirs.state_dict())
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in ours.state_dict().items())

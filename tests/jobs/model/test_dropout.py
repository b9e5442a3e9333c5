"""Dropout for CPUs: the chance, the expectation, the gradient and the seed are those of torch's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from jobs.model import dropout


def bert(**config: Any) -> BertModel:
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    return BertModel(BertConfig(num_hidden_layers=2, **shape, **config)).train()


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(1, 50, (3, 11), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": (torch.arange(11) < torch.tensor([[11], [7], [4]])).long()}


@pytest.mark.parametrize("p", [0.1, 0.5, 1 / 3])
def test_the_share_that_is_dropped_and_the_mean_are_right(p: float) -> None:
    torch.manual_seed(0)
    numbers = dropout.Dropout(p)(torch.ones(1000, 1001))
    assert (numbers == 0).float().mean().item() == pytest.approx(p, abs=3e-3)
    assert numbers.mean().item() == pytest.approx(1, abs=5e-3)
    assert (numbers == 0).float().mean(dim=0).std() < 0.05  # each place by itself


def test_the_gradient_passes_where_a_number_was_kept() -> None:
    numbers = torch.ones(500, requires_grad=True)
    result = dropout.Dropout(0.3)(numbers)
    result.sum().backward()
    torch.testing.assert_close(numbers.grad, result.detach())


def test_the_same_seed_drops_the_same_and_another_does_not() -> None:
    def drawn(seed: int) -> list[float]:
        torch.manual_seed(seed)
        return list(dropout.Dropout(0.5)(torch.ones(64)).tolist())

    assert drawn(1) == drawn(1) != drawn(2)


def test_evaluation_drops_nothing() -> None:
    numbers = torch.rand(100)
    assert dropout.Dropout(0.5).eval()(numbers) is numbers


def test_a_model_in_evaluation_is_as_it_was_and_saves_nothing_of_it(tmp_path: Path) -> None:
    model, inputs = bert().eval(), batch()
    before = model(**inputs).last_hidden_state
    quick = dropout.quicken(model)
    assert sum(type(module) is dropout.Dropout for module in quick.modules()) == 7
    torch.testing.assert_close(quick(**inputs).last_hidden_state, before)
    quick.save_pretrained(tmp_path)
    assert dropout.NAME not in (tmp_path / "config.json").read_text(encoding="utf-8")


def test_attention_that_drops_next_to_nothing_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients, with padding: a chance that is rounded to no drop at all runs the quick way."""
    rare = 1e-9
    models = [bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=p) for p in (0.0, rare)]
    assert dropout._threshold(rare) == 0
    dropout.quicken(models[1])
    monkeypatch.setattr(dropout, "sdpa_attention_forward", lambda *_, **__: pytest.fail("not the quick way"))
    there = batch()["attention_mask"].bool()
    states = [model(**batch()).last_hidden_state[there] for model in models]
    torch.testing.assert_close(*states, atol=1e-5, rtol=0)
    for state in states:
        (state**3).sum().backward()
    slow, quick = models
    for (name, one), other in zip(slow.named_parameters(), quick.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-4, msg=name)

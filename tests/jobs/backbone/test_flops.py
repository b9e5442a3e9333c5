from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from jobs.backbone.flops import forward_flops


@settings(max_examples=5)
@given(st.integers(1, 2), st.sampled_from([16, 32]), st.sampled_from([48, 64]), st.integers(3, 40))
def test_operations_are_those_that_pytorch_counts(layers: int, hidden: int, inner: int, tokens: int) -> None:
    config = BertConfig(
        num_hidden_layers=layers, hidden_size=hidden, intermediate_size=inner, num_attention_heads=2, vocab_size=9
    )
    with torch.device("meta"):
        model = BertModel(config, add_pooling_layer=False).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.ones(1, tokens, dtype=torch.long))
    assert forward_flops(config.to_dict(), tokens) == counter.get_total_flops()


def test_a_window_saves_scores_of_long_inputs_and_projects_twice() -> None:
    sizes = {"num_hidden_layers": 1, "hidden_size": 10, "intermediate_size": 40}
    scores = 4 * 10 * 1000
    assert forward_flops(sizes, 1000) == 2 * 1000 * (400 + 800) + scores * 1000
    assert forward_flops(sizes, 1000, window=64) == 2 * 1000 * (600 + 800) + scores * 65
    assert forward_flops(sizes, 50, window=64) == 2 * 50 * (600 + 800) + 4 * 10 * 50 * 50


def test_a_config_with_other_names_of_its_sizes_is_not_counted() -> None:
    assert forward_flops({"d_model": 512, "num_layers": 6}, 100) is None

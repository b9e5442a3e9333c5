"""Attention with a mask has gradients that are numbers, at the lengths at which cuDNN's may have none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from jobs.training.predict import disable_cudnn_attention
from tests.support.gpus import BOTH, STEADY, taken_step

LENGTHS = (64, 192, 320, 384, 448, 512)  # most are 64 more than a multiple of 128


def broken_gradients(length: int, device: str, low: float = -120.0) -> int:
    """Return how many gradients of masked attention in bf16 are no finite numbers; every score is about `low`."""
    torch.manual_seed(0)
    shape = (2, 4, length, 64)
    query, key = (torch.randn(shape, device=device, dtype=torch.bfloat16) * 0.1 for _ in range(2))
    query[..., 0], key[..., 0] = 1.0, low * 8  # products are divided by the root of 64
    tensors = [one.requires_grad_() for one in (query, key, torch.randn_like(query))]
    mask = torch.ones(2, 1, length, length, dtype=torch.bool, device=device)
    mask[1, ..., length - 3 :] = False
    outputs = scaled_dot_product_attention(*tensors, attn_mask=mask)
    outputs.backward(torch.randn_like(outputs))
    return sum(int((~one.grad.isfinite()).sum()) for one in tensors if one.grad is not None)


@pytest.mark.parametrize("device", BOTH)
def test_masked_attention_has_finite_gradients(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU does not compute bf16")
    disable_cudnn_attention()
    assert {length: broken for length in LENGTHS if (broken := broken_gradients(length, device))} == {}


def test_gradients_that_are_not_finite_are_counted() -> None:
    assert broken_gradients(64, "cpu", low=float("nan")) > 0


@pytest.mark.parametrize("device", BOTH)
@pytest.mark.parametrize("length", [64, 192])
def test_a_step_at_such_a_length_agrees_with_one_in_fp32(length: int, device: str, data: str, tmp_path: Path) -> None:
    """Some windows fill `max_length` and others do not, so that there is a mask."""
    sizes = {"max_length": length, "doc_stride": 16, "max_answer_length": 8, "effective_batch_size": 8, **STEADY}
    there = taken_step("qa", data, tmp_path / "cpu", "cpu", precision="fp32", **sizes)
    here = taken_step("qa", data, tmp_path / device, device, precision="auto", **sizes)
    here.assert_close(there, loss=2e-2, gradient=8e-2)

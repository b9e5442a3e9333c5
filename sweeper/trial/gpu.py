"""Limit the GPU memory of a trial that shares its GPU with others."""

from __future__ import annotations

import os

# PyTorch 2.13 reads the first of these; the later names are the older ones.
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


def share_gpu(gpus: float) -> None:
    """Limit this process to its share of a GPU's memory if `gpus` is a fraction, so that it cannot take another's.

    Called before CUDA is initialised. A larger share needs no reset: Tune reuses a process for the same `gpus` only.
    """
    if not 0 < gpus < 1:
        return
    if not any(name in os.environ for name in ALLOCATOR):
        # Less memory is lost between tensors of different lengths, which counts more the smaller the share is.
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(float(gpus))

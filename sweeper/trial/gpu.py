"""Prepare the GPU that a trial has reserved, check that PyTorch can use it, and measure the memory it takes."""

from __future__ import annotations

import math
import os
import re

CHECK = "SWEEPER_GPU_CHECK"  # 0: GPUs are taken as Ray and CUDA_VISIBLE_DEVICES name them; tests pretend GPUs so
ON_CPU = "or train on the CPU with resources.gpus=0"
CAUSE_CHARS = 200
CONTEXT_BYTES = 600 * 2**20  # of a process on a GPU, outside of what PyTorch counts: CUDA and its libraries
MEMORY = "gpu_memory_bytes"  # the condition's name
# PyTorch 2.13 reads the first of these; the later names are the older ones.
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


def share_gpu(gpus: float) -> None:
    """Limit this process to its share of a GPU's memory if `gpus` is a fraction, so that it cannot take another's.

    The share holds what CUDA itself takes of the memory, which PyTorch does not count.
    Called before CUDA is initialised. A larger share needs no reset: Tune reuses a process for the same `gpus` only.
    """
    if not 0 < gpus < 1:
        return
    if not any(name in os.environ for name in ALLOCATOR):
        # Less memory is lost between tensors of different lengths, which counts more the smaller the share is.
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"
    import torch

    if torch.cuda.is_available():
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(max(float(gpus) / 2, gpus - CONTEXT_BYTES / whole))


class UnusableGpu(RuntimeError):
    """Signal that PyTorch cannot use a GPU that the trial has reserved."""


def check_gpu(gpus: float) -> None:
    """Start a kernel on each reserved GPU. Without this check, a job may train on the CPU without a word.

    Raises UnusableGpu with cause and cure in one line.
    """
    if not gpus or os.environ.get(CHECK) == "0":
        return
    import torch

    try:
        for number in range(math.ceil(gpus)):
            torch.ones(1, device=f"cuda:{number}").sum().item()
    except Exception as error:  # PyTorch raises AssertionError, RuntimeError and kinds of its own
        what = f"GPUs: torch {torch.__version__} cannot use what the trial has reserved"
        cure = f"see `sweeper doctor` there, {ON_CPU}"
        raise UnusableGpu(f"{what}; {first_sentence(str(error))}; {cure}") from error


def forget_peak() -> None:
    """Free what earlier trials of this process have left, and begin to measure the highest use of memory again."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """Return the most GPU memory that PyTorch has taken since `forget_peak`, as conditions; empty without a GPU."""
    import torch

    return {MEMORY: torch.cuda.max_memory_reserved()} if torch.cuda.is_available() else {}


def first_sentence(text: str) -> str:
    """Return the first sentence of what a library says, without a full stop."""
    return re.split(r"\.\s", " ".join(text.split()))[0].rstrip(".")[:CAUSE_CHARS]

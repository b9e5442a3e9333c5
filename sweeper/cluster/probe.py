"""Print what PyTorch and NVIDIA's driver tell about the GPUs, as one JSON object.

Runs as a program of its own, since CUDA must not be initialised in the driver, which starts the trials.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

SMI_SECONDS = 30  # a driver that hangs does not answer
QUERY = "name,memory.total,driver_version,compute_cap"  # memory in MiB


def driver_rows() -> list[list[str]]:
    """Return QUERY's values for each GPU of the machine, also for those that CUDA cannot use; empty without a
    driver."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [[value.strip() for value in line.split(",")] for line in lines if line.count(",") == QUERY.count(",")]


def compilers() -> list[str]:
    """Return the languages, of C and C++, for which torch.compile finds a compiler: torch's and Triton's choice."""
    known = {"C++": ("CXX", ["g++"]), "C": ("CC", ["clang", "gcc"])}
    found = {
        name: [os.environ[variable]] if variable in os.environ else rest for name, (variable, rest) in known.items()
    }
    return [name for name, commands in found.items() if any(map(shutil.which, commands))]


def torch_values() -> dict[str, Any]:
    """Return what PyTorch tells: its version, its CUDA, its kernels, and the GPUs that it can use.

    trouble   why CUDA cannot be initialised; empty if it can
    cpu_bf16  the CPU has instructions for bfloat16
    """
    import torch

    try:
        torch.cuda.init()
        trouble = ""
    except (RuntimeError, AssertionError) as error:
        trouble = str(error)
    shown = [torch.cuda.get_device_properties(number) for number in range(0 if trouble else torch.cuda.device_count())]
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "rocm": torch.version.hip is not None,
        "kernels": torch.cuda.get_arch_list(),
        "trouble": trouble,
        # Private in torch 2.13, as in jobs.training.precision, which this program cannot import on every node.
        "cpu_bf16": torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        "usable": [[one.name, one.total_memory, [one.major, one.minor]] for one in shown],
    }


if __name__ == "__main__":
    json.dump({"driver": driver_rows(), "compilers": compilers(), **torch_values()}, sys.stdout)

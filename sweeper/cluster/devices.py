"""Look up what makers publish about a GPU: memory, bandwidth, and the highest speed in each precision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Device:
    """Describe a GPU model.

    name             as PyTorch tells it, without the maker's name
    capability       NVIDIA's number of its generation
    memory_gb        memory in GB, as sold
    bandwidth_gb     GB per second between memory and processor
    tera_flops       dense TFLOP/s of matrix products by precision, with sums in fp32; a precision that the device
                     does not compute in hardware is absent
    aliases          other names of the same model
    """

    name: str
    capability: tuple[int, int]
    memory_gb: int
    bandwidth_gb: int
    tera_flops: Mapping[str, float]
    aliases: tuple[str, ...] = field(default=())

    def peak_flops(self, precision: str) -> float | None:
        """Return the highest speed in FLOP/s, or None if the device lacks the precision."""
        speed = self.tera_flops.get(precision)
        return None if speed is None else speed * 1e12


def _since_ampere(fp32: float, tf32: float, half: float) -> Mapping[str, float]:
    return {"fp32": fp32, "tf32": tf32, "fp16": half, "bf16": half}


# Sources: NVIDIA's data sheets of the P100, V100, T4, A10, A30, A40, A100, L4, L40S, H100, H200, HGX B200, RTX A6000,
# and its white papers of Turing (RTX 2080 Ti), GA102 (RTX 30), Ada (RTX 40) and RTX Blackwell (RTX 50).
# Figures with sparsity are halved. A GeForce adds up fp16 products in fp32 at half its speed, which is the one here.
DEVICES = (
    Device("Tesla P100-PCIE-16GB", (6, 0), 16, 732, {"fp32": 9.3, "fp16": 18.7}, ("P100",)),
    Device("Tesla P100-SXM2-16GB", (6, 0), 16, 732, {"fp32": 10.6, "fp16": 21.2}),
    Device("Tesla V100-PCIE-16GB", (7, 0), 16, 900, {"fp32": 14.0, "fp16": 112.0}),
    Device("Tesla V100-PCIE-32GB", (7, 0), 32, 900, {"fp32": 14.0, "fp16": 112.0}),
    Device("Tesla V100-SXM2-16GB", (7, 0), 16, 900, {"fp32": 15.7, "fp16": 125.0}, ("V100",)),
    Device("Tesla V100-SXM2-32GB", (7, 0), 32, 900, {"fp32": 15.7, "fp16": 125.0}),
    Device("Tesla T4", (7, 5), 16, 320, {"fp32": 8.1, "fp16": 65.0}),
    Device("RTX 2080 Ti", (7, 5), 11, 616, {"fp32": 13.4, "fp16": 53.8}),
    Device("RTX 3080", (8, 6), 10, 760, _since_ampere(29.8, 29.8, 59.5)),
    Device("RTX 3090", (8, 6), 24, 936, _since_ampere(35.6, 35.6, 71.0)),
    Device("RTX A6000", (8, 6), 48, 768, _since_ampere(38.7, 77.4, 154.8), ("A6000",)),
    Device("A10", (8, 6), 24, 600, _since_ampere(31.2, 62.5, 125.0)),
    Device("A30", (8, 0), 24, 933, _since_ampere(10.3, 82.0, 165.0)),
    Device("A40", (8, 6), 48, 696, _since_ampere(37.4, 74.8, 149.7)),
    Device("A100-PCIE-40GB", (8, 0), 40, 1555, _since_ampere(19.5, 156.0, 312.0)),
    Device("A100-SXM4-40GB", (8, 0), 40, 1555, _since_ampere(19.5, 156.0, 312.0), ("A100",)),
    Device("A100 80GB PCIe", (8, 0), 80, 1935, _since_ampere(19.5, 156.0, 312.0)),
    Device("A100-SXM4-80GB", (8, 0), 80, 2039, _since_ampere(19.5, 156.0, 312.0)),
    Device("L4", (8, 9), 24, 300, _since_ampere(30.3, 60.0, 121.0)),
    Device("L40S", (8, 9), 48, 864, _since_ampere(91.6, 183.0, 362.0)),
    Device("RTX 4080", (8, 9), 16, 716, _since_ampere(48.7, 48.7, 97.5)),
    Device("RTX 4090", (8, 9), 24, 1008, _since_ampere(82.6, 82.6, 165.2)),
    Device("RTX 5090", (12, 0), 32, 1792, _since_ampere(104.8, 104.8, 209.5)),
    Device("H100 PCIe", (9, 0), 80, 2000, _since_ampere(51.0, 378.0, 756.0)),
    Device("H100 NVL", (9, 0), 94, 3900, _since_ampere(60.0, 417.5, 835.5)),
    Device("H100 80GB HBM3", (9, 0), 80, 3350, _since_ampere(67.0, 494.5, 989.5), ("H100", "H100 SXM")),
    Device("H200 NVL", (9, 0), 141, 4800, _since_ampere(60.0, 417.5, 835.5)),
    Device("H200", (9, 0), 141, 4800, _since_ampere(67.0, 494.5, 989.5)),
    Device("B200", (10, 0), 180, 7700, _since_ampere(75.0, 1125.0, 2250.0)),
)
MAKER = re.compile(r"\b(nvidia|tesla|geforce)\b")


def find_device(name: str) -> Device | None:
    """Return the device of this name, with or without its maker's, or None if it is not known.

    A part of a GPU (MIG), and a laptop's or another variant of a model, is slower than the model and is not known.

    >>> find_device("NVIDIA GeForce RTX 4090").memory_gb, find_device("NVIDIA GeForce RTX 4090 Laptop GPU")
    (24, None)
    """
    return _BY_NAME.get(_spelled_alike(name))


def _spelled_alike(name: str) -> str:
    return " ".join(MAKER.sub(" ", name.lower()).split())


_BY_NAME = {_spelled_alike(name): device for device in DEVICES for name in (device.name, *device.aliases)}

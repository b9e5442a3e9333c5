from __future__ import annotations

import pytest

from sweeper.cluster.devices import DEVICES, find_device


@pytest.mark.parametrize(
    ("name", "memory", "precision", "speed"),
    [
        ("Tesla T4", 16, "fp16", 65e12),
        ("Tesla P100-PCIE-16GB", 16, "fp32", 9.3e12),
        ("Tesla V100-SXM2-32GB", 32, "fp16", 125e12),
        ("NVIDIA GeForce RTX 3090", 24, "bf16", 71e12),
        ("NVIDIA GeForce RTX 4090", 24, "tf32", 82.6e12),
        ("NVIDIA A100-SXM4-80GB", 80, "bf16", 312e12),
        ("NVIDIA A100 80GB PCIe", 80, "tf32", 156e12),
        ("NVIDIA L4", 24, "bf16", 121e12),
        ("NVIDIA H100 80GB HBM3", 80, "bf16", 989.5e12),
        ("NVIDIA H100 PCIe", 80, "bf16", 756e12),
        ("NVIDIA H200", 141, "bf16", 989.5e12),
        ("a100", 40, "fp32", 19.5e12),  # as a user writes it
        ("h100", 80, "fp16", 989.5e12),
        ("rtx 3090", 24, "fp32", 35.6e12),
    ],
)
def test_a_device_is_found_by_the_name_that_pytorch_tells_and_by_a_short_one(
    name: str, memory: int, precision: str, speed: float
) -> None:
    device = find_device(name)
    assert device is not None
    assert device.memory_gb == memory
    assert device.peak_flops(precision) == pytest.approx(speed)


@pytest.mark.parametrize(
    "name",
    ["", "cpu", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D",
     "NVIDIA GeForce RTX 3090 Ti", "GRID T4-16Q", "AMD Instinct MI300X"],
)  # fmt: skip
def test_a_part_a_variant_and_another_maker_are_not_known(name: str) -> None:
    assert find_device(name) is None


@pytest.mark.parametrize(("name", "lacks"), [("Tesla T4", "bf16"), ("Tesla V100-SXM2-16GB", "tf32"), ("P100", "bf16")])
def test_a_precision_that_a_device_lacks_has_no_speed(name: str, lacks: str) -> None:
    device = find_device(name)
    assert device is not None
    assert device.peak_flops(lacks) is None


def test_every_device_is_found_by_each_of_its_names_and_is_faster_in_half_precision() -> None:
    for device in DEVICES:
        assert all(find_device(name) is device for name in (device.name, f"NVIDIA {device.name}", *device.aliases))
        speeds = [device.tera_flops.get(name, 0) for name in ("fp32", "tf32", "fp16")]
        assert speeds[2] > max(speeds[:2]) > 0
        assert device.tera_flops.get("bf16") in (None, device.tera_flops["fp16"])

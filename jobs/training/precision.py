"""Decide in which numbers a device computes, and make PyTorch compute so. Imports torch inside functions only.

bf16 and fp16 are the numbers of matrix products; weights, sums and losses stay in float32. fp16 covers a small range,
so its losses are scaled before the backward pass. tf32 rounds the factors of float32 products to 10 binary digits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

from jobs.job import ParamError
from jobs.params import TrainingParams

PrecisionName = Literal["bf16", "fp16", "tf32", "fp32"]
CPU = "CPU"  # name of the device
BEST: tuple[PrecisionName, ...] = ("bf16", "fp16", "fp32")  # what `auto` chooses from, the best first
NEEDS = {
    "bf16": "a GPU from capability 8.0 or a CPU with instructions for it",
    "fp16": "a GPU",
    "tf32": "a GPU from capability 8.0",
}


@dataclass(frozen=True)
class Hardware:
    """Describe a CPU or a GPU.

    kind        cuda: an NVIDIA GPU; rocm: an AMD GPU, whose capability has other numbers
    capability  of an NVIDIA GPU
    bf16        the CPU or AMD GPU has instructions for bfloat16
    """

    kind: Literal["cpu", "cuda", "rocm"] = "cpu"
    name: str = CPU
    capability: tuple[int, int] = (0, 0)
    bf16: bool = False

    def __str__(self) -> str:
        if self.kind == "cpu":
            return f"the {self.name}"
        return self.name + (" (capability {}.{})".format(*self.capability) if self.kind == "cuda" else "")

    @property
    def offered(self) -> tuple[PrecisionName, ...]:
        """Return the precisions that the device computes; the first is that of `auto`."""
        half: tuple[PrecisionName, ...] = ("bf16",) if self.bf16 else ()
        if self.kind == "cpu":
            return ("fp32", *half)
        if self.kind == "rocm":
            return (*half, "fp16", "fp32")
        if self.capability >= (8, 0):
            return ("bf16", "fp16", "tf32", "fp32")
        return ("fp16", "fp32") if self.capability >= (7, 0) else ("fp32", "fp16")


@dataclass(frozen=True)
class UsedPrecision:
    """Hold the precision of matrix products. With `tf32`, products that stay in float32 are computed in TF32."""

    name: PrecisionName = "fp32"
    tf32: bool = False

    @property
    def half(self) -> Any:
        """Return the dtype for `torch.autocast`; None if there is none to cast to."""
        import torch

        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.name)


FP32 = UsedPrecision()


def lacking(asked: str, device: Hardware) -> str | None:
    """Return in one line why a device cannot compute in the precision that is asked for, with the cure; None if it can.

    >>> lacking("bf16", Hardware("cuda", "Tesla T4", (7, 5)))
    'Tesla T4 (capability 7.5) has no bf16, which needs …; choose auto, fp16 or fp32'

    In a job of the user's own, a parameter of this name may mean something else; then its values are not refused.
    """
    if asked not in get_args(PrecisionName) or asked in device.offered:
        return None
    cure = " or ".join((", ".join(("auto", *device.offered[:-1])), device.offered[-1]))
    return f"{device} has no {asked}, which needs {NEEDS[asked]}; choose {cure}"


def choose_precision(asked: str, legacy: bool | None, devices: Sequence[Hardware]) -> UsedPrecision:
    """Return the precision in which all of the devices compute one training.

    asked   the parameter `precision`; a value that is no precision counts as auto
    legacy  the parameter `bf16` of earlier versions, which never used TF32; None if it is not set

    Raises ParamError if one of the devices lacks an explicit precision.
    """
    if legacy is not None:
        return UsedPrecision("bf16" if legacy and all("bf16" in device.offered for device in devices) else "fp32")
    if mistake := next(filter(None, (lacking(asked, device) for device in devices)), None):
        raise ParamError("precision", mistake)
    best = max((device.offered[0] for device in devices), key=BEST.index)
    name = asked if asked in get_args(PrecisionName) else best
    return UsedPrecision(name, name != "fp32" and all("tf32" in device.offered for device in devices))  # type: ignore[arg-type]


def answering_precision(params: TrainingParams, conditions: Mapping[str, Any], device: Hardware) -> UsedPrecision:
    """Return the precision in which a trained model answers: that of its training if the device computes it.

    If it does not, a model that was trained in 16 bits answers in what `auto` chooses. A CPU answers in fp32 for a GPU.
    `conditions` are those of the training; checkpoints of earlier versions have none.
    """
    trained = conditions.get("precision")
    if trained is None:
        return choose_precision(
            "auto" if lacking(params.precision, device) else params.precision, params.bf16, [device]
        )
    if trained not in device.offered or (device.name == CPU and conditions.get("device") != CPU):
        trained = "fp32" if trained in ("tf32", "fp32") else "auto"
    used = choose_precision(trained, None, [device])
    return used if params.bf16 is None else UsedPrecision(used.name)


def this_device() -> Hardware:
    """Return the device that trains and answers in this process. Initialises CUDA if there is a GPU."""
    import torch

    if not torch.cuda.is_available():
        # Private in torch 2.13: no public function says whether the CPU computes bfloat16 products itself.
        known = torch.backends.mkldnn.is_available()
        return Hardware(bf16=known and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    if torch.version.hip:
        return Hardware("rocm", found.name, bf16=torch.cuda.is_bf16_supported(including_emulation=False))
    return Hardware("cuda", found.name, (found.major, found.minor))


def training_precision(params: TrainingParams, devices: Sequence[Hardware]) -> UsedPrecision:
    """Return the precision in which the devices of all workers train with these params.

    Warns if `bf16: true` of an earlier version is fp32 here. Raises ParamError if a device lacks an explicit precision.
    """
    used = choose_precision(params.precision, params.bf16, devices)
    if params.bf16 and used == FP32:
        logging.getLogger(__name__).warning("this device does not support bf16; training in fp32")
    return used


@contextmanager
def computing_in(used: UsedPrecision) -> Iterator[None]:
    """Compute float32 products in TF32 or not, as `used` tells, and as before at the end, also after an exception.

    A process is used for several trials, and PyTorch has one setting for the whole process.
    """
    import torch

    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    _set_tf32(used.tf32, used.tf32)
    try:
        yield
    finally:
        _set_tf32(*(one == "tf32" for one in before))


def _set_tf32(products: bool, convolutions: bool) -> None:
    """Set whether matrix products and convolutions in float32 are computed in TF32.

    torch 2.13 has two interfaces and raises an error where they differ. The older one writes both. Trainer may have
    written the newer one's general value (transformers 5.24, with `torch_compile`), which is cleared first.
    """
    import torch

    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("high" if products else "highest")
    torch.backends.cudnn.allow_tf32 = convolutions

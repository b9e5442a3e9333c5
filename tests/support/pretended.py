"""Pretend a device: tensors with a shape, a type and a device, and no values. A step with a tensor elsewhere fails.

A real GPU refuses tensors of two devices in one operation; so does FakeTensorMode, on a machine without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

# A device that every build of PyTorch knows well enough for autograd, which a build for CPUs does for "cuda" not.
DEVICE = "lazy"


class PretendedDevice(FakeTensorMode):  # type: ignore[misc]
    """Make every tensor a fake one. `reads` counts the numbers that the host asked of the device, each a wait for it.

    `answer` is the number it gets; None: FakeTensorMode raises DataDependentOutputException.
    """

    def __init__(self, answer: int | None = None) -> None:
        super().__init__()
        self.answer = answer
        self.reads = 0

    def dispatch(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.answer is not None and function is torch.ops.aten._local_scalar_dense.default:
            self.reads += 1
            return self.answer
        return super().dispatch(function, types, args, kwargs)

    def moved(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return a batch on the device."""
        return {name: self.from_tensor(tensor).to(DEVICE) for name, tensor in batch.items()}

    def move(self, model: torch.nn.Module) -> None:
        """Move the parameters and buffers of a model to the device, as Trainer does. Its other tensors stay."""
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                moved = torch.nn.Parameter(self.from_tensor(weight).detach().to(DEVICE), weight.requires_grad)
                module.register_parameter(name, moved)
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = self.from_tensor(buffer).to(DEVICE)


@contextmanager
def pretended_device(answer: int | None = None) -> Iterator[PretendedDevice]:
    """Pretend a device in which autocast is off."""
    enabled = torch.is_autocast_enabled

    def autocast(device: str | None = None) -> bool:
        return device != DEVICE and bool(enabled(device) if device else enabled())

    with patch.object(torch, "is_autocast_enabled", autocast), PretendedDevice(answer) as mode:
        yield mode

"""Pretend a device: tensors with a shape, a type and a device, and no values. A step with a tensor elsewhere fails.

A real GPU refuses tensors of two devices in one operation; so does FakeTensorMode, on a machine without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

# A device that every build of PyTorch knows well enough for autograd, which a build for CPUs does for "cuda" not.
DEVICE = "lazy"


class PretendedDevice(FakeTensorMode):  # type: ignore[misc]
    """Make every tensor a fake one. A number that the host asks of the device raises DataDependentOutputException."""

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


class Questions(TorchDispatchMode):  # type: ignore[misc]
    """Count how often the host reads a number from a tensor, or needs one for a shape: a GPU makes it wait for each."""

    names = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "_unique2", "equal")
    functions = frozenset(getattr(torch.ops.aten, name).default for name in names)
    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function in self.functions
        return function(*args, **(kwargs or {}))


@contextmanager
def pretended_device() -> Iterator[PretendedDevice]:
    """Pretend a device in which autocast is off."""
    enabled = torch.is_autocast_enabled

    def autocast(device: str | None = None) -> bool:
        return device != DEVICE and bool(enabled(device) if device else enabled())

    # What torch.utils.checkpoint (torch 2.13) asks of a device's module: whether it has random states to keep.
    module = SimpleNamespace(_initialized=False, device_count=lambda: 0)
    with (
        patch.object(torch, "is_autocast_enabled", autocast),
        patch.object(torch, DEVICE, module, create=True),
        PretendedDevice() as mode,
    ):
        yield mode

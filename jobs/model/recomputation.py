"""Make a model compute activations again in the backward pass, which takes less memory and more time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.backbone.names import SCRATCH
from jobs.backbone.positions import local_config
from jobs.backbone.source import BackboneError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def recompute_activations(model: PreTrainedModel, backbone: str) -> None:
    """Make a model compute activations again in the backward pass. Gradients stay the same, also with dropout.

    backbone  name for messages

    Raises BackboneError when its architecture cannot do so.
    """
    if not model.supports_gradient_checkpointing:
        raise BackboneError(
            f"{backbone}: its architecture, {model.config.model_type}, cannot compute activations again; "
            "set gradient_checkpointing to false"
        )
    if model.is_activation_checkpointing:
        return
    # The other way of PyTorch, with re-entrant calls, fails where DDP looks for parameters without gradients.
    model.activation_checkpointing_enable({"use_reentrant": False})


def can_recompute(backbone: str) -> bool:
    """Return True if a backbone on this machine has an architecture that can compute activations again."""
    if SCRATCH.fullmatch(backbone):
        return True  # a BERT
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    kind = (local_config(backbone) or {}).get("model_type")
    model = MODEL_MAPPING.get(CONFIG_MAPPING[kind], None) if kind in CONFIG_MAPPING else None
    return bool(getattr(model, "supports_gradient_checkpointing", False))

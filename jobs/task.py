"""What differs between the jobs that one Trainer trains. Light: each function imports what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# From params, tokenizer, data set, some of its questions and the folder of cached features to what batches
# are made of, with a length.
MakeInputs = Callable[..., Any]

# From the inputs of all validation questions, the data set, the logits in the order of the inputs, and params
# to metrics and one record per question.
Evaluate = Callable[..., tuple[dict[str, float], list[dict[str, Any]]]]


def every(inputs: Any, params: Any) -> Sequence[int]:
    """Train on all there is."""
    return range(len(inputs))


@dataclass(frozen=True)
class Task:
    """
    name      the job's
    model     model(params, tokenizer): the backbone with the job's head
    inputs    inputs(params, tokenizer, data, rows, cache)
    collate   collate(inputs, numbers, params): a batch of tensors from some inputs
    evaluate  evaluate(inputs, data, logits, params)
    trained   trained(inputs, params): the numbers of the inputs to train on
    loss      loss(outputs, labels, num_items_in_batch) in place of the model's own
    """

    name: str
    model: Callable[..., Any]
    inputs: MakeInputs
    collate: Callable[..., Mapping[str, Any]]
    evaluate: Evaluate
    trained: Callable[..., Sequence[int]] = every
    loss: Callable[..., Any] | None = None

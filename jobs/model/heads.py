"""Choose the head of a model for a task, and set up its config.

Some architectures have no multiple-choice head: a head with one class then scores each candidate. Some have no
question-answering head: a head with two classes for each token then gives the start and end scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import MultipleChoiceModelOutput, QuestionAnsweringModelOutput
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

BOTH_SIDES = ("xlnet",)  # is trained to predict a next token, and yet reads to both sides
MULTIPLE_CHOICE, QUESTION_ANSWERING = "AutoModelForMultipleChoice", "AutoModelForQuestionAnswering"


class CandidateScores:
    """Score candidates with a head for one class: mixed into a model for sequence classification.

    The inputs are [questions, candidates, positions] and the logits [questions, candidates].
    """

    def forward(self, labels: torch.Tensor | None = None, **inputs: Any) -> MultipleChoiceModelOutput:
        """Return the scores and, if `labels` [questions] name the right candidates, the loss."""
        questions, candidates = next(value.shape[:2] for value in inputs.values() if _is_table(value))
        rows = {name: value.flatten(0, 1) if _is_table(value) else value for name, value in inputs.items()}
        logits = super().forward(**rows).logits.view(questions, candidates)  # type: ignore[misc]
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return MultipleChoiceModelOutput(loss=loss, logits=logits)


class SpanScores:
    """Score spans with a head for two classes: mixed into a model for token classification."""

    def forward(
        self, start_positions: torch.Tensor | None = None, end_positions: torch.Tensor | None = None, **inputs: Any
    ) -> QuestionAnsweringModelOutput:
        """Return start and end scores [windows, positions] and, if the right positions are given, the loss."""
        start, end = super().forward(**inputs).logits.unbind(-1)  # type: ignore[misc]
        loss = None
        if start_positions is not None and end_positions is not None:
            edges = ((start, start_positions), (end, end_positions))
            loss = sum(torch.nn.functional.cross_entropy(scores, right) for scores, right in edges) / 2
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start.contiguous(), end_logits=end.contiguous())


def _is_table(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 2


class Head(NamedTuple):
    """Describe a head: the transformers class that has it, what adapts its outputs, and its number of classes."""

    auto_class: str
    scores: type | None = None
    labels: int | None = None


# For each head of a task: the head itself, then the one that replaces it in architectures that lack it.
HEADS = {
    MULTIPLE_CHOICE: (
        Head(MULTIPLE_CHOICE, labels=2),  # the default: some heads have a layer of this size below their score
        Head("AutoModelForSequenceClassification", CandidateScores, 1),
    ),
    QUESTION_ANSWERING: (
        Head(QUESTION_ANSWERING, labels=2),
        Head("AutoModelForTokenClassification", SpanScores, 2),
    ),
}


def purpose(auto_class: str) -> str:
    """Return what a head of this class does, for messages: `that scores candidates`."""
    known = {MULTIPLE_CHOICE: "that scores candidates", QUESTION_ANSWERING: "that marks answers"}
    return known.get(auto_class, f"for {auto_class}")


def choose_head(auto_class: str, config: Any) -> Head | None:
    """Return the head of this class for a model, or None if its architecture has none.

    A model that reads only from left to right gets no replacement.
    """
    import transformers

    heads: tuple[Head, ...] = HEADS.get(auto_class, (Head(auto_class),))
    for head in heads[:1] if is_decoder(config) else heads:
        # Private in transformers 5.24: no public function tells which architectures have a head.
        if type(config) in getattr(transformers, head.auto_class)._model_mapping:
            return head
    return None


def is_decoder(config: Any) -> bool:
    """Return True if a model's tokens attend to earlier ones only."""
    kind = config.model_type
    encoders = {*MODEL_FOR_MASKED_LM_MAPPING_NAMES, *BOTH_SIDES}
    next_tokens = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in encoders
    return not config.is_encoder_decoder and (next_tokens or bool(getattr(config, "is_decoder", False)))


def head_settings(head: Head, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a model's config for a head, given the task's own `options`, such as `num_labels`.

    The classes that a checkpoint was tuned for, and its kind of loss, do not stay.
    """
    count = options.get("num_labels", head.labels)
    if count is None:
        return dict(options)
    names = {number: f"LABEL_{number}" for number in range(count)}
    classes = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    return {"problem_type": None, **classes, **options}


def mix_in(model: PreTrainedModel, scores: type | None) -> PreTrainedModel:
    """Let `scores` adapt the model's outputs, in place, and return the model. Its weights and its name stay."""
    if scores:
        model.__class__ = type(type(model).__name__, (scores, type(model)), {"__module__": type(model).__module__})
    return model

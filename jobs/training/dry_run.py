"""Try a backbone with a Task before a sweep: a model of few layers and random weights reads a few of the questions.

Nothing is written but temporary files, and the random state of this process stays as it is.
"""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from transformers import TrainingArguments

from jobs.backbone.names import SCRATCH
from jobs.backbone.random_weights import LARGE
from jobs.backbone.source import BackboneError, Weights, first_line, from_pretrained, weights_instead
from jobs.backbone.tokenizers import check_tokenizer, load_tokenizer
from jobs.dataset.data import Data, Question, long_texts, read_data
from jobs.features.tokens import tokenize
from jobs.files import causes, disk_trouble
from jobs.model import dropout
from jobs.model.heads import is_decoder
from jobs.model.recomputation import recompute_activations
from jobs.params import TrainingParams
from jobs.task import Task
from jobs.training.batches import keep_batch
from jobs.training.predict import predict
from jobs.training.trainer import BatchTrainer, input_dataset

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MOST_CHARACTERS = 500_000  # of the data's long texts, for the check of the tokenizer; they take about a second
MOST_TOKENS = 768  # in the longest input: a model of two large layers takes less than 2 GiB to train with it
CHARACTERS_PER_TOKEN = 8  # more than any tokenizer joins to a token of usual text


def try_backbone(task: Task, params: TrainingParams, location: str, encoder: bool = False) -> tuple[str, ...]:
    """Return lines about the tokenizer of `params.backbone` if the Task can train with it on the data set.

    location  the data set, for `read_data`
    encoder   refuse models that read from left to right only

    Raises BackboneError with the cause and the cure in one line if not.
    """
    name = params.backbone
    match = SCRATCH.fullmatch(name)
    if match and not match["tokenizer"]:
        return ()
    with _aside():
        if encoder and not match:
            _refuse_decoder(task, name)
        data = read_data(location)
        tokenizer = load_tokenizer(name, ())
        found = check_tokenizer(name, tokenizer, _every_nth(long_texts(data)))
        lines = tuple(f"{name}: {line}" for line in found.warnings())
        try:
            if not match:
                _try_model(task, params, tokenizer, data)
        except Exception as error:
            if shortage := _shortage(error):
                return (*lines, f"{name}: was not tried before the sweep: {shortage}")
            raise BackboneError(refusal_line(error, task, name)) from error
        return lines


def _shortage(error: Exception) -> str | None:
    """Return what this machine lacks if that is the cause of an error, and not the backbone."""
    chain = list(causes(error))
    if any(isinstance(one, MemoryError) or "can't allocate memory" in str(one) for one in chain):
        return "not enough memory"
    return disk_trouble(error, Path(gettempdir()))


@contextmanager
def _aside() -> Iterator[None]:
    """Keep the random states, and silence transformers: what it says of random weights means nothing to the user."""
    states = random.getstate(), np.random.get_state()
    level = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def _refuse_decoder(task: Task, name: str) -> None:
    config = from_pretrained(transformers.AutoConfig, name)
    if is_decoder(config):
        raise BackboneError(
            f"{name}: cannot be used by {task.name}: it reads from left to right only (its architecture is "
            f"{config.model_type}); choose an encoder, such as a BERT"
        )


def _every_nth(texts: Sequence[str]) -> Sequence[str]:
    """Return every nth text, so that all of them have about MOST_CHARACTERS characters."""
    return texts[:: 1 + sum(map(len, texts)) // MOST_CHARACTERS]


def _try_model(task: Task, params: TrainingParams, tokenizer: PreTrainedTokenizerFast, data: Data) -> None:
    """Compare the checkpoint with the Task's model, then train a short model on one batch; the whole one if it fails.

    Raises BackboneError when both fail, and what they raise when memory or disk space is short.
    """
    with suppress(NotImplementedError), weights_instead("none"):  # a Task may compute with its new model's weights
        task.model(params, tokenizer)
    length = min(getattr(params, "max_length", MOST_TOKENS), MOST_TOKENS)
    few = few_questions(data, tokenizer, length)
    try:
        _train_once(task, params, tokenizer, few, "few")
    except Exception:  # a model of fewer layers may fail where the whole one does not
        _train_once(task, params, tokenizer, few, "random")


def few_questions(data: Data, tokenizer: PreTrainedTokenizerFast, length: int) -> Data:
    """Return a data set of two labelled questions of `data`.

    The relevant paragraph of the first is cut or continued to `length` tokens, that of the second is the shortest.
    """
    rows = sorted(data.train, key=lambda row: len(data.paragraphs[row.relevant or 0]))
    long, short = (data.paragraphs[row.relevant or 0] for row in (rows[-1], rows[0]))
    texts = (_first_tokens(_continued(long, data.paragraphs, CHARACTERS_PER_TOKEN * length), tokenizer, length), short)
    made = (_labelled(rows[-1], (0, 1), texts[0]), _labelled(rows[0], (1,), short))
    return replace(data, paragraphs=texts, train=made, valid=made, test=(), several={})


def _continued(text: str, others: Sequence[str], characters: int) -> str:
    """Return `text` followed by the other texts, repeated until it has this number of characters."""
    parts = [text]
    for other in cycle(others):
        if (characters := characters - len(parts[-1])) <= 0:
            break
        parts.append(other or " ")
    return "".join(parts)


def _first_tokens(text: str, tokenizer: PreTrainedTokenizerFast, count: int) -> str:
    chars = tokenize(tokenizer, [text]).chars
    return text[: chars[count - 1, 1]] if len(chars) > count else text


def _labelled(row: Question, paragraphs: tuple[int, ...], text: str) -> Question:
    """Return the question with other paragraphs; its answer is the first character of `text`, the first of them."""
    start = len(text) - len(text.lstrip())
    return replace(row, paragraphs=paragraphs, relevant=paragraphs[0], answer=text[start : start + 1], start=start)


def _train_once(
    task: Task, params: TrainingParams, tokenizer: PreTrainedTokenizerFast, data: Data, weights: Weights
) -> None:
    """Compute the loss and the gradients of one batch as training does, then the metrics. Raises what they raise."""
    with TemporaryDirectory(prefix="sweeper-") as folder, weights_instead(weights):
        model = task.model(params, tokenizer)
        if params.gradient_checkpointing:
            recompute_activations(model, params.backbone)
        inputs = task.inputs(params, tokenizer, data, data.train, Path(folder))
        trainer = _trainer(task, params, model, tokenizer, inputs, Path(folder))
        lengths = trainer.train_dataset.lengths
        batch = dict(trainer.train_dataset.batch([int(lengths.argmax()), int(lengths.argmin())]))
        trainer.compute_loss(model.train(), batch).backward()
        logits = predict(task, model, inputs, params)
        task.evaluate(inputs, data, logits if len(logits) > 1 else logits[0], params)


def _trainer(
    task: Task,
    params: TrainingParams,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    inputs: Any,
    folder: Path,
) -> BatchTrainer:
    """Return a Trainer that computes on the CPU. Large weights get no gradients, which would take as much memory."""
    for weight in model.parameters():
        weight.requires_grad_(weight.numel() < LARGE)
    return BatchTrainer(
        score=lambda _: {},
        model=dropout.quicken(model),
        args=TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none", remove_unused_columns=False),
        data_collator=keep_batch,
        train_dataset=input_dataset(task, inputs, task.trained(inputs, params), params),
        processing_class=tokenizer,
        compute_loss_func=task.loss,
    )


def refusal_line(error: Exception, task: Task, name: str) -> str:
    """Return in one line why a backbone cannot be used, and what to do.

    >>> refusal_line(IndexError("index out of range in self"), TASK, "owner/name")
    'owner/name: cannot be used by qa: an input has a number outside of its table of embeddings; …'
    """
    text = " ".join(str(error).split())
    if isinstance(error, BackboneError):
        return text
    return f"{name}: cannot be used by {task.name}: {_cause(error, text)}; choose another backbone"


def _cause(error: Exception, text: str) -> str:
    if isinstance(error, TypeError) and (missing := re.search(r"required positional arguments?: (.*)", text)):
        return f"its model needs {missing[1]}, which text does not have"
    if isinstance(error, IndexError) and "index out of range" in text:
        return "an input has a number outside of its table of embeddings"
    return f"a training step with random weights fails: {first_line(error)}"

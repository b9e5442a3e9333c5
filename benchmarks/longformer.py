"""Compare a Longformer's speed: batches cut to their longest row and block-wise attention, against the usual way.

The usual way pads all inputs to `max_length` and uses float32 and the attention of transformers.

    python benchmarks/longformer.py [--inputs 6] [--steps 2] [--pairs 5] [--json]

Both models have the same weights and read the same questions over their joined paragraphs: those of ../shared/data/drcd
if that folder exists, else those of the sample with more paragraphs per question. Ours is timed in float32 and, with
autocast, in bfloat16 (slow on CPUs without AVX512-BF16). Before timing, logits and losses in float32 and the answers
in both are compared. At the end the attention module alone is timed on `max_length` positions, without and with 24
global tokens.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pairs
import torch
from torch.nn.functional import pad
from transformers import LongformerForQuestionAnswering
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

from jobs import longformer
from jobs.backbone import tokenizers
from jobs.dataset.data import SAMPLE, Data, Question, read_data, vocabulary
from jobs.features.windows import Windows, best_answers
from jobs.model.attention import BlockSelfAttention, layout

DRCD = Path(__file__).parents[2] / "shared/data/drcd"
BATCH, GLOBALS = 2, 24
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Setting:
    """Hold two models with the same weights, and the windows that both read."""

    ours: Any
    reference: Any
    params: longformer.LongformerParams
    data: Data
    windows: Windows

    def padded(self, rows: Sequence[int]) -> Batch:
        """Return a batch in which all rows are padded to the longest input the model can read."""
        batch = longformer.collate_joined(self.windows, rows)
        missing = self.params.max_length - batch["input_ids"].shape[1]
        fill = {"input_ids": self.windows.pad_id}
        return {
            name: pad(values, (0, missing), value=fill.get(name, 0)) if values.dim() == 2 else values
            for name, values in batch.items()
        }


def setting(given: Namespace) -> Setting:
    data = asked(given.max_length)
    rows = data.train[: given.inputs]
    params = longformer.LongformerParams(
        backbone=given.backbone, max_length=given.max_length, attention_window=given.window,
        doc_stride=min(256, given.max_length // 8), per_device_eval_batch_size=BATCH,
    )  # fmt: skip
    torch.manual_seed(0)
    tokenizer = tokenizers.load_tokenizer(given.backbone, vocabulary(data))
    ours = longformer.load_long_reader(params, tokenizer)
    reference = LongformerForQuestionAnswering(deepcopy(ours.config))
    reference.load_state_dict(ours.state_dict())
    with TemporaryDirectory() as cache:
        windows = longformer.joined_windows(tokenizer, data, rows, params, Path(cache))
    return Setting(ours, reference, params, data, windows)


def asked(max_length: int) -> Data:
    """Return real questions with their paragraphs, or questions of the sample with paragraphs of half `max_length`."""
    if DRCD.is_dir():
        return read_data(str(DRCD))
    data = read_data(SAMPLE)
    return replace(data, train=tuple(longer(data, row, max_length // 2) for row in data.train))


def longer(data: Data, row: Question, characters: int) -> Question:
    others = (number for number in range(len(data.paragraphs)) if number not in row.paragraphs)
    more = characters // max(map(len, data.paragraphs)) - len(row.paragraphs)
    return replace(row, paragraphs=(*row.paragraphs, *islice(others, max(0, more))))


# Evaluation


def predicted(setting: Setting, dtype: torch.dtype) -> tuple[np.ndarray, ...]:
    from jobs.training.predict import predict

    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
        return predict(longformer.TASK, setting.ours, setting.windows, setting.params)


def predicted_padded(setting: Setting) -> tuple[np.ndarray, ...]:
    model, starts, ends = setting.reference.eval(), [], []
    for at in range(0, len(setting.windows), BATCH):
        batch = setting.padded(range(at, min(at + BATCH, len(setting.windows))))
        with torch.no_grad():
            output = model(**{name: values for name, values in batch.items() if "positions" not in name})
        starts.append(output.start_logits.numpy())
        ends.append(output.end_logits.numpy())
    return np.concatenate(starts), np.concatenate(ends)


def evaluations_agree(setting: Setting) -> dict[str, float]:
    """Return the largest difference of a token's logits, and the number of questions with the same answer."""
    theirs = predicted_padded(setting)
    ours = {dtype: predicted(setting, dtype) for dtype in (torch.float32, torch.bfloat16)}
    kept = np.arange(ours[torch.float32][0].shape[1]) < setting.windows.lengths()[:, None]
    pairs_of = zip(ours[torch.float32], theirs, strict=True)
    difference = max(np.abs(one - other[:, : one.shape[1]])[kept].max() for one, other in pairs_of)
    assert difference < 1e-4, f"logits differ by {difference}"
    expected = answers(setting, theirs)
    same = {
        dtype: np.mean([a == b for a, b in zip(answers(setting, own), expected, strict=True)])
        for dtype, own in ours.items()
    }
    assert same[torch.float32] == 1, "the answers differ"
    return {"logits differ by": float(difference), "same answers bf16": float(same[torch.bfloat16])}


def answers(setting: Setting, logits: tuple[np.ndarray, ...]) -> list[tuple[int, int, str]]:
    start, end = logits
    found = best_answers(setting.windows, setting.data.paragraphs, (start, end), setting.params.max_answer_length)
    return [(one["paragraph"], one["start"], one["answer"]) for one in found]


# Training


def steps(model: Any, batches: Sequence[Batch], dtype: torch.dtype = torch.float32) -> Callable[[], None]:
    """Return a function that takes one optimizer step per batch, with learning rate 0 to keep the weights."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def run() -> None:
        model.train()
        for batch in batches:
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def batches_of(setting: Setting, count: int, collate: Callable[[Sequence[int]], Batch]) -> list[Batch]:
    numbers: Iterator[int] = cycle(range(len(setting.windows)))
    return [collate(list(islice(numbers, BATCH))) for _ in range(count)]


def losses_agree(setting: Setting, batches: Sequence[Batch]) -> float:
    """Return the largest difference of the two models' losses for the same batch, without dropout.

    Both use the same padding, because the loss of transformers includes padded positions.
    """
    with torch.no_grad():
        losses = [
            [float(model.eval()(**batch).loss) for batch in batches] for model in (setting.ours, setting.reference)
        ]
    difference = max(abs(one - other) for one, other in zip(*losses, strict=True))
    assert difference < 1e-5, f"losses differ by {difference}"
    return difference


# The module alone


def module(setting: Setting, wide: int, gradient: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return one attention layer's forward pass on `max_length` positions, ours and transformers', without dropout."""
    ours = setting.ours.longformer.encoder.layer[0].attention.self.eval()
    theirs = setting.reference.longformer.encoder.layer[0].attention.self.eval()
    assert (type(ours), type(theirs)) == (BlockSelfAttention, LongformerSelfAttention)
    states = torch.randn(1, setting.params.max_length, ours.embed_dim, requires_grad=gradient)
    tokens = torch.ones(states.shape[:2], dtype=torch.long)
    tokens[:, :wide] = 2
    mask = torch.zeros(states.shape[:2]).masked_fill(tokens == 2, torch.finfo(torch.float32).max)
    told = {"is_index_masked": mask < 0, "is_index_global_attn": mask > 0, "is_global_attn": wide > 0}

    def mine() -> Any:
        return ours(states, layout(tokens, ours.one_sided_attn_window_size, torch.float32))[0]

    def other() -> Any:
        return theirs(states, mask, **told)[0]

    torch.testing.assert_close(mine(), other(), atol=1e-5, rtol=0)
    return (run(mine, gradient), run(other, gradient))


def run(function: Callable[[], Any], gradient: bool) -> Callable[[], Any]:
    def forward() -> None:
        with torch.no_grad():
            function()

    return (lambda: function().sum().backward()) if gradient else forward


def figures(name: str, ours: Callable[[], Any], reference: Callable[[], Any], count: int) -> dict[str, float]:
    ours()
    reference()
    found = pairs.alternate(ours, reference, count)
    return {f"{name} ours s": found.ours, f"{name} reference s": found.reference, f"{name} ratio": found.ratio}


def measure(given: Namespace) -> dict[str, Any]:
    one = setting(given)
    lengths = one.windows.lengths()
    result: dict[str, Any] = {"data": Path(one.data.location).name, "inputs": len(lengths)}
    result |= {"mean length": float(lengths.mean()), "threads": torch.get_num_threads(), "pairs": given.pairs}
    result |= evaluations_agree(one)
    ours, theirs = (
        batches_of(one, given.steps, way)
        for way in (lambda rows: longformer.collate_joined(one.windows, rows), one.padded)
    )
    result["losses differ by"] = losses_agree(one, ours)
    for short, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        mine = lambda dtype=dtype: predicted(one, dtype)  # noqa: E731
        result |= figures(f"evaluation {short}", mine, lambda: predicted_padded(one), given.pairs)
    for short, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        result |= figures(f"training {short}", steps(one.ours, ours, dtype), steps(one.reference, theirs), given.pairs)
    for wide in (0, GLOBALS):
        for gradient in (False, True):
            name = f"module {wide} global" + (" with gradient" if gradient else "")
            result |= figures(name, *module(one, wide, gradient), given.pairs)
    return result


def main() -> None:
    given = pairs.arguments(__doc__, inputs=6, steps=2, backbone="scratch:4x256x4", max_length=4096, window=512)
    pairs.show(measure(given), given.json)


if __name__ == "__main__":
    main()

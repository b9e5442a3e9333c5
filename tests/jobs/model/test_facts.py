"""What the host knows of a batch changes no result, and spares the questions to the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jobs import get_job
from jobs.backbone import tokenizers
from jobs.dataset.data import Data
from jobs.model import facts
from jobs.model.facts import batch_facts, known_facts
from tests.support.pretended import Questions
from tests.support.spaces import SMALL


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", ["longformer", "mc", "qa"])
def test_a_forward_with_facts_asks_nothing_and_computes_the_same(
    name: str, rows: int, few: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "waits", lambda device: True)
    job = get_job(name)
    params, task = job.params(backbone="scratch:1x32x2", **SMALL[name]), job.task
    assert task
    tokenizer = tokenizers.load_tokenizer(params.backbone, few.paragraphs)
    inputs = task.inputs(params, tokenizer, few, few.train, tmp_path)
    longest, *shorter = inputs.lengths().argsort()[::-1].tolist()
    batch = dict(task.collate(inputs, [longest, *shorter[-1:]] * rows if rows > 1 else [longest], params))
    batch = {name: values for name, values in batch.items() if name != "labels" and "_positions" not in name}
    model = task.model(params, tokenizer).eval()
    known = batch_facts(batch)
    outputs, counts = [], []
    for told in (None, known):
        with Questions() as asked, torch.no_grad(), known_facts(model, told):
            outputs.append(model(**batch))
        counts.append(asked.count)
    assert counts == [1, 0]
    for key in outputs[0]:
        if key.endswith("logits"):
            torch.testing.assert_close(outputs[1][key], outputs[0][key], rtol=0, atol=1e-6)


def test_a_mask_that_a_model_of_a_job_makes_itself_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch has no padding, but this model hides half of it."""
    from transformers import BertConfig, BertModel

    class Half(BertModel):  # type: ignore[misc]
        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return super().forward(input_ids, attention_mask * (torch.arange(8) < 4))

    monkeypatch.setattr(facts, "waits", lambda device: True)
    config = BertConfig(vocab_size=9, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    model, ids = Half(config).eval(), torch.arange(8)[None]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad(), known_facts(model, batch_facts(batch)):
        whole = model(**batch).last_hidden_state
        short = BertModel.forward(model, ids[:, :4], torch.ones_like(ids[:, :4])).last_hidden_state
    torch.testing.assert_close(whole[:, :4], short)


def test_facts_count_padding_and_global_tokens() -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    wide = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 1]])
    assert batch_facts({"attention_mask": mask, "global_attention_mask": wide}) == facts.BatchFacts(4, True, 2)
    assert batch_facts({"attention_mask": mask[:1]}) == facts.BatchFacts(4, False, 0)
    assert batch_facts({"input_ids": mask}) is None

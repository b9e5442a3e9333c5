from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import mc
from jobs.backbone import tokenizers
from jobs.dataset.data import Data, Question
from jobs.mc import ABSENT, McParams

PARAGRAPHS = ["日月潭在南投縣，湖很大。" * 9, "阿里山在嘉義縣。", "淡水在新北市。", "墾丁在屏東縣。"]
PARAMS = McParams(
    backbone="scratch:1x32x2", learning_rate=5e-3, num_train_epochs=2, effective_batch_size=8,
    per_device_train_batch_size=4, max_length=64,
)  # fmt: skip


def question(number: int, relevant: int, paragraphs: tuple[int, ...]) -> Question:
    name = PARAGRAPHS[relevant][:2]
    return Question(f"q{number}", f"{name}在哪裡？", paragraphs, relevant, name, 0)


# Two, three and four candidates.
ROWS = tuple(question(n, n % 4, tuple(sorted({n % 4, (n + 1) % 4, *range(n % 3 + 1)}))) for n in range(24))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> mc.Candidates:
    data = Data("-", tuple(PARAGRAPHS), ROWS, ROWS, ())
    tokenizer = tokenizers.character_tokenizer([*PARAGRAPHS, "哪裡？"])
    return mc.candidate_inputs(tokenizer, data, ROWS, 64, tmp_path_factory.mktemp("features"))


def test_each_candidate_is_one_input_with_only_the_paragraph_cut(source: mc.Candidates) -> None:
    assert np.diff(source.bounds).tolist() == [len(row.paragraphs) for row in ROWS]
    assert source.windows.lengths().max() == 64
    assert set(source.windows.offset.tolist()) == {1 + len("日月在哪裡？") + 1}


def test_questions_with_fewer_candidates_are_filled_up_with_copies_of_the_first(source: mc.Candidates) -> None:
    batch = source.collate([0, 1, 2])
    counts = [len(ROWS[n].paragraphs) for n in range(3)]
    assert batch["input_ids"].shape[:2] == (3, max(counts))
    for line, count in enumerate(counts):
        for name in ("input_ids", "attention_mask", "token_type_ids", "global_attention_mask"):
            copies = batch[name][line, count:]
            assert torch.equal(copies, batch[name][line, :1].expand_as(copies)), name
        labels = batch["labels"][line]
        assert (labels != ABSENT).nonzero().flatten().tolist() == [
            ROWS[line].paragraphs.index(ROWS[line].relevant or 0)
        ]
        assert labels.max() == count


def test_of_the_text_of_a_multiple_choice_question_as_much_is_read_as_fits_and_the_question_stays(
    tmp_path: Path,
) -> None:
    text, asked, options = "日月潭" * 30, "誰在哪裡？", ("淡水", "墾丁在屏東縣")
    row = Question("q", f"{text}\n{asked}", (0, 1), 1, options[1], 0)
    data = Data("-", options, (row,), (row,), (), options=True)
    tokenizer = tokenizers.character_tokenizer([text, asked, *options])
    batch = mc.candidate_inputs(tokenizer, data, (row,), 64, tmp_path).collate([0])
    assert batch["attention_mask"].sum(dim=-1).tolist() == [[64, 64]]
    for ids, option in zip(batch["input_ids"][0], options, strict=True):
        read = tokenizer.decode(ids).replace(" ", "")
        assert read.endswith(f"潭{asked}[SEP]{option}[SEP]")
        assert len(read.split("[SEP]")[0].removeprefix("[CLS]")) == 64 - 3 - len(option)
    assert batch["labels"].tolist() == [[ABSENT, 2]]


def test_the_loss_is_that_of_each_questions_own_candidates() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.5, 9.0, 99.0]])
    labels = torch.tensor([[ABSENT, ABSENT, 3], [1, ABSENT, ABSENT]])
    own = [torch.nn.functional.cross_entropy(logits[0], torch.tensor(2)), torch.tensor(0.0)]  # one candidate: no doubt
    assert mc.candidate_loss({"logits": logits}, labels) == pytest.approx(float(sum(own)) / 2)
    assert mc.candidate_loss({"logits": logits}, labels, num_items_in_batch=8) == pytest.approx(float(sum(own)) / 8)


def test_what_lies_beyond_a_questions_candidates_is_not_picked() -> None:
    rows = [question(0, 1, (0, 1)), question(1, 2, (0, 1, 2))]
    metrics, predictions = mc.evaluate_picks(rows, np.array([[0.0, 1.0, 99.0], [5.0, 0.0, 1.0]]))
    assert metrics == {"accuracy": 0.5}
    assert predictions == [
        {"id": "q0", "paragraph": 1, "scores": [0.0, 1.0]},
        {"id": "q1", "paragraph": 0, "scores": [5.0, 0.0, 1.0]},
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {"id": row.id, "question": row.question, "paragraphs": row.paragraphs, "relevant": row.relevant,
         "answer": {"text": row.answer, "start": 0}}
        for row in ROWS
    ]  # fmt: skip
    for name, content in {"context": PARAGRAPHS, "train": rows[:20], "valid": rows[20:]}.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_questions_with_different_numbers_of_candidates_are_trained_on_and_answered(
    folder: Path, tmp_path: Path
) -> None:
    reports: list[tuple[dict[str, float], Path]] = []
    (tmp_path / "trial").mkdir()
    mc.train(PARAMS, str(folder), tmp_path / "trial", lambda metrics, saved: reports.append((metrics, saved)))  # type: ignore[arg-type]
    assert [metrics["step"] for metrics, _ in reports] == [3.0, 6.0]
    predictions = json.loads((reports[-1][1] / "predictions.json").read_text(encoding="utf-8"))
    for prediction, row in zip(predictions, ROWS[20:], strict=True):
        assert prediction["paragraph"] in row.paragraphs
        assert len(prediction["scores"]) == len(row.paragraphs)

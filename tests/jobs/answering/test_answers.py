"""Answers from checkpoints, held against what the same models said while they were trained."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from jobs import get_job
from jobs.answering import answers as answering
from jobs.answering.answers import Answer
from jobs.backbone.tokenizers import load_tokenizer
from jobs.checkpoint import PREDICTIONS, CheckpointError, load_json
from jobs.dataset.data import Data, DataError, Question, labelled_questions, read_data
from tests.support.zoo import build


def model(checkpoints: Mapping[str, Path], job: str, tmp_path: Path) -> answering.Model:
    return answering.load_answering_model(checkpoints[job], job, tmp_path)


def test_the_reader_answers_as_it_did_in_training(few: Data, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    paragraphs = [row.relevant or 0 for row in few.valid]
    answers = answering.read_paragraphs([model(checkpoints, "qa", tmp_path)], few, few.valid, paragraphs)
    said = load_json(checkpoints["qa"] / PREDICTIONS)
    assert [(one.id, one.text, one.start) for one in answers] == [(s["id"], s["answer"], s["start"]) for s in said]
    assert [one.score for one in answers] == pytest.approx([one["score"] for one in said], abs=1e-4)
    assert all(few.paragraphs[one.paragraph][one.start :].startswith(one.text) for one in answers)


def test_reading_everything_includes_reading_one(few: Data, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    reader = model(checkpoints, "qa", tmp_path)
    every = answering.read_all_paragraphs([reader], few, few.valid)
    assert [[one.paragraph for one in own] for own in every] == [list(row.paragraphs) for row in few.valid]
    third = answering.read_paragraphs([reader], few, few.valid, [row.paragraphs[2] for row in few.valid])
    assert [(one.text, one.start) for one in third] == [(own[2].text, own[2].start) for own in every]


def test_the_selector_picks_as_it_did_in_training(few: Data, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    scores = answering.paragraph_scores(model(checkpoints, "mc", tmp_path), few, few.valid)
    said = load_json(checkpoints["mc"] / PREDICTIONS)
    assert answering.best_paragraphs(few.valid, scores) == [one["paragraph"] for one in said]
    assert [np.exp(own).sum() for own in scores] == pytest.approx([1.0] * len(scores))


def test_end_to_end_answers_as_in_training(few: Data, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    answers = answering.end_to_end(model(checkpoints, "longformer", tmp_path), few, few.valid)
    said = load_json(checkpoints["longformer"] / PREDICTIONS)
    assert [(one.paragraph, one.text) for one in answers] == [(one["paragraph"], one["answer"]) for one in said]


def test_questions_without_labels_are_answered(few: Data, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    assert few.test[0].relevant is None
    chosen = answering.best_paragraphs(
        few.test, answering.paragraph_scores(model(checkpoints, "mc", tmp_path), few, few.test)
    )
    answers = answering.read_paragraphs([model(checkpoints, "qa", tmp_path)], few, few.test, chosen)
    assert [one.id for one in answers] == [row.id for row in few.test]
    assert all(one.paragraph in row.paragraphs for one, row in zip(answers, few.test, strict=True))
    assert len(answering.end_to_end(model(checkpoints, "longformer", tmp_path), few, few.test)) == len(few.test)


def test_a_checkpoint_answers_when_its_backbone_is_gone(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = shutil.copytree(checkpoints["qa"], tmp_path / "checkpoint")
    made = json.loads((checkpoint / "job.json").read_text())
    made["params"]["backbone"] = "/no/such/folder"
    (checkpoint / "job.json").write_text(json.dumps(made))
    assert answering.load_answering_model(checkpoint, "qa", tmp_path).params.backbone == str(checkpoint)


def test_another_jobs_checkpoint_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="was made by job mc; name a checkpoint of qa"):
        answering.load_answering_model(checkpoints["mc"], "qa", tmp_path)
    with pytest.raises(CheckpointError, match=r"has no readable job\.json"):
        answering.load_answering_model(tmp_path, "qa", tmp_path)


def answer(paragraph: int, text: str, score: float) -> Answer:
    return Answer("q", paragraph, 0, text, score)


def test_the_weight_decides_between_paragraph_and_span() -> None:
    selection = [np.log([0.7, 0.3])]
    readings = [[answer(4, "山", 1.0), answer(9, "湖", 3.0)]]
    assert answering.combine(selection, readings, 0.0)[0].text == "山"
    assert answering.combine(selection, readings, 1.0)[0].text == "湖"
    # (1 - w) ln(7/3) = 2 w at w = 0.2976
    assert answering.combine(selection, readings, 0.29)[0].text == "山"
    assert answering.combine(selection, readings, 0.30)[0].text == "湖"


def test_the_fitted_weight_gives_most_exact_matches_and_is_the_smallest_of_equals() -> None:
    selection = [np.log([0.7, 0.3]), np.log([0.99, 0.01])]
    readings = [
        [answer(4, "山", 1.0), answer(9, "湖", 3.0)],
        [answer(4, "春", 1.0), answer(9, "秋", 3.0)],
    ]
    assert answering.fit_weight(selection, readings, [["湖"], ["春"]]) == pytest.approx(0.30)
    assert answering.fit_weight(selection, readings, [["山"], ["春"]]) == 0.0
    assert answering.fit_weight(selection, readings, [["海"], ["海"]]) == 0.0


def test_labels_of_the_test_questions_stand_beside_them(few: Data, tmp_path: Path) -> None:
    rows = labelled_questions(few, "test")
    assert [row.id for row in rows] == [row.id for row in few.test]
    assert all(row.answer for row in rows)
    assert labelled_questions(few, "valid") == few.valid
    for name in ("context", "train", "valid", "test"):
        (tmp_path / f"{name}.json").write_bytes((Path(few.location) / f"{name}.json").read_bytes())
    with pytest.raises(DataError, match=r"test has no labelled questions, and there is no test_labels\.json"):
        labelled_questions(read_data(str(tmp_path)), "test")


def test_readers_vote_by_characters(few: Data, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """A reader that votes with itself gives the spans whose token chances multiply to the most: its own."""
    found = model(checkpoints, "qa", tmp_path)
    wide = dataclasses.replace(found.params, max_length=160)  # type: ignore[call-arg]
    reader = dataclasses.replace(found, params=wide)  # one window a paragraph, as several are not normalised together
    alone = answering.read_all_paragraphs([reader], few, few.valid)
    twice = answering.read_all_paragraphs([reader, reader], few, few.valid)
    assert [[one.text for one in own] for own in twice] == [[one.text for one in own] for own in alone]
    assert all(few.paragraphs[one.paragraph][one.start :].startswith(one.text) for own in twice for one in own)


def test_a_vote_by_hand() -> None:
    """Two readers over 玉山高: one cuts by characters, the other has 玉山 as one token."""
    first = np.array([[0.6, 0.1, 0.3], [0.2, 0.5, 0.3]])
    second = np.array([[0.9, 0.0, 0.1], [0.0, 0.8, 0.2]])
    span = answering.averaged("玉山高", [first, second], 3)
    assert (span["answer"], span["start"]) == ("玉山", 0)
    assert span["score"] == pytest.approx(np.log(0.75 * 0.65))
    assert (
        answering.averaged("玉山高", [first, second], 1)["answer"] == "玉"
    )  # 0.75 x 0.10 beats 0.05 x 0.65, 0.2 x 0.25
    assert answering.averaged("  ", [np.zeros((2, 2))], 2)["start"] == 0
    against = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])  # the end lies before the start
    assert answering.averaged(" 湖山", [against], 3)["answer"] == "湖"


def test_the_weight_is_fitted_by_the_metric_profile() -> None:
    selection, readings = [np.log([0.7, 0.3])], [[answer(4, "山", 1.0), answer(9, "日月潭。", 3.0)]]
    assert answering.fit_weight(selection, readings, [["日月潭"]], "strict") == 0.0
    assert answering.fit_weight(selection, readings, [["日月潭"]], "drcd") == pytest.approx(0.30)


ODD_PARAGRAPHS = (
    "日月潭 在 南投縣 魚池鄉，是 台灣 最大 的 湖泊。 ",
    "日月潭在南投縣。\r\n",
    "\u3000\u3000日月潭在南投縣。\u200b",
    "\t玉山 3,952 公尺 high。",
)


def untrained(kind: str, job: str, folder: Path, seed: int) -> answering.Model:
    """Return a model of random weights for a job; different ones by `seed`."""
    import torch

    task, name = get_job(job).task, build(kind, folder / kind)
    assert task is not None
    params = get_job(job).params(backbone=name, max_length=64, doc_stride=8)
    tokenizer = load_tokenizer(name, ())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = task.model(params, tokenizer)
    return answering.Model(task, params, tokenizer, network.eval(), folder / "cache")


def test_readers_of_different_tokenizers_answer_with_text_alone_and_in_a_vote(tmp_path: Path) -> None:
    """A byte-level tokenizer has tokens of white space alone, also at a text's end."""
    rows = tuple(Question(f"q{n}", "湖在哪裡？", (n, (n + 1) % 4)) for n in range(4))
    data = Data("-", ODD_PARAGRAPHS, (), (), rows)
    bytes_, other, characters = (
        untrained(kind, "qa", tmp_path, seed) for seed, kind in enumerate(("roberta", "roberta", "bert"))
    )
    for one in ([bytes_], [other], [bytes_, other], [bytes_, characters]):
        for answer in answering.read_paragraphs(one, data, rows, [0, 1, 2, 3]):
            assert answer.text
            assert answer.text == answer.text.strip("\u200b \u3000\t\r\n")
            assert data.paragraphs[answer.paragraph][answer.start :].startswith(answer.text)

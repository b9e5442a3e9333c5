"""A converted data set is whole, and its splits share no paragraph that they need not."""

from __future__ import annotations

import copy
import json
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.dataset.convert import ConversionCounts, convert
from jobs.dataset.data import Data, DataError, read_data, references
from tests.support.commands import invoke

PLACES = ["日月潭在南投縣", "阿里山在嘉義縣", "淡水在新北市", "墾丁在屏東縣", "太魯閣在花蓮縣", "綠島在臺東縣"]


def asking(key: str, text: str, start: int | None = None, question: str = "在哪裡？") -> dict[str, Any]:
    return {"id": key, "question": question, "answers": [{"text": text, "answer_start": start}]}


def article(title: str, places: list[str], prefix: str) -> dict[str, Any]:
    paragraphs = [
        {"context": f"{place}，{title}。", "qas": [asking(f"{prefix}{number}", place[-3:], len(place) - 3)]}
        for number, place in enumerate(places)
    ]
    return {"title": title, "paragraphs": paragraphs}


def tree(*articles: dict[str, Any]) -> dict[str, Any]:
    return {"version": "1.3", "data": list(articles)}


TRAIN = tree(article("山", PLACES[:4], "m"), article("水", PLACES[4:], "w"))
VALID = tree(article("島", PLACES, "i"))


def write(folder: Path, content: Any, name: str = "train.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, list[str | Path]]:
    return {"train": [write(tmp_path, TRAIN)], "valid": [write(tmp_path, VALID, "valid.json")]}


def mistakes(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(DataError) as caught:
        convert(*args, **kwargs)
    return "\n".join(caught.value.lines)


def test_what_is_written_is_read_as_a_data_set(sources: dict[str, list[str | Path]], tmp_path: Path) -> None:
    counts = convert(sources, tmp_path / "out")
    data = read_data(str(tmp_path / "out"))
    assert [(row.id, row.question, row.answer) for row in data.train][:2] == [
        ("m0", "在哪裡？", "南投縣"),
        ("m1", "在哪裡？", "嘉義縣"),
    ]
    assert data.paragraphs[data.train[0].relevant or 0] == "日月潭在南投縣，山。"
    assert counts.questions == {"train": 6, "valid": 6}
    assert counts.paragraphs == {"train": 6, "valid": 6}
    assert counts.articles == {"train": 2, "valid": 1}
    assert counts.answers == {"exact": 12}
    assert counts.dropped == {}


def articles_of(data: Data, row: Any) -> list[str]:
    """The article of each distractor, which this data ends its paragraphs with."""
    return [data.paragraphs[index][-2] for index in row.paragraphs if index != row.relevant]


def test_distractors_come_from_the_same_article_first(sources: dict[str, list[str | Path]], tmp_path: Path) -> None:
    counts = convert(sources, tmp_path / "out")
    data = read_data(str(tmp_path / "out"))
    for row in data.train:
        same = data.paragraphs[row.relevant or 0][-2]
        assert articles_of(data, row).count(same) == (3 if same == "山" else 1)
    assert counts.distractors["article"] == 4 * 3 + 2 * 1 + 6 * 3
    assert sum(counts.distractors.values()) == 12 * 3


def test_what_an_article_lacks_comes_by_bm25_and_the_rest_by_chance(tmp_path: Path) -> None:
    words = ["湖水", "湖水", "山", "海", "河"]
    rows = [
        {"id": str(n), "title": str(n), "context": f"{word}{n}", "question": word, "answers": [word]}
        for n, word in enumerate(words)
    ]
    path = write(tmp_path, rows)
    counts = convert({"train": [path], "valid": [write(tmp_path, VALID, "v.json")]}, tmp_path / "out", candidates=3)
    data = read_data(str(tmp_path / "out"))
    for row, other in zip(data.train[:2], ("湖水1", "湖水0"), strict=True):
        assert other in [data.paragraphs[index] for index in row.paragraphs]
    assert counts.distractors == {"article": 6 * 2, "random": 5 * 2 - 2, "bm25": 2}


def test_bm25_looks_past_the_article(tmp_path: Path) -> None:
    train = copy.deepcopy(TRAIN)
    train["data"][1]["paragraphs"][0]["qas"][0]["question"] = "日月潭、阿里山、淡水，哪個最遠？"
    sources = {"train": [write(tmp_path, train)], "valid": [write(tmp_path, VALID, "v.json")]}
    convert(sources, tmp_path / "out", "bm25")
    data = read_data(str(tmp_path / "out"))
    assert articles_of(data, data.train[4]) == ["山", "山", "山"]


def test_distractors_stay_within_their_split(sources: dict[str, list[str | Path]], tmp_path: Path) -> None:
    for mode in ("article", "bm25"):
        convert(sources, tmp_path / mode, mode)
        data = read_data(str(tmp_path / mode))
        used = [{index for row in rows for index in row.paragraphs} for rows in (data.train, data.valid)]
        assert not used[0] & used[1]


def test_the_relevant_paragraph_may_stand_anywhere(tmp_path: Path) -> None:
    train = tree(*(article(f"篇{number}", PLACES, f"{number}-") for number in range(40)))
    convert({"train": [write(tmp_path, train)]}, tmp_path / "out", valid_share=0.2)
    rows = read_data(str(tmp_path / "out")).train
    places = [row.paragraphs.index(row.relevant or 0) for row in rows]
    assert min(places.count(place) for place in range(4)) > len(rows) / 8


def test_the_same_seed_gives_the_same_files_and_another_seed_others(
    sources: dict[str, list[str | Path]], tmp_path: Path
) -> None:
    def files(name: str, seed: int) -> dict[str, bytes]:
        convert(sources, tmp_path / name, seed=seed)
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    first = files("a", 1)
    assert files("b", 1) == first
    assert files("c", 2)["train.json"] != first["train.json"]


def test_repairs_and_losses_are_counted(tmp_path: Path) -> None:
    train = copy.deepcopy(TRAIN)
    qas = [paragraph["qas"] for paragraph in train["data"][0]["paragraphs"]]
    qas[0].append(asking("repaired", "南投", 0))
    qas[1].append(asking("located", "嘉義"))
    qas[2].append(asking("lost", "臺北", 0))
    qas[3].append({"id": "unanswered", "question": "？", "answers": [], "is_impossible": True})
    qas[3].append(copy.deepcopy(qas[3][0]))
    counts = convert({"train": [write(tmp_path, train)], "valid": [write(tmp_path, VALID, "v.json")]}, tmp_path / "out")
    assert counts.answers == {"exact": 12, "repaired": 1, "located": 1}
    assert counts.dropped == {"answer not in its paragraph": 1, "unanswerable": 1, "the same question again": 1}
    assert counts.questions["train"] == 8


def test_two_questions_of_one_id_are_named_with_both_places(tmp_path: Path) -> None:
    train = copy.deepcopy(TRAIN)
    train["data"][1]["paragraphs"][0]["qas"][0]["id"] = "m0"
    path = write(tmp_path, train)
    message = mistakes({"train": [path]}, tmp_path / "out", valid_share=0.5)
    assert f"{path}: data[1].paragraphs[0].qas[0]: id 'm0' is also the id of" in message
    assert f"{path}: data[0].paragraphs[0].qas[0]; use a unique id" in message


def test_a_paragraph_that_stands_twice_is_merged(tmp_path: Path) -> None:
    train = copy.deepcopy(TRAIN)
    again = copy.deepcopy(train["data"][0]["paragraphs"][0])
    again["qas"] = [asking("again", "日月潭", 0)]
    train["data"][0]["paragraphs"].append(again)
    counts = convert({"train": [write(tmp_path, train)], "valid": [write(tmp_path, VALID, "v.json")]}, tmp_path / "out")
    data = read_data(str(tmp_path / "out"))
    assert len(set(data.paragraphs)) == len(data.paragraphs) == 12
    assert (counts.merged, counts.shared) == (1, 0)
    assert data.train[0].relevant == next(row.relevant for row in data.train if row.id == "again")


def test_a_paragraph_of_two_given_splits_is_counted(tmp_path: Path) -> None:
    valid = copy.deepcopy(VALID)
    valid["data"][0]["paragraphs"].append({"context": "日月潭在南投縣，山。", "qas": [asking("x", "日月潭", 0)]})
    counts = convert({"train": [write(tmp_path, TRAIN)], "valid": [write(tmp_path, valid, "v.json")]}, tmp_path / "out")
    assert counts.shared == 1
    assert "paragraphs in more than one split: 1" in counts.lines()


def test_a_share_takes_whole_articles(tmp_path: Path) -> None:
    train = tree(*(article(f"篇{number}", PLACES[: 4 + number % 3], f"{number}-") for number in range(20)))
    counts = convert({"train": [write(tmp_path, train)]}, tmp_path / "out", valid_share=0.2, test_share=0.1)
    data = read_data(str(tmp_path / "out"))
    total = sum(counts.questions.values())
    assert sum(counts.articles.values()) == 20
    assert 0.2 * total <= counts.questions["valid"] < 0.2 * total + 6
    assert 0.1 * total <= counts.questions["test"] < 0.1 * total + 6
    used = [{index for row in rows for index in row.paragraphs} for rows in (data.train, data.valid, data.test)]
    assert sum(map(len, used)) == len(set().union(*used))
    assert list(counts.questions) == ["train", "valid", "test"]


def test_articles_with_a_paragraph_in_common_go_together(tmp_path: Path) -> None:
    articles = [article(f"篇{number}", PLACES, f"{number}-") for number in range(12)]
    for number in range(0, 12, 2):  # each even article and the next share a paragraph
        shared = {"context": f"兩篇共有，{number}。", "qas": []}
        for one_of_two in (0, 1):
            articles[number + one_of_two]["paragraphs"].append(
                {**shared, "qas": [asking(f"s{number + one_of_two}", "共有", 2)]}
            )
    for seed in range(5):
        counts = convert(
            {"train": [write(tmp_path, tree(*articles))]}, tmp_path / str(seed), valid_share=0.3, seed=seed
        )
        assert counts.shared == 0
        assert counts.articles["valid"] % 2 == 0


def test_test_questions_are_written_without_labels_and_can_be_scored(tmp_path: Path) -> None:
    sources = {"train": [write(tmp_path, TRAIN)], "test": [write(tmp_path, VALID, "t.json")]}
    valid = write(tmp_path, tree(article("河", PLACES, "r")), "v.json")
    convert({**sources, "valid": [valid]}, tmp_path / "out")
    folder = tmp_path / "out"
    rows = json.loads((folder / "test.json").read_text(encoding="utf-8"))
    labels = json.loads((folder / "test_labels.json").read_text(encoding="utf-8"))
    assert [set(row) for row in rows] == [{"id", "question", "paragraphs"}] * 6
    assert [row["id"] for row in rows] == [row["id"] for row in labels]
    assert references(read_data(str(folder)))["i0"] == ["南投縣"]


def test_several_answers_are_kept_with_the_written_one_first(tmp_path: Path) -> None:
    train = copy.deepcopy(TRAIN)
    answers = train["data"][0]["paragraphs"][0]["qas"][0]["answers"]
    answers[:0] = [{"text": "南投", "answer_start": 0}, {"text": "", "answer_start": 0}]
    answers += [{"text": "南投縣", "answer_start": 4}]
    convert({"train": [write(tmp_path, train)], "valid": [write(tmp_path, VALID, "v.json")]}, tmp_path / "out")
    found = references(read_data(str(tmp_path / "out")))
    assert found["m0"] == ["南投縣", "南投"]
    assert found["m1"] == ["嘉義縣"]


def test_every_wrong_option_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    message = mistakes({"vald": []}, tmp_path / "full", "bm52", candidates=9, test_share=1.0)
    assert "unknown split 'vald'; did you mean 'valid'?" in message
    assert "train: no source" in message
    assert "valid: no source; name one, or give it a share of train" in message
    assert "shares of 0% and 100%" in message
    assert "unknown kind of distractors 'bm52'; did you mean 'bm25'?" in message
    assert "candidates: 9; 2 to 8 are expected" in message
    assert "full: already exists and is not empty; name a new folder" in message


def test_a_split_has_one_origin(sources: dict[str, list[str | Path]], tmp_path: Path) -> None:
    assert "valid: has a source and a share" in mistakes(sources, tmp_path / "out", valid_share=0.1)
    assert not (tmp_path / "out").exists()


def test_a_split_that_is_too_small_is_named(sources: dict[str, list[str | Path]], tmp_path: Path) -> None:
    assert "train: 6 paragraphs are too few for 8 candidates" in mistakes(sources, tmp_path / "out", candidates=8)
    path = write(tmp_path, tree(article("山", PLACES, "m")))
    assert "train: no question is left" in mistakes({"train": [path]}, tmp_path / "out", valid_share=0.5)
    assert not (tmp_path / "out").exists()


def test_mistakes_of_all_sources_are_told_at_once(tmp_path: Path) -> None:
    message = mistakes({"train": [tmp_path / "a.json"], "valid": [tmp_path / "b.json"]}, tmp_path / "out")
    assert "a.json: No such file" in message
    assert "b.json: No such file" in message


def test_an_empty_folder_may_be_filled_and_a_full_one_is_left_alone(
    sources: dict[str, list[str | Path]], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    convert(sources, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert "name a new folder" in mistakes(sources, tmp_path / "out", seed=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("nth", range(5))
def test_a_full_disk_leaves_nothing_behind(
    sources: dict[str, list[str | Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    calls = iter(range(99))

    def fsync(_: int) -> None:
        if next(calls) == nth:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    before = set(tmp_path.iterdir())
    with pytest.raises(OSError, match=r"No space left on device: '.*out'$"):
        convert(sources, tmp_path / "out")
    assert set(tmp_path.iterdir()) == before
    assert next(calls) == nth + 1


@pytest.mark.parametrize("command", ["sample --output", "convert --train {train} --valid {valid}"])
def test_a_full_disk_is_the_environments_fault(
    sources: dict[str, list[str | Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def fsync(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    out = tmp_path / "out"
    result = invoke("data", *command.format(train=sources["train"][0], valid=sources["valid"][0]).split(), str(out))
    assert result.exit_code == 4
    assert re.fullmatch(rf"{out}: No space left on device \(.* bytes free\); free disk space .*\n", result.stderr)
    assert not out.exists()


def test_counts_are_told_in_text_and_as_json(sources: dict[str, list[str | Path]], tmp_path: Path) -> None:
    counts = convert(sources, tmp_path / "deep" / "out")
    assert counts.lines()[0] == "train: 6 questions on 6 paragraphs of 2 articles"
    origin = json.loads((tmp_path / "deep" / "out" / "origin.json").read_text(encoding="utf-8"))
    assert ConversionCounts(**origin["counts"]) == counts
    assert origin["sources"]["train"] == ["train.json"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    texts=st.lists(st.text(st.characters(), min_size=1, max_size=12), min_size=6, max_size=20),
    titles=st.lists(st.sampled_from("甲乙丙丁戊"), min_size=20, max_size=20),
    mode=st.sampled_from(["article", "bm25"]),
    seed=st.integers(0, 9),
)
def test_whatever_is_written_can_be_read(
    texts: list[str], titles: list[str], mode: Any, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    rows = [
        {"id": n, "title": title, "context": text, "question": text[::-1], "answers": [text[len(text) // 2 :]]}
        for n, (text, title) in enumerate(zip(texts, titles, strict=False))
    ]
    try:
        counts = convert({"train": [write(folder, rows)]}, folder / "out", mode, 2, seed, valid_share=0.3)
    except DataError:
        assert not (folder / "out").exists()
        return
    data = read_data(str(folder / "out"))
    assert len(data.train) + len(data.valid) == sum(counts.questions.values())
    assert sum(counts.questions.values()) + sum(counts.dropped.values()) == len(rows)
    assert counts.shared == 0


def squad(folder: Path, split: str) -> dict[str, Any]:
    """A real set of the assignment's format, turned back into the tree it was made of."""
    context = json.loads((folder / "context.json").read_text(encoding="utf-8"))
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    articles: dict[str, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in json.loads((folder / f"{split}.json").read_text(encoding="utf-8")):
        answers = [{"text": row["answer"]["text"], "answer_start": row["answer"]["start"]}]
        known = {"id": row["id"], "question": row["question"], "answers": answers}
        articles[meta[row["id"]]["article"]][row["relevant"]].append(known)
    return tree(
        *(
            {"title": title, "paragraphs": [{"context": context[index], "qas": qas} for index, qas in own.items()]}
            for title, own in articles.items()
        )
    )


def test_a_real_set_is_built_again_with_as_many_distractors_of_each_kind(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data/drcd_small"
    splits = {"train": "train", "valid": "valid", "test": "test_labels"}
    sources = {split: [write(tmp_path, squad(folder, name), f"{split}.json")] for split, name in splits.items()}
    counts = convert(sources, tmp_path / "out")
    published = json.loads((folder / "build_info.json").read_text(encoding="utf-8"))
    assert counts.questions == published["counts"]
    assert counts.paragraphs == published["paragraphs"]
    assert counts.articles == published["articles"]
    assert counts.answers == {"exact": 599}
    assert counts.distractors == {kind: published["log"][f"negatives_{kind}"] for kind in ("article", "bm25", "random")}
    ours, theirs = read_data(str(tmp_path / "out")), read_data(str(folder))
    assert {row.id: row.answer for row in ours.train} == {row.id: row.answer for row in theirs.train}

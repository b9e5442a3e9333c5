"""A pickle is a program. One that would leave a mark is put wherever a folder of a model may hold a file: nothing that
loads, resumes, evaluates, promotes or exports runs it, whatever a manifest says.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import checkpoint, get_job
from jobs.answering import answers, evaluation
from jobs.backbone import tokenizers
from jobs.backbone.source import BackboneError
from jobs.dataset.data import Data
from jobs.model import backbones
from sweeper.errors import EnvironmentFailure
from sweeper.release.export import export_team
from sweeper.release.lookup import find_checkpoint
from sweeper.release.teams import Team
from sweeper.storage.settings import read_stores
from tests.support.spaces import EPOCH, SMALL

RESUMED = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
NAMES = (
    *RESUMED,
    "training_args.bin",
    "scaler.pt",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.pt",
    "model.pkl",
    "adapter_model.bin",
    "tokenizer.pkl",
    "vocab.pkl",
    "vocab.bin",
    "spiece.model",
    "predictions.pkl",
)


@dataclass(frozen=True)
class Program:
    """Makes a folder when it is unpickled."""

    mark: Path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.mark),)


def plant(folder: Path, mark: Path, names: tuple[str, ...] = NAMES, zipped: bool = True) -> None:
    """The program as the file of each name, as PyTorch writes it or bare; a manifest that vouches for it."""
    for name in names:
        if zipped:
            torch.save({"state": Program(mark)}, folder / name)
        else:
            (folder / name).write_bytes(pickle.dumps(Program(mark), protocol=2))
    forge(folder)


def forge(folder: Path) -> None:
    """Make the manifest agree with what is there."""
    files = [path for path in sorted(folder.iterdir()) if path.name != checkpoint.MANIFEST]
    checkpoint.write_json(folder / checkpoint.MANIFEST, {path.name: checkpoint._describe(path) for path in files})


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


@pytest.fixture
def trained(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a reader's checkpoint, in a trial's folder."""
    return Path(shutil.copytree(checkpoints["qa"], tmp_path / "trials" / "0000" / checkpoints["qa"].name))


class Begun(Exception):
    """Ends a training after its first epoch."""


@pytest.fixture(scope="module")
def first_epoch(few: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a reader that another epoch follows."""
    made: list[Path] = []

    def report(metrics: dict[str, float], checkpoint: Path | None = None) -> None:
        assert checkpoint is not None
        made.append(checkpoint)
        raise Begun

    with pytest.raises(Begun):
        get_job("qa").train(params_of_two_epochs(), few.location, tmp_path_factory.mktemp("begun"), report)
    return made[0]


@pytest.fixture
def begun(first_epoch: Path, tmp_path: Path) -> Path:
    """A copy of a reader's checkpoint to resume from, in a trial's folder."""
    return Path(shutil.copytree(first_epoch, tmp_path / "trials" / "0000" / first_epoch.name))


@pytest.mark.parametrize("zipped", [True, False])
def test_the_program_would_leave_its_mark(tmp_path: Path, mark: Path, zipped: bool) -> None:
    plant(tmp_path, mark, ("optimizer.pt",), zipped)
    if zipped:
        torch.load(tmp_path / "optimizer.pt", weights_only=False)
    else:
        pickle.loads((tmp_path / "optimizer.pt").read_bytes())
    assert mark.is_dir()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_backbone_is_loaded_past_them(trained: Path, mark: Path, zipped: bool) -> None:
    plant(trained, mark, zipped=zipped)
    for load in (backbones.fetch_backbone, backbones.weight_bytes):
        load(str(trained))
    tokenizer = tokenizers.load_tokenizer(str(trained), ())
    backbones.load_model(str(trained), "AutoModelForQuestionAnswering", tokenizer, 64)
    assert not mark.exists()
    (trained / "model.safetensors").unlink()
    with pytest.raises(BackboneError):
        backbones.load_model(str(trained), "AutoModelForQuestionAnswering", tokenizer, 64)
    with pytest.raises(BackboneError, match="holds no"):
        backbones.fetch_backbone(str(trained))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "vocab.txt", "tokenizer_config.json"])
def test_one_in_the_place_of_a_text_is_an_error(trained: Path, mark: Path, name: str) -> None:
    (trained / "tokenizer.json").unlink()
    plant(trained, mark, (name,), zipped=False)
    with pytest.raises(BackboneError):
        backbones.load_model(str(trained), "AutoModel", tokenizers.load_tokenizer(str(trained), ()), 64)
    assert not mark.exists()


def params_of_two_epochs() -> Any:
    return get_job("qa").params(**{**EPOCH, "num_train_epochs": 2}, **SMALL["qa"])


def resume(folder: Path, few: Data) -> None:
    get_job("qa").train(params_of_two_epochs(), few.location, folder.parent, lambda metrics, checkpoint: None, folder)


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("zipped", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_training_does_not_go_on_from_one_that_the_manifest_vouches_for(
    begun: Path, mark: Path, few: Data, name: str, zipped: bool
) -> None:
    plant(begun, mark, (name,), zipped)
    assert checkpoint.damage(begun) is None
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        resume(begun, few)
    assert not mark.exists()


def test_training_goes_on_past_what_it_does_not_need(begun: Path, mark: Path, few: Data) -> None:
    plant(begun, mark, tuple(name for name in NAMES if name not in RESUMED and name != "scaler.pt"))
    resume(begun, few)
    assert not mark.exists()


def test_one_that_the_manifest_does_not_know_is_damage(begun: Path, mark: Path) -> None:
    manifest = (begun / checkpoint.MANIFEST).read_text(encoding="utf-8")
    plant(begun, mark, RESUMED)
    (begun / checkpoint.MANIFEST).write_text(manifest, encoding="utf-8")
    assert checkpoint.damage(begun)
    with pytest.raises(EnvironmentFailure, match="changed since it was written"):
        find_checkpoint(str(begun), read_stores(begun.parent, {}))
    assert not mark.exists()


def test_a_checkpoint_answers_and_is_judged_past_them(trained: Path, mark: Path, few: Data, tmp_path: Path) -> None:
    plant(trained, mark)
    exam = evaluation.exam(few, "valid", "strict")
    models = evaluation.load_models(
        {"qa": find_checkpoint(str(trained), read_stores(tmp_path, {}))}, tmp_path / "features"
    )
    assert list(evaluation.evaluate_systems(exam, models))
    assert not mark.exists()


def test_neither_champions_nor_exports_hold_one(
    trained: Path, checkpoints: dict[str, Path], mark: Path, tmp_path: Path
) -> None:
    plant(trained, mark, (*RESUMED, "training_args.bin", "pytorch_model.bin", "model.pkl"))
    copy = checkpoint.copy_answering_part(trained, tmp_path / "champions" / "qa")
    export_team(Team(checkpoints["mc"], (trained,)), tmp_path / "bundle", read_stores(tmp_path, {}), 0.5)
    left = [path for top in (copy, tmp_path / "bundle") for path in top.rglob("*") if path.is_file()]
    assert left
    assert [path for path in left if b"mkdir" in path.read_bytes() and path.suffix != ".py"] == []
    assert answers.load_answering_model(copy, "qa", tmp_path / "features")
    assert not mark.exists()


@pytest.mark.parametrize("escape", ["../../escaped", "/escaped", "inner/../../escaped"])
def test_a_manifest_names_no_file_elsewhere(trained: Path, tmp_path: Path, escape: str) -> None:
    """Else a copy of the checkpoint would write beside its own folder."""
    outside = tmp_path / "outside"
    outside.write_text("secret")
    name = str(outside) if escape.startswith("/") else escape
    manifest = json.loads((trained / checkpoint.MANIFEST).read_text(encoding="utf-8"))
    checkpoint.write_json(trained / checkpoint.MANIFEST, {**manifest, name: checkpoint._describe(outside)})
    assert "not a regular file" in (checkpoint.damage(trained) or "")


def test_a_link_in_a_checkpoint_is_damage(trained: Path, tmp_path: Path) -> None:
    """Else what it leads to would be copied into an export."""
    outside = tmp_path / "outside"
    outside.write_text("secret")
    (trained / "notes.json").symlink_to(outside)
    forge(trained)
    assert "not a regular file" in (checkpoint.damage(trained) or "")


def test_features_are_read_without_unpickling(tmp_path: Path, mark: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array([Program(mark)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        np.load(tmp_path / "ids.npy", mmap_mode="r")
    assert not mark.exists()

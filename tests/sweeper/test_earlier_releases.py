"""Use a ledger and a champion that an earlier release has written: resume, extend, replace.

`test_database.py` opens the same ledgers. A release adds its own files to tests/ledgers and tests/champions.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from optuna.storages import RDBStorage

from jobs.qa import QaParams
from sweeper.driver.extending import imported_trials
from sweeper.driver.opening import open_ledger, resumed_space, with_recorded_data, with_recorded_precision
from sweeper.errors import ConfigError
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, create_ledger, load_ledger
from sweeper.ledger.lookup import Trial
from sweeper.ledger.record import trial_key
from sweeper.release.champions import champion
from sweeper.release.promotion import promote
from sweeper.space.domains import Branch, Constant
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace, grid, params_of
from sweeper.storage.settings import Stores, read_stores
from tests.support.drivers import driven
from tests.support.sources import ROOT
from tests.support.spaces import TOY
from tests.support.trials import asked, saved

LEDGERS = sorted((ROOT / "tests/ledgers").glob("*.sql"))
CHAMPIONS = sorted((ROOT / "tests/champions").glob("*.json"))


@pytest.fixture(params=LEDGERS, ids=lambda path: path.stem)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a working folder with a ledger of three finished trials out of five, one running, and a running repeat."""
    stores = read_stores(tmp_path, {})
    stores.root.mkdir(mode=0o700)
    with contextlib.closing(sqlite3.connect(stores.root / "ledger.db")) as database:
        database.executescript(request.param.read_text(encoding="utf-8"))
    (tmp_path / "toy.yaml").write_text(TOY, encoding="utf-8")
    return tmp_path


def test_its_fingerprint_and_its_keys_stay(folder: Path) -> None:
    """The data had another fingerprint by the definition of that time."""
    ledger = load_ledger(open_storage(read_stores(folder, {}).ledger), "toy")
    recorded, keys = ledger.attributes["data_fingerprint"], [record.key for record in ledger.records()]
    now = read_search_space(folder / "toy.yaml")
    assert now.data_fingerprint != recorded
    for space in (resumed_space(ledger), with_recorded_data(ledger, now)):
        assert space.data_fingerprint == recorded
    assert keys[0] == trial_key("tests.toy:JOB", ledger.records()[0].params, recorded)
    later = asked(ledger, with_recorded_data(ledger, now))
    assert later.key == trial_key("tests.toy:JOB", later.params, recorded)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_its_sweep_is_resumed(folder: Path) -> None:
    driven(folder, "resume", "toy")
    records = load_ledger(open_storage(read_stores(folder, {}).ledger), "toy").records()
    assert [record.state for record in records[:5]] == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE", "COMPLETE"]
    assert records[0].value == 0.4
    assert sum(record.repeat_of is None for record in records) == 5
    assert {record.state for record in records} <= {"COMPLETE", "PRUNED", "FAIL"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_its_sweep_is_extended(folder: Path) -> None:
    stores = read_stores(folder, {})
    with contextlib.closing(sqlite3.connect(stores.root / "ledger.db")) as database, database:
        # the toy has two parameters more since
        since = "json_set(value_json, '$.per_device_train_batch_size', 8, '$.pace', 0.0)"
        database.execute(f"UPDATE trial_user_attributes SET value_json = {since} WHERE key = 'params'")
    driven(folder, "run", "toy.yaml", "search.trials=4", "parameters.learning_rate.min=1e-6", "--extend")
    records = load_ledger(open_storage(stores.ledger), "toy-2").records()
    assert [record.origin for record in records] == ["toy/0", "toy/1", None, None]
    assert [record.state for record in records[2:]] == ["COMPLETE"] * 2


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("file", CHAMPIONS, ids=lambda path: path.stem)
def test_its_champion_is_found_and_replaced_by_a_better_trial(
    file: Path, stores: Stores, storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    written = json.loads(file.read_text(encoding="utf-8"))
    place = stores.root / "champions" / written["tags"]["folder"]
    place.mkdir(parents=True, mode=0o700)
    for name, content in written["files"].items():
        (place / name).write_text(content, encoding="utf-8")
    client = MlflowClient(stores.tracking)
    client.create_registered_model(written["model"])
    version = client.create_model_version(written["model"], place.as_uri(), tags=written["tags"])
    client.set_registered_model_alias(written["model"], "champion", version.version)
    assert champion("toy", stores) == place

    space = toy_space()
    ledger, trials = create_ledger(storage, space, "later"), []
    for height in (0.4, 0.6):
        number = asked(ledger, space).number
        metrics = {"height": height, "eval_loss": 0.1, "epoch": 1.0, "seconds": 1.0}
        ledger.report(number, metrics, str(saved(tmp_path / f"later-{number}", 1)))
        trials.append(Trial(ledger, ledger.finish(number, "COMPLETE")))
    worse, better = (promote(trial, stores) for trial in trials)
    assert (worse.promoted, worse.version) == (False, 1)
    assert (better.promoted, better.version, better.previous and better.previous.trial) == (True, 2, "toy/0")
    assert champion("toy", stores) != place


def test_there_is_a_champion_of_each_release_that_has_a_ledger() -> None:
    assert [path.stem for path in CHAMPIONS] == [path.stem for path in LEDGERS] != []


QA_LEDGERS = sorted((ROOT / "tests/ledgers/qa").glob("*.sql"))
QA_TINY = """
name: qa_tiny
job: qa
data: sample
objective: exact_match
parameters:
  backbone: scratch:1x32x2
  learning_rate: {values: [1e-3, 2e-3, 4e-3]}
  num_train_epochs: 1
  max_length: 64
  doc_stride: 16
search: {sampler: grid, enqueue: [{learning_rate: 3e-3, bf16: true}]}
"""


@pytest.fixture(params=QA_LEDGERS, ids=lambda path: path.stem)
def qa_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    """Return a ledger with a grid of two learning rates and an enqueued trial with `bf16: true`, all finished.

    Its file set per_device_train_batch_size to 2.
    """
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as database:
        database.executescript(request.param.read_text(encoding="utf-8"))
    return load_ledger(open_storage(f"sqlite:///{tmp_path}/ledger.db"), "qa_tiny")


@pytest.fixture
def qa_space(tmp_path: Path) -> Callable[..., SearchSpace]:
    def make(text: str = QA_TINY, *overrides: str) -> SearchSpace:
        (tmp_path / "qa_tiny.yaml").write_text(text, encoding="utf-8")
        return read_search_space(tmp_path / "qa_tiny.yaml", list(overrides))

    return make


def test_parameters_that_are_new_since_change_no_key(qa_ledger: Ledger) -> None:
    for record in qa_ledger.records():
        params = asdict(QaParams(**record.params))
        assert set(params) > set(record.params)
        assert trial_key("qa", params, qa_ledger.attributes["data_fingerprint"]) == record.key


def test_another_value_of_a_new_parameter_changes_the_key(qa_ledger: Ledger) -> None:
    first, *_ = qa_ledger.records()
    others = [{}, {"precision": "fp32", "bf16": None}, {"optim": "adamw_torch"}, {"torch_compile": True}]
    others += [{"gradient_checkpointing": True}, {"per_device_train_batch_size": "auto"}, {"bf16": True}]
    params = {**asdict(QaParams(**first.params)), "bf16": None}
    keys = [trial_key("qa", {**params, **other}, "f") for other in others]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("sizes", [(), ("parameters.per_device_train_batch_size=4",)])
def test_a_larger_grid_adopts_them_whatever_their_batch_size(
    qa_ledger: Ledger, qa_space: Callable[..., SearchSpace], tmp_path: Path, sizes: tuple[str, ...]
) -> None:
    space = with_recorded_data(qa_ledger, qa_space(QA_TINY, *sizes))
    adopted = imported_trials(qa_ledger, space, lambda number: tmp_path / str(number))
    ledger = create_ledger(qa_ledger.storage, space, "qa_tiny-2", adopted=adopted)
    new = [record.params["learning_rate"] for record in iter(lambda: ledger.ask(space), None)]
    assert (len(adopted), new) == (3, [4e-3])
    first, *_ = ledger.records()
    assert (first.params["bf16"], first.origin) == (True, "qa_tiny/0")


NEW = ["precision={values: [auto, fp32]}", "torch_compile={values: [true, false]}"]
NEW += ["gradient_checkpointing={values: [true, false]}", "optim={values: [adafactor, adamw_torch_fused]}"]


@pytest.mark.parametrize("override", NEW)
def test_a_space_that_searches_a_new_parameter_adopts_them_with_its_default(
    qa_ledger: Ledger, qa_space: Callable[..., SearchSpace], tmp_path: Path, override: str
) -> None:
    text = QA_TINY.replace(", enqueue: [{learning_rate: 3e-3, bf16: true}]", "").replace(", 4e-3", "")
    space = with_recorded_data(qa_ledger, qa_space(text, f"parameters.{override}"))
    adopted = imported_trials(qa_ledger, space, lambda number: tmp_path / str(number))
    ledger = create_ledger(qa_ledger.storage, space, "qa_tiny-2", adopted=adopted)
    name, default = override.split("=")[0], asdict(QaParams())[override.split("=")[0]]
    drawn = [record.params[name] for record in iter(lambda: ledger.ask(space), None)]
    assert [record.params[name] for record in ledger.records()[:2]] == [default] * 2
    assert len(drawn) == 2
    assert default not in drawn


@pytest.mark.parametrize("sizes", [("2",), ("4",), ("4", "2")])
def test_an_adopted_trial_that_is_enqueued_with_a_batch_size_is_not_run_again(
    qa_ledger: Ledger, qa_space: Callable[..., SearchSpace], tmp_path: Path, sizes: tuple[str, ...]
) -> None:
    each = (f"{{learning_rate: 3e-3, bf16: true, per_device_train_batch_size: {size}}}" for size in sizes)
    space = qa_space(QA_TINY.replace("{learning_rate: 3e-3, bf16: true}", ", ".join(each)))
    space = with_recorded_data(qa_ledger, space)
    adopted = imported_trials(qa_ledger, space, lambda number: tmp_path / str(number))
    ledger = create_ledger(qa_ledger.storage, space, "qa_tiny-2", adopted=adopted)
    new = [record.params["learning_rate"] for record in iter(lambda: ledger.ask(space), None)]
    assert (len(adopted), new) == (3, [*([3e-3] * (len(sizes) - 1)), 4e-3])
    assert ledger.records()[0].params["per_device_train_batch_size"] == int(sizes[-1])


def test_adopted_trials_have_the_parameters_that_other_branches_search(
    qa_ledger: Ledger, qa_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    """Tables and plots show the searched parameters of all trials."""
    backbones = "parameters.backbone={values: ['scratch:1x32x2', 'scratch:2x32x2']}"
    precision = "parameters.precision=[{when: {backbone: 'scratch:2x32x2'}, values: [fp32, auto]}]"
    space = with_recorded_data(qa_ledger, qa_space(QA_TINY, backbones, precision))
    adopted = imported_trials(qa_ledger, space, lambda number: tmp_path / str(number))
    ledger = create_ledger(qa_ledger.storage, space, "qa_tiny-2", adopted=adopted)
    assert [record.params["precision"] for record in ledger.records()] == ["auto"] * 3
    assert [record.key for record in ledger.records()] == [
        trial_key("qa", {**record.params, "per_device_train_batch_size": 8}, space.data_fingerprint)
        for record in qa_ledger.records()
    ]


def test_a_grid_over_batch_sizes_adopts_the_size_that_was_used(
    qa_ledger: Ledger, qa_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    space = qa_space(QA_TINY, "parameters.per_device_train_batch_size={values: [2, 4]}")
    adopted = imported_trials(qa_ledger, with_recorded_data(qa_ledger, space), lambda number: tmp_path / str(number))
    assert [trial.user_attrs["params"]["per_device_train_batch_size"] for trial in adopted] == [2, 2, 2]


def test_another_constant_batch_size_does_not_make_another_sweep(
    qa_ledger: Ledger, qa_space: Callable[..., SearchSpace]
) -> None:
    for override in ("per_device_train_batch_size=4", "per_device_eval_batch_size=1", "gradient_checkpointing=true"):
        space = qa_space(QA_TINY.replace(", 4e-3", ""), f"parameters.{override}")
        assert open_ledger(qa_ledger.storage, space, "qa_tiny").name == "qa_tiny"
    searched = qa_space(QA_TINY.replace(", 4e-3", ""), "parameters.per_device_train_batch_size={values: [1, 2]}")
    with pytest.raises(ConfigError, match="per_device_train_batch_size"):
        open_ledger(qa_ledger.storage, searched, "qa_tiny")


def test_its_new_trials_have_the_precision_it_began_with(
    qa_ledger: Ledger, qa_space: Callable[..., SearchSpace]
) -> None:
    """Earlier versions trained in fp32 by default; now the device decides."""
    space = with_recorded_precision(qa_ledger, resumed_space(qa_ledger))
    assert space.parameters["bf16"][0].domain == Constant(False)
    begun_now = create_ledger(qa_ledger.storage, qa_space(), "now")
    assert "bf16" not in with_recorded_precision(begun_now, qa_space()).parameters
    named = replace(space, parameters={"precision": (Branch({}, Constant("tf32")),)})
    assert with_recorded_precision(qa_ledger, named) is named


def test_conditions_on_a_default_that_has_changed_hold_as_before(
    qa_ledger: Ledger,
) -> None:
    """A branch that no longer matched would leave its parameter at the default."""
    stored = dict(qa_ledger.attributes["search_space"])
    stored["parameters"] = {
        "backbone": {"values": ["scratch:1x32x2", "scratch:2x32x2"]},
        "bf16": [{"when": {"backbone": "scratch:2x32x2"}, "value": True}],
        "max_length": [{"when": {"bf16": "false"}, "value": 64}, {"when": {"bf16": "true"}, "value": 96}],
        "doc_stride": [{"when": {"per_device_train_batch_size": "8"}, "value": 8}, {"value": 16}],
    }
    qa_ledger.set_attribute("search_space", stored)
    ledger = load_ledger(qa_ledger.storage, "qa_tiny")
    space = with_recorded_precision(ledger, resumed_space(ledger))
    drawn = [params_of(space, one) for one in grid(space)]
    assert [(one.bf16, one.max_length, one.doc_stride) for one in drawn] == [(False, 64, 8), (True, 96, 8)]
    assert {one.per_device_train_batch_size for one in drawn} == {8}
    assert {one.per_device_eval_batch_size for one in drawn} == {"auto"}

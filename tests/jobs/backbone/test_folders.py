from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from jobs.backbone.folders import parameter_count, problem_of_files, read_config
from jobs.backbone.positions import position_limit
from jobs.backbone.source import BackboneError
from jobs.job import ParamError
from jobs.model import backbones
from jobs.qa import QaParams
from tests.support.zoo import build

Break = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(build("bert", tmp_path_factory.mktemp("whole")))


@pytest.fixture
def saved(whole: Path, tmp_path: Path) -> Path:
    """A whole small backbone in a folder, as a user would have one."""
    return shutil.copytree(whole, tmp_path / "saved")


@pytest.fixture(autouse=True)
def _no_endless_file_is_read() -> Iterator[None]:
    """Ends the test instead of the machine: reading /dev/zero takes all memory."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**34, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def replace(name: str, make: Break) -> Break:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def changed(**values: object) -> Break:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def a_large_file(file: Path) -> None:
    with file.open("wb") as handle:
        handle.truncate(2**40)


def a_socket(file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(file.name)
    finally:
        os.chdir(here)


def cut(file: str, size: int) -> Break:
    return lambda folder: os.truncate(folder / file, size)


WRONG: dict[str, tuple[Break, str]] = {
    "a link to a device": (
        replace("config.json", lambda file: file.symlink_to("/dev/zero")),
        "config.json is a device and not a regular file; replace it with the file itself",
    ),
    "a pipe": (replace("config.json", os.mkfifo), "config.json is a pipe"),
    "a socket": (replace("config.json", a_socket), "config.json is a socket"),
    "a tokenizer that is a device": (
        replace("tokenizer.json", lambda file: file.symlink_to("/dev/urandom")),
        "tokenizer.json is a device",
    ),
    "a tokenizer that is a pipe": (replace("tokenizer_config.json", os.mkfifo), "tokenizer_config.json is a pipe"),
    "weights that are a pipe": (replace("model.safetensors", os.mkfifo), "model.safetensors is a pipe"),
    "a config of a terabyte": (
        replace("config.json", a_large_file),
        "config.json has 1,099,511,627,776 bytes, and at most 10,485,760 are read",
    ),
    "a tokenizer of a terabyte": (replace("tokenizer.json", a_large_file), "tokenizer.json has 1,099,511,627,776"),
    "nested without end": (
        replace("config.json", lambda file: file.write_text("[" * 10**6)),
        "config.json is nested too deeply",
    ),
    "a list": (replace("config.json", lambda file: file.write_text("[]")), "config.json holds no JSON object"),
    "no JSON": (replace("config.json", lambda file: file.write_text("{")), "config.json is not a valid JSON file"),
    "10^9 layers": (
        changed(num_hidden_layers=10**9),
        "its config.json asks for num_hidden_layers 1000000000, and no model has more than 1,000; correct it",
    ),
    "10^7 hidden": (changed(hidden_size=10**7), "asks for hidden_size 10000000"),
    "10^12 pieces": (changed(vocab_size=10**12), "asks for vocab_size 1000000000000"),
    "10^12 positions": (changed(max_position_embeddings=10**12), "asks for max_position_embeddings"),
    "10^6 heads": (changed(num_attention_heads=10**6), "asks for num_attention_heads"),
    "a float": (changed(intermediate_size=1e300), "asks for intermediate_size 1e+300"),
    "within": (changed(text_config={"n_layer": 10**6}), "asks for n_layer 1000000"),
    "in a list": (changed(block_sizes=[1, 10**6]), "asks for block_sizes 1000000"),
    "weights that are cut off": (cut("model.safetensors", 3_000), "model.safetensors is cut off: it has 3,000 bytes"),
    "half a header": (cut("model.safetensors", 40), "model.safetensors is not a safetensors file"),
    "no weights": (cut("model.safetensors", 0), "model.safetensors is not a safetensors file"),
    "a pointer to weights": (
        lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "model.safetensors is not a safetensors file: its header cannot be read; copy or download it again",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_files_that_cannot_be_read_are_refused_in_one_line(saved: Path, case: str) -> None:
    change, told = WRONG[case]
    assert problem_of_files(saved) is None
    change(saved)
    with pytest.raises(BackboneError) as caught:
        backbones.fetch_backbone(str(saved))
    message = str(caught.value)
    assert message.startswith(f"{saved}: ")
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize("case", ["a link to a device", "a pipe", "10^9 layers", "nested without end"])
def test_parameters_do_not_read_such_a_config(saved: Path, case: str) -> None:
    WRONG[case][0](saved)
    assert position_limit(str(saved)) == (512 if case == "10^9 layers" else None)
    assert QaParams(backbone=str(saved), max_length=64, doc_stride=8)
    with pytest.raises(ParamError, match="no such folder"):
        QaParams(backbone=f"{saved}/none", max_length=64, doc_stride=8)


def test_a_file_that_transformers_does_not_read_may_be_anything(saved: Path) -> None:
    os.mkfifo(saved / "progress")
    (saved / "notes.txt").symlink_to(saved / "none")
    a_large_file(saved / "predictions.json")
    (saved / "adapter.safetensors").write_text("")
    (saved / "logs.json").mkdir()
    assert problem_of_files(saved) is None


def test_links_to_files_are_read_as_in_the_cache_of_the_hub(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for file in saved.iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    assert problem_of_files(folder) is None
    assert parameter_count(folder) == parameter_count(saved)


# Sizes of the largest or longest models that are known: Llama 4, DeepSeek-V3, XLM-V, LongT5, Gemma 3n, Bloom.
KNOWN = {
    "max_position_embeddings": 10_485_760,
    "num_hidden_layers": 126,
    "hidden_size": 18_432,
    "intermediate_size": 73_728,
    "num_attention_heads": 128,
    "n_routed_experts": 256,
    "vocab_size": 901_629,
    "vocab_size_per_layer_input": 262_144,
    "sliding_window": 131_072,
    "rope_theta": 500_000_000.0,
    "bos_token_id": 128_000,
    "layer_norm_eps": 1e-12,
    "max_relative_positions": -1,
    "type_vocab_size": 0,
    "model_max_length": 10**30,
    "use_cache": True,
    "num_buckets": [64, 128],
}


def test_sizes_of_known_models_are_no_mistake(saved: Path) -> None:
    changed(**KNOWN)(saved)
    assert problem_of_files(saved) is None


VALUES = st.none() | st.integers() | st.floats() | st.text() | st.lists(st.integers())


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=9) | st.sampled_from(list(KNOWN)), VALUES))
def test_any_config_is_read_or_refused(tmp_path: Path, values: dict[str, object]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values))
    problem = problem_of_files(tmp_path)
    assert problem is None or "\n" not in problem
    assert read_config(tmp_path / "config.json").keys() == values.keys()


def test_an_adapter_is_refused_and_not_left_out(saved: Path) -> None:
    (saved / "adapter_config.json").write_text("{}")
    assert "merge it into its model" in str(problem_of_files(saved))
    assert problem_of_files(saved, weights=False) is None  # its tokenizer can be used
    (saved / "config.json").unlink()
    with pytest.raises(BackboneError, match="holds an adapter"):
        backbones.fetch_backbone(str(saved))


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantized_weights_are_refused_and_not_read_as_they_are(saved: Path, kind: torch.dtype) -> None:
    store(saved, kind)
    assert "has quantized weights (embeddings.LayerNorm.weight is" in str(problem_of_files(saved))
    assert problem_of_files(saved, weights=False) is None


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_floating_type_are_taken(saved: Path, kind: torch.dtype) -> None:
    store(saved, kind)
    assert problem_of_files(saved) is None


def store(folder: Path, kind: torch.dtype) -> None:
    """Write the weights of a folder as numbers of this type, and whole numbers of positions as old files have them."""
    file = folder / "model.safetensors"
    weights = {name: value.to(kind) for name, value in load_file(file).items()}
    save_file({**weights, "embeddings.position_ids": torch.arange(512)}, file, {"format": "pt"})

"""Load the files of a backbone from the hub's cache or a local folder. Code from the hub is never run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

from jobs.backbone.folders import problem_of_files, read_config
from jobs.backbone.names import is_path
from jobs.backbone.random_weights import random_model
from jobs.suggestions import nearest, short

NOT_HERE = "is not in the local model cache"
Weights = Literal["real", "none", "few", "random"]
_weights: ContextVar[Weights] = ContextVar("_weights", default="real")


class BackboneError(RuntimeError):
    """Reports a backbone that cannot be loaded or does not fit, in one line: state, cause, cure."""


def config_file(name: str) -> Path | None:
    if name.startswith("scratch:"):
        return None
    if is_path(name):
        return Path(name).expanduser() / "config.json"
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found) if isinstance(found, str) else None


def backbone_is_here(name: str) -> bool:
    """Return True if a backbone with its weights is on this machine. Never uses the network."""
    scratch, _, tokenizer = name.partition("@") if name.startswith("scratch:") else ("", "", name)
    if not tokenizer or is_path(tokenizer):
        return bool(tokenizer)
    file = config_file(tokenizer)
    return file is not None and (bool(scratch) or any(file.parent.glob("*.safetensors")))


def check_files(name: str, weights: bool = True) -> None:
    """Verify the files of a backbone that is on this machine. Raises BackboneError if they cannot be read."""
    file = config_file(name)
    if file and file.parent.is_dir() and (problem := problem_of_files(file.parent, weights)):
        raise BackboneError(f"{name}: {problem}")


@contextmanager
def weights_instead(kind: Weights) -> Iterator[None]:
    """Within the block, `from_pretrained` returns models without reading their weights.

    none    compares names and shapes of the weights with the model's; the model cannot compute
    few     random weights for the first layers alone
    random  random weights for all layers
    """
    before = _weights.set(kind)
    try:
        yield
    finally:
        _weights.reset(before)


def from_pretrained(auto_class: Any, name: str, **options: Any) -> Any:
    """Verify the files of a backbone, call `from_pretrained`, and turn its errors into a BackboneError of one line."""
    check_files(name, weights="use_safetensors" in options)
    source = str(Path(name).expanduser()) if is_path(name) else name
    try:
        if "use_safetensors" in options:
            return _model(auto_class, source, _weights.get(), **options)
        return auto_class.from_pretrained(source, trust_remote_code=False, **options)
    except RuntimeError as error:
        raise BackboneError(
            f"{name}: its weights do not fit the model in its config.json; choose another backbone"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # transformers and tokenizers raise errors of any class for a wrong file
        raise BackboneError(f"{name}: {describe_failure(source, error)}") from error


def _model(auto_class: Any, source: str, weights: Weights, **options: Any) -> Any:
    if weights in ("few", "random"):
        return random_model(auto_class, source, weights == "random", **options)
    place = {"device_map": "meta"} if weights == "none" else {}
    return auto_class.from_pretrained(source, trust_remote_code=False, **options, **place)


def describe_failure(source: str, error: Exception) -> str:
    first = first_line(error)
    if Path(source).is_dir():
        return _folder_failure(Path(source), first)
    unread = "cannot be loaded with `safetensors`" in first  # transformers would have the caller read pickles
    if _offline(error) or (unread and not _has_no_safetensors(source)):
        return (
            f"{NOT_HERE} and the hub cannot be reached; download it on a machine with a network, or name a local folder"
        )
    if unread:
        return "holds no *.safetensors on the hub; save its weights with a current transformers, and name that folder"
    return f"cannot be loaded from the hub: {first}"


def _folder_failure(folder: Path, first: str) -> str:
    """Return the cause and the cure for a folder, given the first line of an error of transformers 5.24."""
    if "no file named model.safetensors" in first:
        return "holds no *.safetensors; save the weights again with a current transformers"
    if "Unrecognized model" in first and not (folder / "config.json").is_file():
        return "holds no config.json; copy it and the *.safetensors of the model into the folder"
    if "does not recognize this architecture" in first:
        return _unknown_type(read_config(folder / "config.json").get("model_type"))
    return f"cannot be loaded from this folder: {first}"


def _unknown_type(kind: Any) -> str:
    from transformers import CONFIG_MAPPING

    near = nearest(str(kind), CONFIG_MAPPING)
    hint = f"did you mean {near!r}? " if near else ""
    return (
        f"its config.json names the model type {short(str(kind))!r}, which transformers does not know; {hint}"
        "correct it, or choose another backbone"
    )


def _has_no_safetensors(name: str) -> bool:
    """Return True if the hub has said that a backbone has no *.safetensors, or its pickled weights were downloaded."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    pickled = try_to_load_from_cache(name, "pytorch_model.bin")
    return isinstance(pickled, str) or try_to_load_from_cache(name, "model.safetensors") is _CACHED_NO_EXIST


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, behind the name of its class if the message alone is unclear."""
    text = next(iter(str(error).strip().splitlines()), "")
    clear = text and (isinstance(error, OSError | ValueError | ImportError) or type(error) is Exception)
    return text if clear else f"{type(error).__name__}{': ' if text else ''}{text}"


def _offline(error: BaseException) -> bool:
    chain: Sequence[BaseException | None] = (error, error.__cause__, error.__context__)
    words = ("offline", "connect", "couldn't find them in the cached files", "Max retries", "resolve")
    return any(word.lower() in str(link).lower() for link in chain if link for word in words)

"""Verify the files of a backbone's folder before anything else reads them. Standard library only.

A file may be a link to a device that never ends, a pipe that nobody writes to, or cut off. A config.json may ask for
more layers than any memory holds.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CONFIG_BYTES = 10 * 2**20  # most bytes of a config.json; real ones have a few thousand
TOKENIZER_BYTES = 200 * 2**20  # most bytes of a tokenizer's file; the largest known one has 60 MB
HEADER_BYTES = 100_000_000  # the longest header of the safetensors format
READ_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja", ".safetensors"})  # what transformers reads of a folder
TOKENIZER_NAMES = re.compile(r"(tokenizer|vocab|merges|spiece|sentencepiece|special_tokens|added_tokens).*|.*\.model")
WEIGHTS_NAMES = re.compile(r"model.*\.safetensors")
ADAPTER = "adapter_config.json"  # peft's
QUANTIZED = re.compile(r"[IU]|F[48]_")  # types of numbers in safetensors that weights have for use alone
IRREGULAR = {
    "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
    "a pipe": stat.S_ISFIFO,
    "a socket": stat.S_ISSOCK,
}
MAX_NESTED = 4  # levels of objects in a config.json that hold sizes of a model

# Patterns of names in a config.json, and the largest number that such a value may be: ten or more times what any known
# model has. The first pattern that fits a name counts.
LARGEST = (
    (re.compile(r"vocab"), 10_000_000),
    (re.compile(r"layers?(?!.*(size|dim))|block_sizes|groups$"), 1_000),
    (re.compile(r"heads?$|experts$"), 10_000),
    (re.compile(r"position"), 100_000_000),
    (re.compile(r"(_size|_dim|_dims|_embd|_inner|_buckets|_window|_labels)$|^(dim|d_.*|n_ctx)$"), 1_000_000),
)


def problem_of_files(folder: Path, weights: bool = True) -> str | None:
    """Return why a backbone's folder cannot be read, with the cure, in one line; None if nothing speaks against it.

    Reads config.json and, with `weights`, the headers of the files of weights.
    """
    files = [file for file in sorted(folder.iterdir()) if file.suffix in READ_SUFFIXES]
    if problem := next(filter(None, map(_file_problem, files)), None):
        return problem
    try:
        config = read_config(folder / "config.json")
    except FileNotFoundError:
        config = {}
        weights = weights or (folder / ADAPTER).is_file()
    except ValueError as error:
        return f"{error}; save the model again"
    if weights and (folder / ADAPTER).is_file():
        return (
            f"holds an adapter ({ADAPTER}), which is not read; merge it into its model (merge_and_unload of peft) and "
            f"save that, or remove {ADAPTER} if it is merged already"
        )
    if problem := next(_number_problems(config), None):
        return f"its config.json asks for {problem}; correct it"
    wanted = [file for file in files if weights and WEIGHTS_NAMES.fullmatch(file.name)]
    return next(filter(None, map(_weights_problem, wanted)), None)


def _file_problem(file: Path) -> str | None:
    try:
        found = file.stat()
    except OSError:  # a broken link counts as no file
        return None
    if kind := next((kind for kind, is_kind in IRREGULAR.items() if is_kind(found.st_mode)), None):
        return f"{file.name} is {kind} and not a regular file; replace it with the file itself"
    most = CONFIG_BYTES if file.name == "config.json" else TOKENIZER_BYTES
    if found.st_size > most and (file.name == "config.json" or TOKENIZER_NAMES.fullmatch(file.name)):
        return f"{file.name} has {found.st_size:,} bytes, and at most {most:,} are read; restore it"
    return None


def read_config(file: Path) -> dict[str, Any]:
    """Return the contents of a config.json, which is read only if it is a regular file of usual size.

    Raises FileNotFoundError without such a file, ValueError if it cannot be read.
    """
    if problem := _file_problem(file):
        raise ValueError(problem)
    if not file.is_file():
        raise FileNotFoundError(file)
    try:
        found = json.loads(file.read_bytes())
    except RecursionError as error:
        raise ValueError(f"{file.name} is nested too deeply") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{file.name} is not a valid JSON file: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} holds no JSON object")
    return found


def _number_problems(values: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """Yield each number of a config that is larger than in any model, with its name and limit."""
    for name, value in values.items():
        most = next((most for pattern, most in LARGEST if pattern.search(name)), None)
        numbers = [one for one in (value if isinstance(value, list) else [value]) if type(one) in (int, float)]
        if most is not None and any(not abs(one) <= most for one in numbers):
            yield f"{name} {max(numbers, key=abs):.15g}, and no model has more than {most:,}"
        if isinstance(value, dict) and depth < MAX_NESTED:
            yield from _number_problems(value, depth + 1)


def _weights_problem(file: Path) -> str | None:
    try:
        header = read_header(file)
    except OSError as error:  # it is a broken link, or no one may read it
        return f"{file.name} cannot be read ({error.strerror}); copy or download it again"
    except ValueError as error:
        return f"{error}; copy or download it again"
    whole = (name for name in _tensors(header) if name.endswith(".weight") and QUANTIZED.match(header[name]["dtype"]))
    if (quantized := next(whole, None)) is not None:
        return (
            f"{file.name} has quantized weights ({quantized} is {header[quantized]['dtype']}), which are not "
            "trained; choose the backbone without quantization"
        )
    return None


def read_header(file: Path) -> dict[str, Any]:
    """Return the header of a safetensors file: 8 bytes of length, then JSON, then the tensors.

    Raises ValueError when the file is not in this format or shorter than its header says, OSError if it is missing.
    """
    if problem := _file_problem(file):
        raise ValueError(problem)
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        text = handle.read(length) if length <= HEADER_BYTES else b""
    try:
        header: dict[str, Any] = json.loads(text)
        expected = 8 + length + max((header[name]["data_offsets"][1] for name in _tensors(header)), default=0)
    except (ValueError, RecursionError, TypeError, LookupError) as error:
        raise ValueError(f"{file.name} is not a safetensors file: its header cannot be read") from error
    if (size := file.stat().st_size) < expected:
        raise ValueError(f"{file.name} is cut off: it has {size:,} bytes, and its header says {expected:,}")
    return header


def parameter_count(folder: Path) -> int | None:
    """Return the number of parameters saved in a folder, or None if it has no weights.

    Raises ValueError when a file is not in the safetensors format.
    """
    headers = map(read_header, filter(Path.is_file, folder.glob("*.safetensors")))
    return sum(math.prod(header[name]["shape"]) for header in headers for name in _tensors(header)) or None


def _tensors(header: Mapping[str, Any]) -> list[str]:
    return [name for name in header if name != "__metadata__"]

"""Verify the names of backbones, without the network.

A name is a hub name (`hfl/chinese-macbert-large`), a local folder, or `scratch:LAYERSxHIDDENxHEADS[@TOKENIZER]`: a
BERT with random weights, whose vocabulary is the data's characters or that of TOKENIZER.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jobs.suggestions import nearest, short

# Hub names without an owner. check_name refuses all other hub names without an owner: they are probably typing errors.
BARE_NAMES = (
    "bert-base-chinese",
    "bert-base-multilingual-cased",
    "bert-base-multilingual-uncased",
    "xlm-roberta-base",
    "xlm-roberta-large",
)
SCRATCH = re.compile(r"scratch:(?P<layers>\d{1,3})x(?P<hidden>\d{1,5})x(?P<heads>\d{1,3})(?:@(?P<tokenizer>.+))?")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Size:
    layers: int
    hidden: int
    heads: int


def check_name(name: str) -> str | None:
    """Return the error message for an invalid backbone name, or None for a valid name. Never uses the network.

    >>> check_name("bert-base-chines")
    "unknown backbone 'bert-base-chines'; did you mean 'bert-base-chinese'? write OWNER/NAME as on the hub, …"
    """
    if name.startswith("scratch:"):
        return _check_scratch(name)
    if is_path(name):
        return _check_folder(name)
    if name in BARE_NAMES or (HUB_NAME.fullmatch(name) and _hub_takes(name)):
        return None
    near = nearest(name, ["scratch:2x128x2", *BARE_NAMES])
    hint = f"did you mean {near!r}? " if near else ""
    forms = "write OWNER/NAME as on the hub, a folder, or scratch:LAYERSxHIDDENxHEADS"
    return f"unknown backbone {short(name)!r}; {hint}{forms}"


def _check_scratch(name: str) -> str | None:
    match = SCRATCH.fullmatch(name)
    if not match:
        return f"{name!r} is not scratch:LAYERSxHIDDENxHEADS, for instance scratch:6x384x6"
    size = scratch_size(match)
    if min(size.layers, size.hidden, size.heads) < 1:
        return f"{name!r}: layers, hidden size and heads must be at least 1"
    if size.hidden % size.heads:
        return f"{name!r}: the hidden size {size.hidden} is not a multiple of the {size.heads} heads"
    return check_name(match["tokenizer"]) if match["tokenizer"] else None


def _check_folder(name: str) -> str | None:
    try:
        folder = Path(name).expanduser()
        found = folder.is_dir()
    except (OSError, RuntimeError):  # the name is too long, or the user in ~USER does not exist
        found = False
    if not found:
        return f"{name!r}: no such folder"
    if not any((folder / file).exists() for file in ("config.json", "tokenizer_config.json", "tokenizer.json")):
        inner = next(
            (f"; did you mean {str(file.parent)!r}?" for file in sorted(folder.glob("*/model*.safetensors"))), ""
        )
        return f"{name!r}: holds no config.json; a folder as `save_pretrained` writes it is expected{inner}"
    return None


def _hub_takes(name: str) -> bool:
    """Return True if the hub allows a repository of this name; it forbids, for example, two hyphens in a row."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or (len(name) < 256 and Path(name).is_dir())


def absolute_name(name: str) -> str:
    """Return the name with an absolute path in place of a relative one, for processes with another working directory.

    >>> absolute_name("./bert")
    '/home/me/project/bert'
    """
    scratch, at, tokenizer = name.partition("@") if name.startswith("scratch:") else ("", "", name)
    if not tokenizer or not is_path(tokenizer):
        return name
    return f"{scratch}{at}{Path(tokenizer).expanduser().absolute()}"


def scratch_size(match: re.Match[str]) -> Size:
    return Size(int(match["layers"]), int(match["hidden"]), int(match["heads"]))

"""Load a tokenizer and a model by the backbone's name.

A name is a hub name (`hfl/chinese-macbert-large`), a local folder, or `scratch:LAYERSxHIDDENxHEADS[@TOKENIZER]`: a
BERT with random weights, whose vocabulary is the data's characters or that of TOKENIZER. Weights are read from
safetensors only, and code from the hub is never run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.checkpoint import load_json
from jobs.suggestions import nearest, short

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

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
BERT_VOCABULARY = 21_128  # pieces in BERT's Chinese vocabulary; an upper estimate for a vocabulary of characters
NARROW_HIDDEN = 256  # smaller hidden sizes get other initial weights and no dropout; see _narrow
ROBERTA_PADDING = 1  # RoBERTa's pad_token_id, for a config.json that has none
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class BackboneError(RuntimeError):
    """Reports a backbone that cannot be loaded or does not fit, in one line: state, cause, cure."""


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
    if _is_path(name):
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
    size = _size(match)
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
    if not any((folder / file).is_file() for file in ("config.json", "tokenizer_config.json", "tokenizer.json")):
        return f"{name!r}: holds no config.json; a folder as `save_pretrained` writes it is expected"
    return None


def _hub_takes(name: str) -> bool:
    """Return True if the hub allows a repository of this name; it forbids, for example, two hyphens in a row."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or (len(name) < 256 and Path(name).is_dir())


def _size(match: re.Match[str]) -> Size:
    return Size(int(match["layers"]), int(match["hidden"]), int(match["heads"]))


def load_tokenizer(name: str, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Load the backbone's fast tokenizer. `texts` are the vocabulary of a scratch backbone.

    Raises BackboneError when it cannot be loaded.
    """
    match = SCRATCH.fullmatch(name)
    if match and not match["tokenizer"]:
        return character_tokenizer(texts)
    return _pretrained_tokenizer(match["tokenizer"] if match else name)


def _pretrained_tokenizer(source: str) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, source, use_fast=True)
    # If a checkpoint names no tokenizer class, transformers uses RoBERTa's for a Longformer and finds no vocabulary.
    # Chinese Longformers have BERT's vocabulary.
    if _is_bare(tokenizer):
        tokenizer = _from_pretrained(AutoTokenizer, source, tokenizer_type="bert")
    if _is_bare(tokenizer):
        raise BackboneError(
            f"{source}: its tokenizer has no vocabulary; name the right tokenizer_class in its tokenizer_config.json"
        )
    if not tokenizer.is_fast:
        raise BackboneError(
            f"{source}: has no fast tokenizer, and spans need its character offsets; choose another backbone"
        )
    return tokenizer


def _is_bare(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return True if a tokenizer has only special tokens, because it found no vocabulary file."""
    return len(tokenizer) <= len(set(tokenizer.all_special_ids))


def character_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build BERT's tokenizer with a vocabulary of the single characters in `texts`, sorted.

    Inside a run of Latin letters or digits a token is `##` and a character, as in WordPiece.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertTokenizerFast

    characters = sorted({character for text in texts for character in text if not character.isspace()})
    pieces = [*SPECIAL, *characters, *(f"##{character}" for character in characters)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    return BertTokenizerFast(tokenizer_object=tokenizer, do_lower_case=False)


def load_model(
    name: str, auto_class: str, tokenizer: PreTrainedTokenizerFast, positions: int, **config: Any
) -> PreTrainedModel:
    """Load the backbone with a task's head.

    auto_class  name of a transformers class, such as `AutoModelForQuestionAnswering`
    positions   the longest input in tokens
    config      overrides values of the model's config, such as `num_labels`

    Raises BackboneError when the model cannot be loaded, reads fewer than `positions` tokens, lacks weights of its
    encoder, or has a smaller vocabulary than the tokenizer.
    """
    match = SCRATCH.fullmatch(name)
    model = (
        _scratch_model(_size(match), auto_class, tokenizer, positions, **config)
        if match
        else _pretrained_model(name, auto_class, **config)
    )
    limit = _position_limit(model.config.to_dict())
    if limit is not None and limit < positions:
        raise BackboneError(f"{name}: reads at most {limit} tokens; lower max_length from {positions}")
    if len(tokenizer) > model.config.vocab_size:
        raise BackboneError(
            f"{name}: its tokenizer has {len(tokenizer)} pieces and the model only {model.config.vocab_size}; "
            "set the right tokenizer_class in its tokenizer_config.json"
        )
    return model


def _scratch_model(
    size: Size, auto_class: str, tokenizer: PreTrainedTokenizerFast, positions: int, **config: Any
) -> PreTrainedModel:
    import transformers

    made = transformers.BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=size.layers,
        hidden_size=size.hidden,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.hidden,
        max_position_embeddings=max(512, positions),
        pad_token_id=tokenizer.pad_token_id,
        **{**(_narrow(size.hidden) if size.hidden < NARROW_HIDDEN else {}), **config},
    )
    return getattr(transformers, auto_class).from_config(made)


def _narrow(hidden: int) -> dict[str, float]:
    """Return config values for a narrow BERT, so that it learns within minutes.

    The initial weights keep the variance of activations (LeCun et al. 1998, "Efficient BackProp", section 4.6), and
    there is no dropout. BERT's own values, 0.02 and 0.1, are for hidden size 768 and long training.
    """
    return {"initializer_range": hidden**-0.5, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def _pretrained_model(name: str, auto_class: str, **config: Any) -> PreTrainedModel:
    import torch
    import transformers

    loaded = _from_pretrained(
        getattr(transformers, auto_class),
        name,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        **config,
    )
    model, info = loaded
    if missing := _missing_encoder_weights(model.base_model_prefix, info):
        raise BackboneError(
            f"{name}: {len(missing)} weights of the encoder are not in the checkpoint, such as {missing[0]}; "
            "correct the architecture in its config.json, or choose another backbone"
        )
    return model


def _missing_encoder_weights(prefix: str, info: dict[str, Any]) -> list[str]:
    """Return the names of encoder weights that the checkpoint lacks. A new head and a new pooler are allowed."""
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    keys = sorted({*info["missing_keys"], *mismatched})
    return [key for key in keys if key.startswith(f"{prefix}.") and ".pooler." not in key]


def model_type(name: str) -> str:
    """Return `scratch`, or the model type in a checkpoint's config.json, such as `bert`.

    Raises BackboneError when the config cannot be loaded.
    """
    if SCRATCH.fullmatch(name):
        return "scratch"
    from transformers import AutoConfig

    return str(_from_pretrained(AutoConfig, name).model_type)


def position_limit(name: str) -> int | None:
    """Return the longest input in tokens according to config.json.

    >>> position_limit("bert-base-chinese")
    512

    Returns None without such a limit, or while config.json is not on this machine. Never uses the network.
    """
    file = _config_file(name)
    try:
        return _position_limit(load_json(file)) if file else None
    except (OSError, ValueError, TypeError, AttributeError):  # reported when the backbone is loaded
        return None


def _config_file(name: str) -> Path | None:
    if name.startswith("scratch:"):
        return None
    if _is_path(name):
        return Path(name).expanduser() / "config.json"
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found) if isinstance(found, str) else None


def _position_limit(config: Mapping[str, Any]) -> int | None:
    """Return the position limit of a config; RoBERTa-like models reserve `pad_token_id + 1` positions."""
    positions = config.get("max_position_embeddings")
    if positions is None:
        return None
    roberta = config.get("model_type") in ("roberta", "xlm-roberta", "longformer", "camembert")
    return int(positions) - (int(config.get("pad_token_id", ROBERTA_PADDING)) + 1 if roberta else 0)


def _from_pretrained(auto_class: Any, name: str, **options: Any) -> Any:
    """Call `from_pretrained` and turn its many kinds of errors into a BackboneError of one line."""
    source = str(Path(name).expanduser()) if _is_path(name) else name
    try:
        return auto_class.from_pretrained(source, trust_remote_code=False, **options)
    except RuntimeError as error:
        raise BackboneError(
            f"{name}: its weights do not fit the model in its config.json; choose another backbone"
        ) from error
    except Exception as error:
        # tokenizers 0.23 raises plain `Exception`, without a class of its own, for a damaged tokenizer.json.
        if not (isinstance(error, OSError | ValueError | ImportError) or type(error) is Exception):
            raise
        raise BackboneError(f"{name}: {_cause(source, error)}") from error


def _cause(source: str, error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(source).is_dir():
        return f"cannot be loaded from this folder: {first}"
    if _offline(error):
        return (
            "is not in the local model cache and the hub cannot be reached; "
            "download it on a machine with a network, or name a local folder"
        )
    return f"cannot be loaded from the hub: {first}"


def _offline(error: BaseException) -> bool:
    chain: Sequence[BaseException | None] = (error, error.__cause__, error.__context__)
    words = ("offline", "connect", "couldn't find them in the cached files", "Max retries", "resolve")
    return any(word.lower() in str(link).lower() for link in chain if link for word in words)


def fetch_backbone(name: str) -> None:
    """Download a backbone from the hub, unless it is already on this machine.

    Raises BackboneError when it cannot be loaded. A scratch backbone needs only its tokenizer, if it names one.
    """
    match = SCRATCH.fullmatch(name)
    if match and not match["tokenizer"]:
        return
    load_tokenizer(name, ())
    if not match:
        model_type(name)
        _fetch_weights(name)


def _fetch_weights(name: str) -> None:
    if _is_path(name):
        if not list(Path(name).expanduser().glob("*.safetensors")):
            raise BackboneError(f"{name}: holds no *.safetensors; save the weights again with a current transformers")
        return
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model"])
    except (OSError, ValueError) as error:
        raise BackboneError(f"{name}: {_cause(name, error)}") from error


def weight_bytes(name: str) -> int | None:
    """Return the bytes of a backbone's fp32 weights, estimated for `scratch:`; None if no local folder holds them."""
    match = SCRATCH.fullmatch(name)
    if match:
        size = _size(match)
        return 4 * (size.layers * 12 * size.hidden**2 + (BERT_VOCABULARY + 512) * size.hidden)
    count = parameter_count(Path(name).expanduser()) if _is_path(name) else None
    return 4 * count if count else None


def parameter_count(folder: Path) -> int | None:
    """Return the number of parameters saved in a folder, or None if it has no weights.

    Raises ValueError when a file is not in the safetensors format.
    """
    return sum(map(_count_parameters, folder.glob("*.safetensors"))) or None


def _count_parameters(file: Path) -> int:
    """Count parameters from the shapes in a safetensors header: 8 bytes of length, then JSON."""
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(min(length, 100_000_000)))  # the format's longest header
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")

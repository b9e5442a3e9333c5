"""Load the tokenizer of a backbone, or build one from the characters of the data."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any

from jobs.backbone.folders import read_config
from jobs.backbone.names import SCRATCH, is_path
from jobs.backbone.source import BackboneError, check_files, config_file, describe_failure, first_line
from jobs.backbone.vocabularies import (
    BPE,
    COPY_AGAIN,
    TOKENIZER_JSON,
    UNIGRAM,
    Vocabulary,
    read_vocabularies,
    vocabulary_folder,
)
from jobs.files import disk_trouble

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from jobs.features.coverage import Coverage
    from jobs.features.tokens import Tokens

SLOW = "{}: has no fast tokenizer, and spans need its character offsets; choose another backbone"
NAME_CLASS = "name the right tokenizer_class in its tokenizer_config.json"
USUAL = {  # names of special tokens by the attribute of a tokenizer
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>", "<cls>"),
    "sep_token": ("[SEP]", "</s>", "<sep>"),
    "mask_token": ("[MASK]", "<mask>"),
    "bos_token": ("[CLS]", "<s>"),
    "eos_token": ("[SEP]", "</s>"),
}
NEEDED = ("pad_token", "unk_token", "cls_token", "sep_token")
# SentencePiece tokenizers by a piece, or by the name of the file
SENTENCEPIECE_CLASSES = {
    "[PAD]": "DebertaV2Tokenizer",
    "[CLS]": "AlbertTokenizer",
    "<cls>": "XLNetTokenizer",
    "sentencepiece.bpe.model": "XLMRobertaTokenizer",
}
STRANGE_TEXT = "\U0010fffd \U0001f9ff\U000e0041"  # characters that hardly any vocabulary has
SAVED_PROBE = "日月潭（Sun Moon Lake）"
SAVED_TEXTS = 100  # texts of the data that a saved tokenizer must read alike
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_tokenizer(name: str, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Load the backbone's fast tokenizer. `texts` are the vocabulary of a scratch backbone.

    Raises BackboneError when it cannot be loaded.
    """
    match = SCRATCH.fullmatch(name)
    if match and not match["tokenizer"]:
        return character_tokenizer(texts)
    return _pretrained_tokenizer(match["tokenizer"] if match else name)


def _pretrained_tokenizer(source: str) -> PreTrainedTokenizerFast:
    """Load the tokenizer that config.json or tokenizer_config.json names, or the one that fits the vocabulary file.

    transformers takes the tokenizer of the model type. If it finds no file of the name that it expects, it makes a
    tokenizer that knows special tokens alone. Many Chinese checkpoints have another architecture's vocabulary.
    """
    from transformers import AutoTokenizer

    check_files(source, weights=False)
    folder = vocabulary_folder(source)
    vocabularies = read_vocabularies(folder) if folder else []
    try:
        tokenizer = _loaded(AutoTokenizer, source)
    except BackboneError as error:
        if _names_slow_class(folder):
            raise BackboneError(SLOW.format(source)) from error
        if not vocabularies or isinstance(error.__cause__, ImportError):
            raise
        tokenizer = None
    if tokenizer is not None and not tokenizer.is_fast:
        raise BackboneError(SLOW.format(source))
    fitting = next((one for one in vocabularies if tokenizer is not None and _is_made_for(tokenizer, one)), None)
    if fitting is None and (vocabularies or _is_bare(tokenizer)):
        fitting = _own_vocabulary(source, vocabularies)
        tokenizer = _own_tokenizer(source, fitting, tokenizer)
    completed = _completed(tokenizer, fitting)
    _check_strange_text(source, completed)
    return completed


def _check_strange_text(source: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise BackboneError if the tokenizer fails on characters that its vocabulary lacks."""
    try:
        tokenizer.backend_tokenizer.encode(STRANGE_TEXT)
    except Exception as error:  # tokenizers 0.23 raises plain `Exception`
        raise BackboneError(
            f"{source}: its tokenizer fails on unknown characters ({first_line(error)}); {COPY_AGAIN}"
        ) from error


def _loaded(tokenizer_class: Any, source: str, **options: Any) -> Any:
    """Call `from_pretrained` of a tokenizer class. Raises BackboneError with the first line of any error."""
    path = str(Path(source).expanduser()) if is_path(source) else source
    try:
        return tokenizer_class.from_pretrained(path, trust_remote_code=False, **options)
    except MemoryError:
        raise
    except Exception as error:
        # transformers 5.24 raises TypeError, UnboundLocalError and others for files that are another class's.
        if isinstance(error, OSError | ValueError | ImportError) or type(error) is Exception:
            raise BackboneError(f"{source}: {describe_failure(path, error)}") from error
        raise BackboneError(
            f"{source}: its tokenizer files do not fit each other ({first_line(error)}); {NAME_CLASS}"
        ) from error


def _names_slow_class(folder: Path | None) -> bool:
    """Return True if the class that the folder's files name exists in Python only, without character offsets."""
    from transformers import PythonBackend
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    files = [_json_object(folder / name) for name in ("tokenizer_config.json", "config.json")] if folder else []
    named = [file["tokenizer_class"] for file in files if file.get("tokenizer_class")]
    named += [TOKENIZER_MAPPING_NAMES.get(file.get("model_type")) for file in files]
    known = next((name for name in named if isinstance(name, str)), None)
    found = tokenizer_class_from_name(known) if known else None
    return isinstance(found, type) and bool(issubclass(found, PythonBackend))


def _json_object(file: Path) -> dict[str, Any]:
    try:
        return read_config(file)
    except (OSError, ValueError):  # reported when the file is needed
        return {}


def _is_made_for(tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary) -> bool:
    """Return True if the tokenizer is of the vocabulary's kind, and has its pieces and special tokens."""
    if type(tokenizer.backend_tokenizer.model).__name__ != vocabulary.kind or _strange_tokens(tokenizer, vocabulary):
        return False
    known = tokenizer.get_vocab()
    # Tokenizers like XLM-RoBERTa's move the pieces of a SentencePiece model to other ids.
    moved = vocabulary.file.suffix == ".model"
    shared = sum(piece in known if moved else known.get(piece) == index for piece, index in vocabulary.pieces.items())
    return bool(shared > len(vocabulary.pieces) / 2)


def _strange_tokens(tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary) -> dict[str, str]:
    """Return the special tokens that the vocabulary has under another name: the tokenizer's attribute, and that name.

    A tokenizer appends its special tokens to a vocabulary without them, and no model has embeddings for these.
    """
    if vocabulary.file.suffix == ".model":
        return {}
    folder = vocabulary.file.parent
    declared = _json_object(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    added = (
        [one.get("content") for one in declared.values() if isinstance(one, dict)] if isinstance(declared, dict) else []
    )
    known = {*vocabulary.pieces, *_json_object(folder / "added_tokens.json"), *added}
    strange = {key for key in USUAL if (token := getattr(tokenizer, key)) is not None and token not in known}
    return {key: name for key in strange if (name := _usual(key, vocabulary))}


def _usual(key: str, vocabulary: Vocabulary) -> str | None:
    return next((name for name in USUAL[key] if name in vocabulary.pieces), None)


def _own_vocabulary(source: str, vocabularies: Sequence[Vocabulary]) -> Vocabulary:
    """Return the vocabulary that the model was made for: the one whose size is nearest to that in config.json."""
    if not vocabularies:
        raise BackboneError(
            f"{source}: holds no vocabulary (tokenizer.json, vocab.txt, vocab.json with merges.txt, or *.model); "
            "copy it from the original"
        )
    size = vocabulary_size(source)
    return min(vocabularies, key=lambda one: abs(len(one.pieces) - size) if size else 0)


def _own_tokenizer(
    source: str, vocabulary: Vocabulary, loaded: PreTrainedTokenizerFast | None
) -> PreTrainedTokenizerFast:
    """Load the tokenizer for a vocabulary file. `loaded` is what config.json has led to, if that could be loaded.

    Values of tokenizer_config.json, such as `do_lower_case` and special tokens, are kept. Raises BackboneError.
    """
    own_class = _own_class(source, vocabulary, loaded)
    file = {"vocab_file": str(vocabulary.file)} if vocabulary.file.suffix == ".model" else {}
    tokenizer = _loaded(own_class, source, **file)
    if strange := _strange_tokens(tokenizer, vocabulary):
        tokenizer = _loaded(own_class, source, **file, **strange)
    if not _is_made_for(tokenizer, vocabulary):
        raise BackboneError(_wrong_vocabulary(source, vocabulary))
    return tokenizer


def _wrong_vocabulary(source: str, vocabulary: Vocabulary) -> str:
    return (
        f"{source}: its {vocabulary.file.name} is not the vocabulary of the tokenizer that its config.json asks for; "
        + NAME_CLASS
    )


def _own_class(source: str, vocabulary: Vocabulary, loaded: PreTrainedTokenizerFast | None) -> Any:
    import transformers

    pieces, name = vocabulary.pieces, vocabulary.file.name
    if name == TOKENIZER_JSON or (vocabulary.file.suffix == ".model" and vocabulary.kind == BPE):
        return transformers.PreTrainedTokenizerFast
    if name == "vocab.txt":
        return transformers.BertTokenizer
    if name == "vocab.json" and vocabulary.kind == BPE:
        wanted = "DebertaTokenizer" if "[CLS]" in pieces else "RobertaTokenizer" if "<s>" in pieces else "GPT2Tokenizer"
        return getattr(transformers, wanted)
    if vocabulary.kind != UNIGRAM:
        raise BackboneError(f"{source}: holds vocab.json without merges.txt; copy it from the original")
    # The class that config.json asks for expects another name of the file.
    if loaded is not None and getattr(type(loaded).model, "__name__", None) == UNIGRAM:
        return type(loaded)
    found = next((own for mark, own in SENTENCEPIECE_CLASSES.items() if mark in pieces or mark == name), None)
    if found is None:
        raise BackboneError(_wrong_vocabulary(source, vocabulary))
    return getattr(transformers, found)


def _completed(tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary | None) -> PreTrainedTokenizerFast:
    """Name special tokens that the vocabulary has and no file names, and repair what transformers leaves out."""
    for key in NEEDED:
        if vocabulary and getattr(tokenizer, key) is None and (name := _usual(key, vocabulary)):
            setattr(tokenizer, key, name)
    if vocabulary and vocabulary.replacements:
        _replace_characters(tokenizer, vocabulary.replacements)
    if vocabulary and vocabulary.file.name != TOKENIZER_JSON:
        _frame_pairs(tokenizer)
    if type(tokenizer).__name__ == "RoFormerTokenizer":
        _cut_words(tokenizer)
    return tokenizer


def _frame_pairs(tokenizer: PreTrainedTokenizerFast) -> None:
    """Let a tokenizer put its special tokens around texts, in place, if it has such tokens and uses none.

    In transformers 5.24 that are RemBERT's, and those of SentencePiece models of the BPE kind.
    """
    from tokenizers.processors import TemplateProcessing

    first, last = tokenizer.cls_token, tokenizer.sep_token
    if first is not None and last is not None and not tokenizer.num_special_tokens_to_add(pair=True):
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=[f"{first}:0", "$A:0", f"{last}:0"],
            pair=[f"{first}:0", "$A:0", f"{last}:0", "$B:1", f"{last}:1"],
            special_tokens=[(first, tokenizer.cls_token_id), (last, tokenizer.sep_token_id)],
        )


def _replace_characters(tokenizer: PreTrainedTokenizerFast, replacements: bytes) -> None:
    """Replace characters as the vocabulary's SentencePiece model does, in place; its pieces lack what it replaces.

    In transformers 5.24 some classes, such as DeBERTa-v2's, leave this out, and do not know full-width punctuation.
    """
    from tokenizers import normalizers

    backend = tokenizer.backend_tokenizer
    if "Precompiled" not in str(backend.normalizer):
        own = [backend.normalizer] if backend.normalizer else []
        backend.normalizer = normalizers.Sequence([normalizers.Precompiled(replacements), *own])


def _cut_words(tokenizer: PreTrainedTokenizerFast) -> None:
    """Let RoFormer's tokenizer find the words of its vocabulary, in place.

    transformers 5.24 looks them up in the name of the vocabulary file if that is vocab.txt, and finds none.
    """
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers.models.roformer.tokenization_utils import JiebaPreTokenizer

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = PreTokenizer.custom(JiebaPreTokenizer(backend.get_vocab()))


def _is_bare(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return True if a tokenizer has only special tokens, because it found no vocabulary file."""
    return len(tokenizer) <= len(set(tokenizer.all_special_ids))


def check_tokenizer(
    name: str, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], tokens: Tokens | None = None
) -> Coverage:
    """Return what the backbone's tokenizer makes of `texts`; `warnings()` of it are lines to show before a sweep.

    tokens  the tokens of `texts`, if they are known already

    Raises BackboneError when no model can learn from the tokens, or a checkpoint would read other tokens.
    """
    from jobs.features.coverage import measure_coverage

    found = measure_coverage(tokenizer, texts, tokens, vocabulary_size(name))
    if refusal := found.refusal():
        raise BackboneError(f"{name}: {refusal}")
    if (file := config_file(name)) and file.is_file():
        _check_saving(name, tokenizer, file, [SAVED_PROBE, *texts[:SAVED_TEXTS]])
    return found


def _check_saving(name: str, tokenizer: PreTrainedTokenizerFast, config: Path, texts: Sequence[str]) -> None:
    """Raise BackboneError if the tokenizer cannot be saved, or reads `texts` differently when it is loaded again."""
    try:
        with TemporaryDirectory(prefix="sweeper-") as folder:
            tokenizer.save_pretrained(folder)
            shutil.copyfile(config, Path(folder) / config.name)
            # The tokens of a pair have the special tokens among them.
            both = [
                # `verbose`: else transformers warns of texts that are longer than an input
                [one(text, text, verbose=False)["input_ids"] for text in texts]
                for one in (tokenizer, load_tokenizer(folder, ()))
            ]
    except Exception as error:  # tokenizers 0.23 raises plain `Exception` for a part that cannot be saved
        if isinstance(error, OSError) or disk_trouble(error, Path(gettempdir())):
            return  # without room for files nothing can be said of the tokenizer
        raise BackboneError(
            f"{name}: its tokenizer cannot be saved ({first_line(error)}); choose another backbone"
        ) from error
    if both[0] != both[1]:
        raise BackboneError(
            f"{name}: its tokenizer reads texts differently once it is saved; save it with the current transformers, "
            "or choose another backbone"
        )


def vocabulary_size(name: str) -> int | None:
    """Return the vocabulary size in the backbone's config.json; None for `scratch:`, or if it has none."""
    file = config_file(name)
    size = _json_object(file).get("vocab_size") if file else None
    return size if isinstance(size, int) else None


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

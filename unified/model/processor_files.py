"""The files of a processor: read within limits and by this package alone, each error with the name of its file.

transformers' own loading would follow what such files name: classes by name, code of repositories, tokenizers of audio
in other repositories.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import tokenizers

from unified.core import json_files
from unified.core.bounds import Length
from unified.core.errors import DataError, RecipeError, quoted
from unified.core.schema import build
from unified.modalities import MODALITIES
from unified.modalities.base import Tokenizer
from unified.modalities.text.tokenizer import MOST_BYTES, read_tokenizer

PROCESSOR, IMAGES, TOKENIZER, SETTINGS = (
    *("processor_config.json", "preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json"),
)
BESIDE = ("special_tokens_map.json", "added_tokens.json")
"""Of earlier versions of transformers; tokenizer.json has what they say."""
IMAGE_PROCESSOR, PROCESSOR_CLASS = "UnifiedImageProcessor", "UnifiedProcessor"
_NAMED = frozenset({"eos_token", "pad_token", "mask_token", "bos_token", "unk_token", "sep_token", "cls_token"})
_KEYS = frozenset({"format", "processor_class", "image_processor", "specs", "texts"})
_FETCHING = ("auto_map", "audio_tokenizer")
"""Keys by which transformers runs code or fetches other repositories."""


@dataclass(frozen=True)
class TokenizerSettings:
    """The keys of a tokenizer_config.json that are read; other programs have others."""

    model_max_length: Length
    eos_token: str | None = None
    pad_token: str | None = None
    mask_token: str | None = None
    bos_token: str | None = None
    unk_token: str | None = None
    sep_token: str | None = None
    cls_token: str | None = None
    split_special_tokens: bool = True
    clean_up_tokenization_spaces: bool = False
    model_input_names: Sequence[str] = ("input_ids", "attention_mask")
    padding_side: Literal["right", "left"] = "right"
    truncation_side: Literal["right", "left"] = "right"


def read_content(folder: Path) -> dict[str, Any]:
    """Return the content of processor_config.json, with what earlier versions wrote beside it.

    Args:
        folder: The folder of a model.

    Raises:
        DataError: A file of the processor cannot be read, or names what is not read here; the message names the file.
    """
    for name in BESIDE:
        _read(folder / name)
    content, images = _read(folder / PROCESSOR), _read(folder / IMAGES)
    if content is None and images is None:
        raise DataError(f"{folder}: expected a processor_config.json, got none. Hint: copy all files of the model")
    whole: dict[str, Any] = {**({} if images is None else {"image_processor": images}), **(content or {})}
    where = folder / (IMAGES if content is None else PROCESSOR)
    for name in whole:
        if name in _FETCHING:
            raise DataError(f"{where}: {name}: expected no such key, got one. Hint: this model needs no code by it")
    named = whole.get("processor_class", PROCESSOR_CLASS)
    if named != PROCESSOR_CLASS:
        raise DataError(f"{where}: processor_class: expected {PROCESSOR_CLASS!r}, got {quoted(named)}")
    if not isinstance(whole.get("texts", True), bool):
        raise DataError(f"{where}: texts: expected a boolean, got {quoted(whole['texts'])}")
    specs = whole.get("specs", {})
    if not isinstance(specs, dict) or not all(isinstance(spec, dict) for spec in specs.values()):
        raise DataError(f"{where}: specs: expected an object of objects, got {quoted(specs)}")
    return {name: value for name, value in whole.items() if name in _KEYS}


def image_settings(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the arguments of the image processor.

    Args:
        content: As of `read_content`.
        folder: The folder of a model, for errors.

    Raises:
        DataError: They are of another class.
    """
    where, found = f"{folder / PROCESSOR}: image_processor", content.get("image_processor")
    if not isinstance(found, dict):
        raise DataError(f"{where}: expected an object, got {json_files.kind_of(found)}")
    named = found.get("image_processor_type", IMAGE_PROCESSOR)
    if named != IMAGE_PROCESSOR:
        raise DataError(f"{where}: image_processor_type: expected {IMAGE_PROCESSOR!r}, got {quoted(named)}")
    if type(found.get("patch", 1)) is not int:
        raise DataError(f"{where}: patch: expected a whole number, got {quoted(found['patch'])}")
    return {name: value for name, value in found.items() if name not in ("image_processor_type", "processor_class")}


def read_text_parts(folder: Path) -> tuple[tokenizers.Tokenizer, TokenizerSettings]:
    """Return the tokenizer of texts, and its settings.

    Args:
        folder: The folder of a model.

    Raises:
        DataError: One of the two files is not there, cannot be read, or is not what it should be.
    """
    settings = _read(folder / SETTINGS)
    if settings is None or not (folder / TOKENIZER).exists():
        missing = SETTINGS if settings is None else TOKENIZER
        raise DataError(f"{folder / missing}: expected a file of the tokenizer, got none. Hint: copy it, too")
    if settings.get("auto_map") is not None:
        raise DataError(f"{folder / SETTINGS}: auto_map: expected no such key, got one. Hint: no code is run by it")
    known = {field.name for field in fields(TokenizerSettings)}
    given = {name: _token(value) if name in _NAMED else value for name, value in settings.items() if name in known}
    try:
        read = build(TokenizerSettings, given, str(folder / SETTINGS))
        found = read_tokenizer(folder / TOKENIZER)
    except RecipeError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(f"{folder / TOKENIZER}: expected a file, got one that cannot be read: {error}") from error
    for name in sorted(_NAMED):
        token = getattr(read, name)
        if token is not None and found.token_to_id(token) is None:
            raise DataError(
                f"{folder / SETTINGS}: {name}: expected a token of {TOKENIZER}, got {quoted(token)}. Hint: copy both "
                "files from one model"
            )
    return found, read


def plain_settings(settings: Any) -> dict[str, Any]:
    """Return the settings of a modality as processor_config.json holds them: without the place of its spec."""
    return {name: value for name, value in asdict(settings).items() if name != "tokenizer"}


def read_others(specs: Mapping[str, Any], folder: Path) -> dict[str, Tokenizer]:
    """Return the tokenizers of the modalities of other packages, whose specs lie in folders of their names.

    Args:
        specs: Their settings by name.
        folder: The folder of a model.

    Raises:
        DataError: No installed package has a modality, or its settings or its spec cannot be.
    """
    where, found = f"{folder / PROCESSOR}: specs", {}
    try:
        for name, spec in specs.items():
            row = MODALITIES.find(name, where)
            found[name] = row.tokenizer(
                build(row.settings, {**spec, "tokenizer": str(folder / name)}, f"{where}.{name}")
            )
    except RecipeError as error:
        raise DataError(str(error)) from error
    return found


def _token(value: Any) -> Any:
    """The text of a special token, which transformers may write with its kind."""
    return value.get("content") if isinstance(value, dict) else value


def _read(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is no file."""
    if not path.exists() and not path.is_symlink():
        return None
    try:
        content: dict[str, Any] = json_files.read_json(path, most=MOST_BYTES)
    except OSError as error:
        raise DataError(f"{path}: expected a file, got one that cannot be read: {error}") from error
    return content

"""The row of texts in the table of modalities."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unified.core.bounds import Length
from unified.core.text_files import decode_text
from unified.core.types import Tokens
from unified.modalities.modality import Modality, Section
from unified.modalities.text.embedding import TextEmbedding
from unified.modalities.text.settings import TextSettings
from unified.modalities.text.tokenizer import TextTokenizer, text_tokens

NAME = TextTokenizer.modality
ENDINGS = ("txt", "text", "transcript")
"""Of columns in shards, as webdataset has them."""
_EXAMPLE = 12
"""Tokens of a made-up text."""


@dataclass(frozen=True)
class TextShape:
    """The keys of `modalities.text` in a config.json."""

    positions: Length
    max_length: Length


def text_section(settings: TextSettings, tokenizer: TextTokenizer | None = None) -> dict[str, Any]:  # noqa: ARG001
    """Return what a config.json says of texts; the size of the vocabulary stands beside it."""
    return {"positions": settings.positions, "max_length": settings.max_length}


def _tokenizer(settings: TextSettings) -> TextTokenizer:
    return TextTokenizer.load(settings.tokenizer, settings.max_length)


def _embedding(width: int, section: Section) -> TextEmbedding:
    biased = section["spe_token_id"] if section["spe_bias"] else None
    return TextEmbedding(section["vocabulary_size"], width, section["positions"], biased)


def _features(given: Mapping[str, Any], section: Section) -> Tokens | None:  # noqa: ARG001
    ids = given.get("input_ids")
    return None if ids is None else text_tokens(ids, given.get("attention_mask"))


def _example(section: Section, generator: torch.Generator, longest: bool) -> dict[str, Tensor]:
    length = section["max_length"] if longest else min(_EXAMPLE, section["positions"])
    return {"input_ids": torch.randint(0, section["vocabulary_size"], (2, length), generator=generator)}


def _decode(data: bytes) -> str:
    return decode_text(data, "text")


TEXT = Modality(
    name=NAME,
    settings=TextSettings,
    tokenizer=_tokenizer,
    embedding=_embedding,
    example=_example,
    section=text_section,
    bounds=TextShape,
    inputs=("input_ids", "attention_mask"),
    features=_features,
    decoders=dict.fromkeys(ENDINGS, _decode),
    language=True,
)

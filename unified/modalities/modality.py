"""A row of the table of modalities: everything that the rest of the package needs to know of one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from unified.core.errors import RecipeError
from unified.core.schema import build
from unified.core.types import Tokens
from unified.modalities.base import Tokenizer

Section = Mapping[str, Any]
"""What a config.json says of a modality."""
Decoder = Callable[[bytes], Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Modality:
    """The halves of a modality, the tokenizer and the embedding, and the facts by which it is treated."""

    name: str
    settings: type
    """A frozen dataclass: the keys of `model.modalities.<name>` in a recipe, with defaults. One is `tokenizer`, the
    folder of a spec; without `section` the others are what a config.json says."""
    tokenizer: Callable[[Any], Tokenizer]
    """Makes the CPU half from these settings."""
    embedding: Callable[[int, Section], nn.Module]
    """Makes the weights from the width of the model and what its config.json says of the modality."""
    example: Callable[[Section, torch.Generator, bool], Mapping[str, Tensor]]
    """Draws two made-up samples as a processor returns them; True: of the most tokens that the settings allow."""
    section: Callable[[Any, Any], Section] | None = None
    """Makes what a config.json says from the settings and the tokenizer; None: the settings but `tokenizer`."""
    bounds: type | None = None
    """A dataclass with the keys of that section and their bounds; None: those of `settings`."""
    inputs: tuple[str, ...] = ()
    """Names of what a processor returns for it; none: `<name>_values`, `<name>_mask` and `<name>_position`."""
    features: Callable[[Mapping[str, Any], Section], Tokens | None] | None = None
    """Makes tokens of those, None where they are not given; None: of the values, mask and position by these names."""
    decoders: Mapping[str, Decoder] = field(default_factory=dict)
    """By the endings of columns in shards, beside those of arrays, numbers and JSON, which are decoded anyway."""
    augment: Mapping[str, type] = field(default_factory=dict)
    """Kinds of random changes that a task may list for it under `augment`."""
    visual: bool = False
    """Whether routers see it as visual (Uni-Perceiver-MoE, attribute bits)."""
    spatial: bool = False
    """Whether its tokens lie on the grid of pixels that maps, boxes and keypoints refer to; one modality is."""
    language: bool = False
    """Whether its tokens are entries of the vocabulary, of which candidates and captions are made; one modality is."""

    def describe(self, settings: Any, tokenizer: Tokenizer) -> dict[str, Any]:
        """Return what a config.json says of it.

        Args:
            settings: Those of a recipe.
            tokenizer: The one that they make.
        """
        if self.section is not None:
            return dict(self.section(settings, tokenizer))
        names = [field.name for field in fields(settings) if field.name != "tokenizer"]
        return {name: getattr(settings, name) for name in names}

    def check_section(self, section: Any, where: str) -> None:
        """Raise `RecipeError` for a section of a config.json that cannot be.

        Args:
            section: What the file says.
            where: Its place.
        """
        if self.bounds is None and isinstance(section, Mapping) and "tokenizer" in section:
            raise RecipeError(f"{where}: expected no key tokenizer, got one. Hint: the processor has the spec")
        build(self.bounds or self.settings, section, where)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of what a processor returns for it."""
        return self.inputs or tuple(f"{self.name}_{part}" for part in ("values", "mask", "position"))

    def read_features(self, given: Mapping[str, Any], section: Section) -> Tokens | None:
        """Return the tokens of what a processor returns; None where that has nothing of this modality.

        Args:
            given: Tensors by name, some of them those of `input_names`.
            section: What the config.json says of the modality.
        """
        if self.features is not None:
            return self.features(given, section)
        values, mask, position = (given.get(name) for name in self.input_names)
        if values is None:
            return None
        if mask is None or position is None:
            raise TypeError(f"{self.input_names[0]}: expected {' and '.join(self.input_names[1:])} with it, got none")
        return Tokens(self.name, values, mask.bool(), position)

    def make_features(self, tokens: Tokens) -> dict[str, Tensor]:
        """Return tokens as a processor returns them where `features` is None: the inverse of `read_features`."""
        return dict(zip(self.input_names, (tokens.values, tokens.mask, tokens.position), strict=True))

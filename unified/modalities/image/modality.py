"""The row of images and video in the table of modalities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from unified.core.bounds import Count, Depth, Finite, Positive, Side
from unified.core.types import Tokens
from unified.modalities.image.embedding import ImageEmbedding
from unified.modalities.image.files import decode_frames
from unified.modalities.image.formats import IMAGES
from unified.modalities.image.patches import patches
from unified.modalities.image.settings import ImageSettings
from unified.modalities.image.tokenizer import ImageTokenizer
from unified.modalities.image.transforms import KINDS
from unified.modalities.modality import Modality, Section

NAME = ImageTokenizer.modality
_SETTINGS = ("patch", "positions", "position_scale", "grid", "frames")
"""What a config.json takes from a recipe."""
_OF_EMBEDDING = ("patch", "mean", "std", "positions", "position_scale", "grid", "frames")


@dataclass(frozen=True)
class ImageShape:
    """The keys of `modalities.image` in a config.json."""

    patch: Depth
    height: Side
    width: Side
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Positive, Positive, Positive]
    positions: Literal["learned", "sincos"]
    position_scale: Positive
    grid: Depth
    frames: Count


def image_section(
    settings: ImageSettings, height: int, width: int, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """Return what a config.json says of images.

    Args:
        settings: Those of a recipe.
        height, width: Pixels of an image, as the spec of the tokenizer says.
        mean, std: Of red, green and blue on the scale 0 to 1, from there too.
    """
    given = {name: getattr(settings, name) for name in _SETTINGS}
    return {**given, "height": height, "width": width, "mean": list(mean), "std": list(std)}


def _section(settings: ImageSettings, tokenizer: ImageTokenizer) -> dict[str, Any]:
    return image_section(settings, tokenizer.height, tokenizer.width, tokenizer.mean, tokenizer.std)


def _tokenizer(settings: ImageSettings) -> ImageTokenizer:
    return ImageTokenizer.load(settings.tokenizer, settings.patch, settings.frames)


def _embedding(width: int, section: Section) -> ImageEmbedding:
    return ImageEmbedding(width, **{name: section[name] for name in _OF_EMBEDDING})


def _features(given: Mapping[str, Any], section: Section) -> Tokens | None:
    pixels = given.get("pixel_values")
    if pixels is None:
        return None
    if pixels.dtype != torch.uint8:
        raise TypeError(
            f"pixel_values are {pixels.dtype}; expected uint8 from 0 to 255, as UnifiedProcessor "
            "returns, because this model normalises on the device"
        )
    return patches(pixels, section["patch"])


def _example(section: Section, generator: torch.Generator, longest: bool) -> dict[str, Tensor]:  # noqa: ARG001
    size = (2, 3, section["height"], section["width"])
    return {"pixel_values": torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)}


IMAGE = Modality(
    name=NAME,
    settings=ImageSettings,
    tokenizer=_tokenizer,
    embedding=_embedding,
    example=_example,
    section=_section,
    bounds=ImageShape,
    inputs=("pixel_values",),
    features=_features,
    decoders=dict.fromkeys(IMAGES, decode_frames),
    augment=KINDS,
    visual=True,
    spatial=True,
)

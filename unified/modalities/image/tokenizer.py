"""Images and video: square patches of uint8 pixels, and their embedding.

Source of the arithmetic: Uni-Perceiver (CVPR 2022); an image is a video of one frame.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from unified.core.bounds import Finite, Positive, Side
from unified.core.errors import DataError, RecipeError, nearest, quoted
from unified.core.paths import find
from unified.core.schema import build
from unified.core.types import Tokens
from unified.core.version import check_format
from unified.modalities.base import FORMAT, pad, read_json
from unified.modalities.image.patches import PatchRows, patches

SPEC = "preprocessor_config.json"
OF_MODEL = "processor_config.json"  # an exported or converted model has the spec in a section of it
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, which Hugging Face specs use
KEYS = {
    "resize_mode": "mode",
    "resample": "resample",
    "crop_fraction": "crop_fraction",
    "image_mean": "mean",
    "image_std": "std",
}
"""Names in a preprocessor_config.json (Hugging Face's where it has one) of the fields of `ImageSpec`."""
FOREIGN = ("format", "size", "image_processor_type", "processor_class", "patch")
"""Further names that may stand there."""


@dataclass(frozen=True)
class ImageSpec:
    """The content of a preprocessor_config.json."""

    height: Side
    width: Side
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Positive, Positive, Positive]
    mode: Literal["squash", "crop"] = "squash"
    """squash: both sides to the target. crop: keep the aspect, then cut the centre out."""
    resample: int = 3
    crop_fraction: float = 1.0
    """Share of the shorter side that `crop` keeps: 0.875 is a resize to 256 and a cut of 224."""

    def __post_init__(self) -> None:
        if self.resample not in RESAMPLE:
            raise RecipeError(f"resample: {self.resample}{nearest(str(self.resample), [str(n) for n in RESAMPLE])}")
        if min(self.height, self.width) < 1 or min(self.std) <= 0 or not 0 < self.crop_fraction <= 1:
            raise RecipeError("sizes and deviations must be above 0, crop_fraction above 0 and at most 1")


class ImageTokenizer:
    """Pixels to patches."""

    modality = "image"

    def __init__(self, spec: ImageSpec, patch: int, frames: int | None = None) -> None:
        """`frames`: the most that the model reads of a video; None where that is not known."""
        if patch < 1 or spec.height % patch or spec.width % patch:
            raise RecipeError(
                f"image.patch: {patch} does not divide the {spec.height} x {spec.width} pixels of the image spec; "
                "change the patch or the size in preprocessor_config.json"
            )
        self.spec = spec
        self.patch, self.frames = patch, frames
        self.height, self.width, self.mean, self.std = spec.height, spec.width, spec.mean, spec.std

    @classmethod
    def load(cls, reference: str, patch: int, frames: int | None = None) -> "ImageTokenizer":
        """The tokenizer of a folder in tokenizers/ or of a path, which may be the folder of a model."""
        try:
            found = find("tokenizers", reference)
        except FileNotFoundError as error:
            raise RecipeError(f"image.tokenizer: {error}") from error
        files = [found / SPEC, found / OF_MODEL] if found.is_dir() else [found]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise RecipeError(f"{found}: no {SPEC}; tokenizers/image has an example")
        content = read_json(file)
        if file.name == OF_MODEL:
            section = content.get("image_processor")
            if not isinstance(section, dict):
                raise RecipeError(f"{file}: expected a section image_processor, got {quoted(section)}")
            content = {name: value for name, value in section.items() if name != "patch"}
        return cls(read_spec(content, str(file)), patch, frames)

    def prepare(self, raw: Any) -> UInt8[Tensor, "*t 3 h w"]:
        """An image (3, h, w), or a video (t, 3, h, w), resized to the spec; uint8 in and out."""
        if not isinstance(raw, Tensor) or raw.dtype != torch.uint8 or raw.dim() not in (3, 4) or raw.shape[-3] != 3:
            found = f"{raw.dtype} {tuple(raw.shape)}" if isinstance(raw, Tensor) else type(raw).__name__
            raise DataError(f"expected an RGB image, uint8 (3, h, w) or (t, 3, h, w), found {found}")
        height, width = raw.shape[-2:]
        if (height, width) == (self.height, self.width) and self.spec.crop_fraction == 1:
            return raw
        if self.spec.mode == "squash":
            return self.resize(raw, self.height, self.width)
        scale = max(self.height / height, self.width / width) / self.spec.crop_fraction
        tall, wide = max(round(height * scale), self.height), max(round(width * scale), self.width)
        top, left = (tall - self.height) // 2, (wide - self.width) // 2
        return self.resize(raw, tall, wide)[..., top : top + self.height, left : left + self.width].contiguous()

    def resize(self, raw: UInt8[Tensor, "*t 3 h w"], height: int, width: int) -> UInt8[Tensor, "*t 3 H W"]:
        """An image or a video at any size, resampled as the spec says."""
        if raw.shape[-2:] == (height, width):
            return raw
        frames = raw if raw.dim() == 4 else raw[None]
        frames = F.interpolate(frames, (height, width), mode=RESAMPLE[self.spec.resample], antialias=True)
        return frames if raw.dim() == 4 else frames[0]

    def tokens(self, prepared: Sequence[Tensor]) -> Tokens:
        """A batch of images or videos; where their sizes differ, shorter ones are padded and masked."""
        if not prepared:
            raise DataError("a batch of images needs at least one image")
        shape = prepared[0].shape
        if all(item.shape == shape for item in prepared):
            batch = PatchRows(len(prepared), shape, self.patch)
            for row, item in enumerate(prepared):
                batch.put(row, item)
            return batch.tokens()
        return pad([patches(item[None], self.patch) for item in prepared])

    def rows(self, count: int) -> "PatchRows":
        """A batch for `count` prepared images, to be filled one by one."""
        return PatchRows(count, (3, self.height, self.width), self.patch)

    def save(self, folder: Path) -> None:
        """Write preprocessor_config.json."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SPEC).write_text(json.dumps(write_spec(self.spec), indent=2) + "\n", encoding="utf-8")


def read_spec(content: Mapping[str, Any], where: str) -> ImageSpec:
    """The spec that a preprocessor_config.json holds."""
    check_format(content.get("format", FORMAT), FORMAT, where, RecipeError)
    for name in content:
        if name not in {*KEYS, *FOREIGN}:
            raise RecipeError(
                f"{where}: {quoted(name)} is not a key of an image spec{nearest(name, [*KEYS, *FOREIGN])}"
            )
    size = content.get("size")
    if not isinstance(size, dict) or size.keys() != {"height", "width"}:
        raise RecipeError(f'{where}: expected "size": {{"height": pixels, "width": pixels}}, found {quoted(size)}')
    values = {field: content[name] for name, field in KEYS.items() if name in content}
    return build(ImageSpec, {**size, **values}, where)


def write_spec(spec: ImageSpec) -> dict[str, Any]:
    """The content of a preprocessor_config.json, in Hugging Face's names."""
    values = {name: getattr(spec, field) for name, field in KEYS.items()}
    return {
        "format": FORMAT,
        "image_processor_type": "UnifiedImageProcessor",
        "size": {"height": spec.height, "width": spec.width},
        **{name: list(value) if isinstance(value, tuple) else value for name, value in values.items()},
    }

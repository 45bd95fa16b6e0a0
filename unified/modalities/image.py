"""Images and video: square patches of uint8 pixels, and their embedding.

Source of the arithmetic: Uni-Perceiver (CVPR 2022); an image is a video of one frame.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from unified.bounds import Finite, Positive, Side
from unified.config import RecipeError, build, nearest
from unified.core.printed import quoted
from unified.modalities.base import FORMAT, check_format, read_json, shared
from unified.paths import find
from unified.transfers import kept, sent
from unified.types import DataError, Tokens, weight_of

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
TEMPERATURE = 10000.0


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
    check_format(content, where)
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


def patches(pixels: UInt8[Tensor, "b *t 3 h w"] | Float[Tensor, "b *t 3 h w"], patch: int) -> Tokens:
    """Images (b, 3, h, w) or videos (b, t, 3, h, w), all of one size, as rows of patches.

    A patch lists its pixels row by row, each with its channels: so decoders lay them, and whole rows are copied.
    """
    video = pixels if pixels.dim() == 5 else pixels[:, None]
    samples, frames, channels, height, width = video.shape
    rows, columns = _grid_size(height, width, patch)
    cut = video.reshape(samples, frames, channels, rows, patch, columns, patch).permute(0, 1, 3, 5, 4, 6, 2)
    return _tokens(cut.reshape(samples, -1, channels * patch * patch), frames, rows, columns)


class PatchRows:
    """A batch that is filled with patches picture by picture: each is copied once, in runs of a patch's row of pixels.

    All pictures are of one `shape`, (3, h, w) or (t, 3, h, w), uint8. The tokens are what `patches` makes of them. One
    of another number of frames is kept aside until `tokens`, which pads all to the longest.
    """

    def __init__(self, count: int, shape: Sequence[int], patch: int) -> None:
        *time, channels, height, width = shape
        self._frames = math.prod(time)
        self._rows, self._columns = _grid_size(height, width, patch)
        self._run = np.dtype((np.void, channels * patch))
        self._values = np.empty((count, self._frames, self._rows, self._columns, patch), self._run)
        self._pictures = self._values.swapaxes(3, 4)  # as pictures list their runs
        self._patch, self._aside = patch, dict[int, Tensor]()

    def put(self, row: int, picture: UInt8[Tensor, "*t 3 h w"]) -> None:
        """Fill a row of the batch, also one that was filled before."""
        self._aside.pop(row, None)
        if math.prod(picture.shape[:-3]) != self._frames:
            self._aside[row] = picture
            return
        target = self._pictures[row]
        pixels = np.ascontiguousarray(picture.numpy().swapaxes(-3, -2).swapaxes(-2, -1))  # channels last
        target[...] = pixels.reshape(-1).view(self._run).reshape(target.shape)

    def tokens(self) -> Tokens:
        """The batch, once every row is filled."""
        values = torch.from_numpy(self._values.view(np.uint8)).flatten(1, 3)
        found = _tokens(values, self._frames, self._rows, self._columns)
        if not self._aside:
            return found
        aside = {row: patches(picture[None], self._patch) for row, picture in self._aside.items()}
        return pad([aside.get(row, found.rows(slice(row, row + 1))) for row in range(len(found))])


def _grid_size(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches."""
    if height % patch or width % patch:
        raise DataError(
            f"an image of {height} x {width} pixels cannot be cut into patches of {patch}; resize it to multiples of "
            f"{patch} first (the image tokenizer and the processor do)"
        )
    return height // patch, width // patch


def _tokens(values: Tensor, frames: int, rows: int, columns: int) -> Tokens:
    position, mask = _grid(frames, rows, columns, values.device)
    samples = values.shape[0]
    mask, position = mask.expand(samples, -1), position.expand(samples, -1, -1)
    return Tokens("image", values, mask, position, padded=False, extent=(frames, rows, columns))


@kept(64)
def _grid(frames: int, rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions (1, n, 3) of all patches in reading order, and a mask (1, n) that is true throughout."""
    axes = [torch.arange(size, dtype=torch.float32) for size in (frames, rows, columns)]
    position = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, -1, 3)
    return sent(position, device), torch.ones(position.shape[:2], dtype=torch.bool, device=device)


def pad(parts: Sequence[Tokens]) -> Tokens:
    """Tokens of several samples as one batch; what is missing at the end of a row is zero and masked."""
    longest = max(part.values.shape[1] for part in parts)
    columns = {
        name: torch.cat([_lengthen(getattr(part, name), longest) for part in parts])
        for name in ("values", "mask", "position")
    }
    extents = [part.extent for part in parts if part.extent is not None]
    extent = tuple(max(sizes) for sizes in zip(*extents, strict=True)) if len(extents) == len(parts) else None
    return Tokens(parts[0].modality, columns["values"], columns["mask"], columns["position"], extent=extent)  # type: ignore[arg-type]


def _lengthen(value: Tensor, length: int) -> Tensor:
    missing = value.new_zeros(value.shape[0], length - value.shape[1], *value.shape[2:])
    return torch.cat([value, missing], dim=1)


class PatchProjection(nn.Linear):
    """A linear layer on patches (row, column, channel), whose weight is a convolution's (channel, row, column)."""

    def forward(self, input: Float[Tensor, "b n d"]) -> Float[Tensor, "b n w"]:
        """The same as the convolution."""
        weight = self.weight.unflatten(1, (3, -1)).transpose(1, 2).flatten(1)
        return F.linear(input, weight, self.bias)


class ImageEmbedding(nn.Module):
    """Patches to vectors: norm(linear(normalised pixels) + temporal[t] + spatial[y, x])."""

    def __init__(
        self,
        width: int,
        patch: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        positions: Literal["sincos", "learned"],
        position_scale: float,
        grid: int,
        frames: int,
    ) -> None:
        super().__init__()
        if positions == "sincos" and width % 4:
            raise RecipeError(f"model.width: {width} must be a multiple of 4 for fixed positions")
        self.width, self.patch = width, patch
        self.mean, self.std = tuple(mean), tuple(std)
        self.position_scale, self.grid, self.frames = position_scale, grid, frames
        self.projection = PatchProjection(3 * patch * patch, width)
        self.temporal = nn.Embedding(frames, width)
        self.spatial = nn.Embedding(grid * grid, width) if positions == "learned" else None

    def forward(self, tokens: Tokens, norm: nn.Module) -> Float[Tensor, "b n w"]:
        """`norm` is the one that all modalities share; the model holds it, once. Pixels are on the scale 0 to 255."""
        states = self.projection(self.normalise(tokens.values))
        position = shared(tokens.position)
        time = position[..., 0].long()
        frames = None if tokens.extent is None else tokens.extent[0]
        if frames is None and time.device.type == "cpu" and not torch.compiler.is_compiling():
            frames = int(time.max()) + 1
        if frames is not None and frames > self.frames:
            raise DataError(
                f"a video of {frames} frames exceeds the {self.frames} of this model (image.frames); take fewer"
            )
        mask = tokens.mask[: position.shape[0]]
        states = states + self.temporal(time) + self._where(position, mask)
        return norm(states.to(weight_of(norm).dtype))

    def normalise(self, values: Tensor) -> Tensor:
        """Pixels (b, n, 3 * patch * patch) less their mean, over their deviation, in the precision of the weights."""
        shift, scale = _normalisation(self.mean, self.std, self.patch * self.patch, values.device)
        return torch.addcmul(shift, values.float(), scale).to(weight_of(self.projection).dtype)

    def _where(self, position: Float[Tensor, "b n 3"], mask: Tensor) -> Float[Tensor, "b n w"]:
        if self.spatial is None:
            return sincos(position[..., 1:] * self.position_scale, self.width)
        # The table covers the whole image whatever its size: centres of patches in units of the image, -1 to 1.
        extent = (position * mask[..., None]).amax(dim=1, keepdim=True)[..., 1:] + 1
        centres = ((position[..., 1:] + 0.5) / extent * 2 - 1).flip(-1)  # x, y
        table = self.spatial(torch.arange(self.grid * self.grid, device=position.device))
        table = table.T.reshape(1, self.width, self.grid, self.grid).float()
        read = F.grid_sample(table, centres.reshape(1, -1, 1, 2), padding_mode="border", align_corners=False)
        return read[0, :, :, 0].T.reshape(*position.shape[:2], self.width)


@kept(16)
def _normalisation(
    mean: tuple[float, ...], std: tuple[float, ...], area: int, device: torch.device
) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """`shift` and `scale` of pixels 0 to 255 in patches of `area` pixels: always fp32, no buffers to cast or refill."""
    centre, spread = torch.tensor(mean), torch.tensor(std)
    shift, scale = -centre / spread, 1 / (255 * spread)
    return tuple(sent(part.repeat(area), device) for part in (shift, scale))  # type: ignore[return-value]


def sincos(place: Float[Tensor, "b n 2"], width: int) -> Float[Tensor, "b n w"]:
    """Fixed positions of (y, x): [sin y, cos y, sin x, cos x], a quarter of the channels each.

    The published code calls the first half "w", but builds its grid with the first axis slow, so that with patches in
    reading order it holds the row: uniperceiver/utils/transformer_util.py of fundamentalvision/Uni-Perceiver.
    """
    quarter = width // 4
    frequency = 1 / TEMPERATURE ** (torch.arange(quarter, dtype=torch.float32, device=place.device) / quarter)
    angle = place.float()[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)

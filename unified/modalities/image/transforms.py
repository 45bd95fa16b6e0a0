"""The kinds of random changes of images that a task may list under `augment`, and their settings."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unified.core.errors import RecipeError

Draw = Callable[[int], NDArray[np.float64]]
"""So many numbers in [0, 1) for each image, (images, count)."""
Range = tuple[float, float]
"""Lowest and highest value; a draw is uniform between them unless the setting says otherwise."""
WHITE = 255.0
LUMINANCE = (0.299, 0.587, 0.114)
"""Of red, green and blue, after Rec. 601."""


@dataclass(frozen=True, kw_only=True)
class Transform:
    """What all kinds have in common."""

    probability: float = 1.0
    """Share of the images that are changed."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise RecipeError(f"probability: expected a number from 0 to 1, found {self.probability}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and value[0] > value[1]:
                raise RecipeError(f"{field.name}: the lowest value comes first, found {list(value)}")


@dataclass(frozen=True, kw_only=True)
class PixelTransform(Transform):
    """A change of images of equal size, with values from 0 to 255, which keeps the size.

    Grey images have one channel; videos have those of all frames, so that one draw changes all frames alike.
    """

    @abstractmethod
    def __call__(self, pixels: Float[Tensor, "b c h w"], draw: Draw) -> Float[Tensor, "b c h w"]:
        """The changed images."""


@dataclass(frozen=True, kw_only=True)
class Crop(Transform):
    """A random part of the image, resized to a square (as Inception did, Szegedy et al. 2015)."""

    size: int
    area: Range = (0.5, 1.0)
    """Of the part, as a share of the image."""
    ratio: Range = (0.75, 4 / 3)
    """Width by height of the part; uniform in the logarithm."""

    def __call__(self, image: UInt8[Tensor, "*t 3 h w"], draws: NDArray[np.float64]) -> UInt8[Tensor, "*t 3 s s"]:
        """The part that four draws choose, the same of all frames."""
        height, width = image.shape[-2:]
        area = _between(draws[0], self.area) * height * width
        ratio = np.exp(_between(draws[1], (np.log(self.ratio[0]), np.log(self.ratio[1]))))
        high = int(np.clip(round(np.sqrt(area / ratio)), 1, height))
        wide = int(np.clip(round(np.sqrt(area * ratio)), 1, width))
        top, left = int(draws[2] * (height - high + 1)), int(draws[3] * (width - wide + 1))
        part = image[..., top : top + high, left : left + wide]
        frames = part if part.dim() == 4 else part[None]
        frames = F.interpolate(frames, (self.size, self.size), mode="bilinear", antialias=True)
        return frames if part.dim() == 4 else frames[0]


@dataclass(frozen=True, kw_only=True)
class Affine(PixelTransform):
    """Turn, shift, scale, shear and stretch about the centre."""

    degrees: float = 0.0
    """Largest angle, either way."""
    translate: float = 0.0
    """Largest shift along each axis, as a share of the side."""
    scale: Range = (1.0, 1.0)
    """Factor of the size; uniform in the logarithm, so that halving is as frequent as doubling."""
    shear: float = 0.0
    """Largest angle of the slant, in degrees, either way."""
    stretch: float = 1.0
    """Largest change of the aspect: 1.2 draws a ratio of 1/1.2 … 1.2 and keeps the area."""
    fill: Literal["border", "black", "white"] = "border"
    """What comes in from outside: the pixels at the border, or one value."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.scale[0], self.stretch) <= 0:
            raise RecipeError(f"scale and stretch are factors above 0, found {list(self.scale)} and {self.stretch}")

    def __call__(self, pixels: Float[Tensor, "b c h w"], draw: Draw) -> Float[Tensor, "b c h w"]:
        """The images, resampled bilinearly."""
        height, width = pixels.shape[-2:]
        draws = draw(6)
        signed = 2 * draws - 1
        angle, slant = np.radians(self.degrees * signed[:, 0]), np.tan(np.radians(self.shear * signed[:, 1]))
        scale = self.scale[0] * (self.scale[1] / self.scale[0]) ** draws[:, 2]
        stretch = np.exp(0.5 * np.log(self.stretch) * signed[:, 3])
        cosine, sine = np.cos(angle), np.sin(angle)
        wide, high = scale * stretch, scale / stretch
        # Inverse of (turn · slant · scale): where each output pixel comes from.
        matrix = np.stack(
            [(cosine + slant * sine) / wide, (sine - slant * cosine) / wide, -sine / high, cosine / high], axis=1
        )
        shift = (self.translate * signed[:, 4:6] * [width, height]).astype(np.float32)
        matrix = matrix.astype(np.float32)
        x, y = _centred(width)[None, :] - shift[:, :1], _centred(height)[None, :] - shift[:, 1:]
        from_x = (matrix[:, 0:1] * x)[:, None, :] + (matrix[:, 1:2] * y)[:, :, None]
        from_y = (matrix[:, 2:3] * x)[:, None, :] + (matrix[:, 3:4] * y)[:, :, None]
        return _sample(pixels, from_x, from_y, self.fill)


@dataclass(frozen=True, kw_only=True)
class Elastic(PixelTransform):
    """A smooth random field that moves pixels (after Simard et al., ICDAR 2003)."""

    strength: float = 0.05
    """Largest movement of a control point, as a share of the side."""
    points: int = 4
    """Control points along each side."""

    def __call__(self, pixels: Float[Tensor, "b c h w"], draw: Draw) -> Float[Tensor, "b c h w"]:
        """The images, resampled bilinearly; the border is repeated outwards."""
        height, width = pixels.shape[-2:]
        moves = (2 * draw(2 * self.points**2) - 1).reshape(-1, 2, self.points, self.points) * self.strength
        field = (_bumps(height, self.points) @ moves @ _bumps(width, self.points).T).astype(np.float32)
        from_x = _centred(width)[None, None, :] + field[:, 0] * width
        from_y = _centred(height)[None, :, None] + field[:, 1] * height
        return _sample(pixels, from_x, from_y, "border")


@dataclass(frozen=True, kw_only=True)
class Blur(PixelTransform):
    """Convolution with a Gaussian."""

    sigma: Range = (0.0, 1.0)
    """Standard deviation in pixels of the image as it is stored."""

    def __call__(self, pixels: Float[Tensor, "b c h w"], draw: Draw) -> Float[Tensor, "b c h w"]:
        """The blurred images; the kernel is renormalised at the border."""
        sigma = _between(draw(1)[:, 0], self.sigma).clip(min=1e-3)
        height, width = pixels.shape[-2:]
        rows = _gaussians(sigma, height)
        return _separable(pixels, rows, rows if width == height else _gaussians(sigma, width))


@dataclass(frozen=True, kw_only=True)
class Pixelate(PixelTransform):
    """The look of a picture taken at low resolution: averaged to few cells and enlarged again."""

    cells: tuple[int, int] = (8, 16)
    """Fewest and most cells along each side."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cells[0] < 1:
            raise RecipeError(f"cells: expected at least 1, found {self.cells[0]}")

    def __call__(self, pixels: Float[Tensor, "b c h w"], draw: Draw) -> Float[Tensor, "b c h w"]:
        """The images with as much detail as their cells hold."""
        low, high = self.cells
        number = torch.from_numpy((draw(1)[:, 0] * (high - low + 1)).astype(np.int64))
        rows, columns = (_cell_matrices(low, high, side)[number] for side in pixels.shape[-2:])
        return _separable(pixels, rows, columns)


@dataclass(frozen=True, kw_only=True)
class Stroke(PixelTransform):
    """Thicker or thinner strokes: a part of the way to the brightest or darkest of each pixel's neighbours."""

    strength: Range = (-0.5, 0.5)
    """Share of the way; positive: bright grows, negative: dark grows. 1 is one pixel on every side."""

    def __call__(self, pixels: Float[Tensor, "b c h w"], draw: Draw) -> Float[Tensor, "b c h w"]:
        """The images between their dilation and their erosion."""
        strength = _column(_between(draw(1)[:, 0], self.strength))
        brighter = _brightest(pixels) - pixels
        darker = -_brightest(-pixels) - pixels
        return pixels + strength.clamp(min=0) * brighter + (-strength).clamp(min=0) * darker


@dataclass(frozen=True, kw_only=True)
class Contrast(PixelTransform):
    """Changes of contrast, brightness and gamma."""

    contrast: Range = (1.0, 1.0)
    """Factor of the distance to middle grey."""
    brightness: Range = (0.0, 0.0)
    """Added, as a share of white."""
    gamma: Range = (1.0, 1.0)
    """Exponent of the value, as a share of white."""

    def __call__(self, pixels: Float[Tensor, "b c h w"], draw: Draw) -> Float[Tensor, "b c h w"]:
        """The images with changed values."""
        draws = draw(3)
        factor, added = _between(draws[:, 0], self.contrast), _between(draws[:, 1], self.brightness)
        value = pixels * _column(factor) + _column((0.5 - 0.5 * factor + added) * WHITE)
        if self.gamma == (1.0, 1.0):
            return value
        return (value / WHITE).clamp(0, 1) ** _column(_between(draws[:, 2], self.gamma)) * WHITE


@dataclass(frozen=True, kw_only=True)
class Saturation(PixelTransform):
    """Paler or stronger colours, down to a grey picture."""

    factor: Range = (0.0, 1.0)
    """Of each pixel's distance from its grey, the luminance of Rec. 601; 0 is a grey picture, 1 the picture itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor[0] < 0:
            raise RecipeError(f"factor: expected at least 0, a grey picture, found {list(self.factor)}")

    def __call__(self, pixels: Float[Tensor, "b c h w"], draw: Draw) -> Float[Tensor, "b c h w"]:
        """The images with changed colours; a grey image stays as it is."""
        if pixels.shape[1] == 1:
            return pixels
        frames = pixels.unflatten(1, (-1, 3))
        grey = (frames * pixels.new_tensor(LUMINANCE)[:, None, None]).sum(2, keepdim=True)
        factor = _column(_between(draw(1)[:, 0], self.factor))[:, None]
        return (grey + factor * (frames - grey)).flatten(1, 2)


@dataclass(frozen=True, kw_only=True)
class Noise(PixelTransform):
    """Grain: Gaussian noise, the same in all colours."""

    std: Range = (0.0, 0.05)
    """Standard deviation, as a share of white."""

    def __call__(self, pixels: Float[Tensor, "b c h w"], draw: Draw) -> Float[Tensor, "b c h w"]:
        """The images with noise."""
        height, width = pixels.shape[-2:]
        draws = draw(1 + height * width)
        normal = torch.special.ndtri(torch.from_numpy(draws[:, 1:] + 2.0**-54)).float()
        return pixels + _column(_between(draws[:, 0], self.std) * WHITE) * normal.reshape(-1, 1, height, width)


@dataclass(frozen=True, kw_only=True)
class Flip(PixelTransform):
    """Left and right exchanged."""

    probability: float = 0.5

    def __call__(self, pixels: Float[Tensor, "b c h w"], draw: Draw) -> Float[Tensor, "b c h w"]:  # noqa: ARG002
        """The mirrored images."""
        return pixels.flip(-1)


@dataclass(frozen=True, kw_only=True)
class Invert(PixelTransform):
    """Dark and bright exchanged."""

    probability: float = 0.5

    def __call__(self, pixels: Float[Tensor, "b c h w"], draw: Draw) -> Float[Tensor, "b c h w"]:  # noqa: ARG002
        """The negatives."""
        return WHITE - pixels


KINDS: dict[str, type[Transform]] = {
    "crop": Crop,
    "affine": Affine,
    "elastic": Elastic,
    "blur": Blur,
    "pixelate": Pixelate,
    "stroke": Stroke,
    "contrast": Contrast,
    "saturation": Saturation,
    "noise": Noise,
    "flip": Flip,
    "invert": Invert,
}


def _between(draws: Any, limits: Range) -> Any:
    return limits[0] + (limits[1] - limits[0]) * draws


def _column(values: NDArray[np.float64]) -> Float[Tensor, "b 1 1 1"]:
    return torch.from_numpy(values).float()[:, None, None, None]


def _centred(side: int) -> NDArray[np.float32]:
    """The coordinates of pixels from the centre, in pixels."""
    return np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)


def _sample(
    pixels: Float[Tensor, "b c h w"], from_x: NDArray[np.float32], from_y: NDArray[np.float32], fill: str
) -> Float[Tensor, "b c h w"]:
    """The values at coordinates in pixels from the centre, each (b, h, w)."""
    height, width = pixels.shape[-2:]
    grid = torch.stack([torch.from_numpy(from_x * (2 / width)), torch.from_numpy(from_y * (2 / height))], dim=-1)
    if fill == "white":
        return WHITE - F.grid_sample(WHITE - pixels, grid, align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border" if fill == "border" else "zeros", align_corners=False)


def _separable(
    pixels: Float[Tensor, "b c h w"], rows: Float[Tensor, "b h h"], columns: Float[Tensor, "b w w"]
) -> Float[Tensor, "b c h w"]:
    """A linear filter of each image along both axes: one matrix for its rows, one for its columns."""
    return rows[:, None] @ pixels @ columns.mT[:, None]


def _gaussians(sigma: NDArray[np.float64], side: int) -> Float[Tensor, "b s s"]:
    place = np.arange(side)
    kernel = torch.from_numpy(np.exp(-0.5 * (place / sigma[:, None]) ** 2)).float()
    weight = kernel[:, torch.from_numpy(abs(place[:, None] - place[None, :]))]
    return weight / weight.sum(-1, keepdim=True)


@lru_cache(maxsize=64)
def _cell_matrices(low: int, high: int, side: int) -> Float[Tensor, "n s s"]:
    """For each number of cells: average the pixels of a cell, then interpolate between the cells."""
    identity = torch.eye(side)[None]
    averaged = (F.interpolate(identity, min(cells, side), mode="area") for cells in range(low, high + 1))
    return torch.cat([F.interpolate(cells, side, mode="linear") for cells in averaged]).mT.contiguous()


@lru_cache(maxsize=64)
def _bumps(side: int, points: int) -> NDArray[np.float64]:
    """Weights of control points for each pixel, (side, points): Gaussians as wide as the points lie apart, sum 1."""
    distance = (np.arange(side)[:, None] + 0.5) / side * points - (np.arange(points)[None, :] + 0.5)
    weight = np.exp(-0.5 * distance**2)
    return np.asarray(weight / weight.sum(1, keepdims=True))


def _brightest(pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The largest value of the 3×3 pixels around each; by shifts, as max_pool2d costs thirty times as much on a CPU."""
    padded = F.pad(pixels, (1, 1, 1, 1), mode="replicate")
    across = torch.maximum(torch.maximum(padded[..., :-2], padded[..., 1:-1]), padded[..., 2:])
    return torch.maximum(torch.maximum(across[..., :-2, :], across[..., 1:-1, :]), across[..., 2:, :])

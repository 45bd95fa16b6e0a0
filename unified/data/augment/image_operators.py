"""Image operators: what a picture is made into, and what is asked about that; every set of images is data for them.

An operator takes a picture and gives (input, answer). Restoring ones spoil the input and ask for the picture; the
others ask for what they make of it. Draws are numbers in [0, 1) that belong to the sample.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Picture = Float[Tensor, "3 h w"]
Operator = Callable[[Picture, NDArray[np.float64]], tuple[Picture, Picture]]
"""Of a picture with values from 0 to 1, and `DRAWS` numbers."""
DRAWS = 8
GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in brightness (ITU-R BT.601)."""


def grey(picture: Picture) -> Float[Tensor, "1 h w"]:
    """The brightness of each pixel."""
    return (picture * picture.new_tensor(GREY)[:, None, None]).sum(0, keepdim=True)


def _blurred(picture: Tensor, sigma: float) -> Tensor:
    radius = max(round(3 * sigma), 1)
    place = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (place / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(len(picture), 1, -1)
    padded = F.pad(picture[None], (radius, radius, radius, radius), mode="replicate")
    across = F.conv2d(padded, kernel[:, :, None], groups=len(picture))
    return F.conv2d(across, kernel[..., None], groups=len(picture))[0]


def _denoise(picture: Picture, draws: NDArray[np.float64]) -> tuple[Picture, Picture]:
    """Gaussian noise with a standard deviation of 5 to 20 % of white is taken out."""
    generator = torch.Generator().manual_seed(int(draws[0] * 2**53))
    noise = torch.randn(picture.shape, generator=generator)
    return (picture + (0.05 + 0.15 * float(draws[1])) * noise).clamp(0, 1), picture


def _deblur(picture: Picture, draws: NDArray[np.float64]) -> tuple[Picture, Picture]:
    """A Gaussian blur of 1 to 2 pixels is undone."""
    return _blurred(picture, 1 + float(draws[0])), picture


def _inpaint(picture: Picture, draws: NDArray[np.float64]) -> tuple[Picture, Picture]:
    """A grey rectangle, a fifth to two fifths of each side, is filled in."""
    height, width = picture.shape[1:]
    high, wide = (max(int(side * (0.2 + 0.2 * d)), 1) for side, d in zip((height, width), draws[:2], strict=True))
    top, left = int(draws[2] * (height - high + 1)), int(draws[3] * (width - wide + 1))
    holed = picture.clone()
    holed[:, top : top + high, left : left + wide] = 0.5
    return holed, picture


def _colourise(picture: Picture, draws: NDArray[np.float64]) -> tuple[Picture, Picture]:  # noqa: ARG001
    """Colours of a picture that is grey."""
    return grey(picture).expand(3, -1, -1), picture


def _enlighten(picture: Picture, draws: NDArray[np.float64]) -> tuple[Picture, Picture]:
    """A picture that is too dark (gamma of 2 to 3, half the light) as it was."""
    return 0.5 * picture ** (2 + float(draws[0])), picture


def _smooth(picture: Picture, draws: NDArray[np.float64]) -> tuple[Picture, Picture]:  # noqa: ARG001
    """A Gaussian blur of 2 pixels."""
    return picture, _blurred(picture, 2.0)


def _sharpen(picture: Picture, draws: NDArray[np.float64]) -> tuple[Picture, Picture]:  # noqa: ARG001
    """Twice the difference from a blurred copy added (unsharp masking)."""
    return picture, (picture + 2 * (picture - _blurred(picture, 1.5))).clamp(0, 1)


def _sobel(picture: Picture, draws: NDArray[np.float64]) -> tuple[Picture, Picture]:  # noqa: ARG001
    """The length of the gradient of brightness (Sobel)."""
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4
    padded = F.pad(grey(picture)[None], (1, 1, 1, 1), mode="replicate")
    both = F.conv2d(padded, torch.stack([across, across.T])[:, None])[0]
    return picture, both.square().sum(0, keepdim=True).sqrt().clamp(0, 1).expand(3, -1, -1)


def _equalise(picture: Picture, draws: NDArray[np.float64]) -> tuple[Picture, Picture]:  # noqa: ARG001
    """Brightness spread evenly from black to white (histogram equalisation); colours keep their share of it."""
    bright = grey(picture)
    levels = (bright * 255).round().long()
    share = torch.bincount(levels.flatten(), minlength=256).cumsum(0) / levels.numel()
    return picture, (picture * (share[levels] / bright.clamp(min=1 / 255))).clamp(0, 1)


def _corners(picture: Picture, draws: NDArray[np.float64]) -> tuple[Picture, Picture]:  # noqa: ARG001
    """How much of a corner each pixel is: the smaller eigenvalue of the gradients around it (Shi and Tomasi, 1994)."""
    padded = F.pad(grey(picture)[None], (1, 1, 1, 1), mode="replicate")[0]
    down, across = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1], padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    dd, aa, da = (_blurred(product, 1.5) for product in (down * down, across * across, down * across))
    smaller = (dd + aa) / 2 - ((dd - aa).square() / 4 + da.square()).clamp(min=0).sqrt()
    return picture, (2 * smaller.clamp(min=0).sqrt()).clamp(max=1).expand(3, -1, -1)


def reshaded(normals: Float[Tensor, "3 h w"]) -> Picture:
    """A grey surface with these normals (x right, y down, z away), lit from above the left of the camera."""
    light = F.normalize(normals.new_tensor([-1.0, -1.0, -2.0]), dim=0)
    return (normals * light[:, None, None]).sum(0, keepdim=True).clamp(0, 1).expand(3, -1, -1)


def _as_it_is(picture: Picture, draws: NDArray[np.float64]) -> tuple[Picture, Picture]:  # noqa: ARG001
    """The picture itself: with a `scale` above 1, as super-resolution."""
    return picture, picture


OPERATORS: dict[str, Operator] = {
    "denoise": _denoise,
    "deblur": _deblur,
    "inpaint": _inpaint,
    "colourise": _colourise,
    "enlighten": _enlighten,
    "smooth": _smooth,
    "sharpen": _sharpen,
    "sobel": _sobel,
    "equalise": _equalise,
    "corners": _corners,
    "identity": _as_it_is,
}
RESHADE = "reshade"
"""The operator whose answer is made from normals, which the task's target names."""

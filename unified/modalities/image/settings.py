"""Settings of images in recipes and config.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unified.core.bounds import Count, Depth, Positive


@dataclass(frozen=True)
class ImageSettings:
    """How images are read and embedded."""

    tokenizer: str = "image"
    """A folder in tokenizers/, or a path: size, resize mode, mean and standard deviation."""
    patch: Depth = 16
    positions: Literal["sincos", "learned"] = "sincos"
    position_scale: Positive = 1.0
    """Multiplies the grid of fixed positions: 160/224 keeps the positions of a 160-pixel model at 224 pixels."""
    grid: Depth = 14
    """Side of the table of learned positions; other grids interpolate it."""
    frames: Count = 8
    """Rows of the learned table of temporal positions; an image uses the first."""


def _image(
    settings: ImageSettings, height: int, width: int, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    return {
        "patch": settings.patch,
        "positions": settings.positions,
        "position_scale": settings.position_scale,
        "grid": settings.grid,
        "frames": settings.frames,
        "height": height,
        "width": width,
        "mean": list(mean),
        "std": list(std),
    }

"""Settings of images in recipes and config.json."""

from dataclasses import dataclass
from typing import Literal

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

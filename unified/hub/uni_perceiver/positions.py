"""The fixed positions of an official image embedding: which scale a file was made with."""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from unified.core.errors import UserError
from unified.modalities.image.embedding import sincos

TRAINED = 160
"""Pixels of a side in the first stage of pretraining, whose positions the second stage keeps."""
EXACT = 1e-5
ROUNDED = {torch.float16: 1e-3, torch.bfloat16: 1e-2}
"""Largest difference of a table that once was in half precision, whatever it is stored in now."""


def table(side: int, width: int, scale: float) -> Float[Tensor, "places width"]:
    """The positions of a square of patches in reading order."""
    axis = torch.arange(side, dtype=torch.float32) * scale
    return sincos(torch.cartesian_prod(axis, axis)[None], width)[0]


def find_scale(
    file: Path, stored: Float[Tensor, "places width"], patch: int, given: float | None
) -> tuple[float, float]:
    """The scale whose table is stored, and how far the stored one is from it (largest difference).

    Scales are 1 and 160 over the image's side, as the authors' settings have it; one that is given is taken as it is.
    """
    places, width = stored.shape
    side = math.isqrt(places)
    if side * side != places or width % 4:
        raise UserError(f"{file}: {places} positions of width {width}; expected a square, and a multiple of 4")
    scales = (1.0, TRAINED / (side * patch)) if given is None else (given,)
    distances = {scale: float((stored.float() - table(side, width, scale)).abs().max()) for scale in scales}
    best = min(distances, key=lambda scale: distances[scale])
    if given is None and distances[best] > _tolerance(stored):
        words = ", ".join(f"{distance:.3g} from scale {scale:.4g}" for scale, distance in distances.items())
        raise UserError(
            f"{file}: the stored positions of patches are no table of sines that is known here: the largest difference "
            f"is {words}. Positions are computed, not stored, in this package; --position-scale NUMBER takes another "
            "scale, whatever is stored"
        )
    return best, distances[best]


def _tolerance(stored: Tensor) -> float:
    whole = stored.float()
    fits = [limit for kind, limit in ROUNDED.items() if torch.equal(whole.to(kind).float(), whole)]
    return min(fits, default=EXACT)

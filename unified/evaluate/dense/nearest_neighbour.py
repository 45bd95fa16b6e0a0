"""The nearest training picture as a baseline: what is right of it is the answer, as if pictures were only remembered.

Near is what has a small distance (L2) between copies of 8 × 8 pixels, over all colours; of equal ones the first.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from unified.data.augment.geometric import resized
from unified.evaluate.dense.baseline_maps import Baseline, Nearest
from unified.evaluate.dense.scores import Answer
from unified.evaluate.dense.targets import Truth

NEAREST = "nearest training picture"
SIDE = 8
"""Height and width of a copy that stands for a picture."""
BLOCK = 65_536
"""Copies that are compared at once: 50 MB."""


def small_copy(picture: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "192"]:
    """A copy of 8 × 8 pixels, whatever the picture's size and aspect."""
    size = (SIDE, SIDE)
    return F.interpolate(picture[None].contiguous(), size, mode="bilinear", antialias=True).flatten()


class Copies:
    """Small copies of pictures: 192 bytes each."""

    def __init__(self) -> None:
        self._copies: list[Tensor] = []

    def of_all(self, truths: Iterable[Truth]) -> Iterator[Truth]:
        """The same truths, whose pictures are copied on their way."""
        for truth in truths:
            self._copies.append(small_copy(truth.picture))
            yield truth

    def finder(self) -> Callable[[UInt8[Tensor, "3 h w"]], int]:
        """Finds the number of the picture that is nearest to one."""
        copies = torch.stack(self._copies)

        def nearest(picture: Tensor) -> int:
            own = small_copy(picture).int()
            return int(torch.cat([(of.int() - own).square().sum(1) for of in copies.split(BLOCK)]).argmin())

        return nearest


def nearest_picture(known: Nearest, training: Sequence[Truth], copies: Copies, otherwise: Baseline) -> Baseline:
    """Answer with what is right of the nearest picture, brought to the size of the one that is asked about.

    Args:
        known: Makes an answer of a truth.
        training: What is right of training pictures.
        copies: Of these pictures, in their order.
        otherwise: Answers where the nearest one knows nothing.
    """
    find = copies.finder()

    def answer(picture: Tensor) -> Answer:
        truth = training[find(picture)]
        scene = resized(truth.scene, picture.shape[1], picture.shape[2], "bilinear")
        return known(replace(truth, scene=scene), otherwise(picture))

    return answer

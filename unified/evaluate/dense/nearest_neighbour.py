"""The nearest training picture as a floor: what is right of it is the answer, as if pictures were only remembered.

Near is what has a small distance (L2) between copies of 8 × 8 pixels, over all colours; of equal ones the first.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from unified.core.types import IGNORE
from unified.data.augment.geometric import Scene, resized
from unified.evaluate.dense.scores import Answer
from unified.evaluate.dense.targets import Truth

NEAREST = "nearest training picture"
SIDE = 8
"""Height and width of a copy that stands for a picture."""
BLOCK = 65_536
"""Copies that are compared at once: 50 MB."""
VALUES = {"bins": "values", "directions": "vectors", "share": "share", "pixels": "image"}
"""How the answer of what is read from a map of values is called."""


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


def nearest_picture(
    read: str, training: Sequence[Truth], copies: Copies, otherwise: Callable[[Tensor], Answer]
) -> Callable[[UInt8[Tensor, "3 h w"]], Answer]:
    """Answers with what is right of the nearest picture, brought to the size of the one that is asked about.

    `copies`: those of `training`, in its order; `otherwise`: what is answered where the nearest one knows nothing.
    """
    find = copies.finder()

    def answer(picture: Tensor) -> Answer:
        truth = training[find(picture)]
        scene = resized(truth.scene, picture.shape[1], picture.shape[2], "bilinear")
        return _known(read, scene, truth.presence, otherwise(picture))

    return answer


def _known(read: str, scene: Scene, presence: Tensor | None, otherwise: Answer) -> Answer:
    """What is known as an answer about what is read; what is not is answered otherwise."""
    if scene.labels is not None:
        return {"labels": torch.where(scene.labels == IGNORE, otherwise["labels"], scene.labels)}
    if scene.values is not None:
        assert scene.valid is not None
        name = VALUES[read]
        several = otherwise[name].dim() == 3
        values, valid = (scene.values, scene.valid) if several else (scene.values[0], scene.valid[0])
        return {name: torch.where(valid, values, otherwise[name])}
    if scene.points is not None:
        there = scene.points[:, 2] > 0
        points = torch.where(there[:, None], scene.points[:, :2], otherwise["points"])
        return {"points": points, "scores": there.float()}
    if presence is not None:
        return {"presence": torch.where(presence < 0, otherwise["presence"], presence)}
    assert scene.boxes is not None
    if read == "density":
        return {"count": len(scene.boxes)}
    found: Answer = {"boxes": scene.boxes, "labels": scene.classes, "scores": torch.ones(len(scene.boxes))}
    return found if scene.masks is None else {**found, "masks": scene.masks}

"""Trivial answers: what they are, and means of targets on a common grid."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from unified.answers.map import maps
from unified.evaluate.dense.scores import Answer
from unified.evaluate.dense.targets import Truth

GRID = (32, 32)
"""Places of a picture of any size at which maps are averaged."""


Floor = Callable[[UInt8[Tensor, "3 h w"]], Answer]
"""Answers about a picture; what is right of it is not told."""


Floors = dict[str, Floor]
"""By what they are called."""


def _on_grid(of: Tensor) -> Tensor:
    """Values (c, h, w) at the places of the grid, of the nearest pixels."""
    rows, columns = (((torch.arange(n) + 0.5) * side / n).long() for n, side in zip(GRID, of.shape[-2:], strict=True))
    return of[:, rows[:, None], columns]


def _size(of: Tensor) -> tuple[int, int]:
    return of.shape[-2], of.shape[-1]


def _whole(of: Tensor) -> Tensor:
    """Width and height."""
    return torch.tensor([of.shape[-1], of.shape[-2]])


def _mean_maps(truths: Iterable[Truth]) -> tuple[Tensor, Tensor]:
    """The mean of known values at each place, where there are none that of all; and that of all at each place."""
    total, count = torch.zeros(()), torch.zeros(())
    for truth in truths:
        assert truth.scene.values is not None
        assert truth.scene.valid is not None
        valid = _on_grid(truth.scene.valid).float()
        total = total + torch.where(valid > 0, _on_grid(truth.scene.values), 0.0)
        count = count + valid
    mean = total.sum(dim=(1, 2), keepdim=True) / count.sum().clamp(min=1)
    return torch.where(count > 0, total / count.clamp(min=1), mean), mean.expand(total.shape)


def _means(name: str) -> Callable[..., Floors]:
    """Both: with few pictures, one number for all places may be the better answer."""

    def fit(truths: Iterable[Truth], spec: Any, names: Sequence[str]) -> Floors:  # noqa: ARG001
        def floor(mean: Tensor) -> Floor:
            def answer(picture: Tensor) -> Answer:
                height, width = _size(picture)
                large = maps.resized(mean[None], (spec.scale * height, spec.scale * width))[0]
                if name == "image":
                    return {name: large}
                return {name: F.normalize(large, dim=0) if name == "vectors" else large[0]}

            return answer

        each, of_all = _mean_maps(truths)
        return {"mean at each place": floor(each), "mean of all": floor(of_all)}

    return fit

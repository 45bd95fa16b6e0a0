"""Trivial answers: what they are, means of targets on a common grid, and known values as an answer."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from unified.answers.map.maps import resized
from unified.evaluate.dense.scores import Answer
from unified.evaluate.dense.targets import Truth

GRID = (32, 32)
"""Places of a picture of any size at which maps are averaged."""

Baseline = Callable[[UInt8[Tensor, "3 h w"]], Answer]
"""Answers about a picture; what is right of it is not told."""

Baselines = dict[str, Baseline]
"""By what they are called."""

Fit = Callable[[Iterable[Truth], Any, Sequence[str]], Baselines]
"""Fits baselines to truths of training data, for a spec of the kind and names of its queries."""

Nearest = Callable[[Truth, Answer], Answer]
"""What a truth says as an answer; the second one stands where it says nothing."""


def on_grid(of: Tensor) -> Tensor:
    """Values (c, h, w) at the places of the grid, of the nearest pixels."""
    rows, columns = (((torch.arange(n) + 0.5) * side / n).long() for n, side in zip(GRID, of.shape[-2:], strict=True))
    return of[:, rows[:, None], columns]


def size_of(of: Tensor) -> tuple[int, int]:
    """Height and width."""
    return of.shape[-2], of.shape[-1]


def extent(of: Tensor) -> Tensor:
    """Width and height."""
    return torch.tensor([of.shape[-1], of.shape[-2]])


def _mean_maps(truths: Iterable[Truth]) -> tuple[Tensor, Tensor]:
    """The mean of known values at each place, where there are none that of all; and that of all at each place."""
    total, count = torch.zeros(()), torch.zeros(())
    for truth in truths:
        assert truth.scene.values is not None
        assert truth.scene.valid is not None
        valid = on_grid(truth.scene.valid).float()
        total = total + torch.where(valid > 0, on_grid(truth.scene.values), 0.0)
        count = count + valid
    mean = total.sum(dim=(1, 2), keepdim=True) / count.sum().clamp(min=1)
    return torch.where(count > 0, total / count.clamp(min=1), mean), mean.expand(total.shape)


def mean_maps(
    key: str, finish: Callable[[Tensor], Tensor] = lambda mean: mean[0], scale: Callable[[Any], int] = lambda _: 1
) -> Fit:
    """Return what fits means: with few pictures, one number for all places may be the better answer.

    Args:
        key: Of the map in an answer.
        finish: Makes an answer of the mean (c, h, w).
        scale: How much larger than the picture answers are.
    """

    def fit(truths: Iterable[Truth], spec: Any, names: Sequence[str]) -> Baselines:  # noqa: ARG001
        def baseline(mean: Tensor) -> Baseline:
            def answer(picture: Tensor) -> Answer:
                height, width = (scale(spec) * side for side in size_of(picture))
                return {key: finish(resized(mean[None], (height, width))[0])}

            return answer

        each, of_all = _mean_maps(truths)
        return {"mean at each place": baseline(each), "mean of all": baseline(of_all)}

    return fit


def known_map(key: str) -> Nearest:
    """Return what makes an answer of the known values of a map; `key`: of the map in an answer."""

    def answer(truth: Truth, otherwise: Answer) -> Answer:
        values, valid = truth.scene.values, truth.scene.valid
        assert values is not None
        assert valid is not None
        if otherwise[key].dim() == 2:
            values, valid = values[0], valid[0]
        return {key: torch.where(valid, values, otherwise[key])}

    return answer

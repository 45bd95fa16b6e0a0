"""What the scores of all kinds of answers share."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from unified.core.statistics import mean, proportion
from unified.evaluate.answers import ItemAnswers
from unified.evaluate.dense.targets import Truth
from unified.evaluate.results import Measure

Answer = dict[str, Any]
Clusters = NDArray[np.int64] | None


def mean_measure(name: str, values: ArrayLike, clusters: Clusters, terms: ArrayLike | None = None) -> Measure:
    """A mean over pictures, or with `terms` over what they hold; those with 0 terms count nowhere."""
    array = np.asarray(values, dtype=np.float64)
    if terms is None:
        return Measure(name, mean(array, clusters), values=array)
    counted = np.asarray(terms, dtype=np.float64)
    return Measure(name, mean(array, clusters, counted), values=array, terms=counted)


def share_measure(name: str, right: ArrayLike, clusters: Clusters, terms: ArrayLike) -> Measure:
    """The share of right ones among `terms` of each picture."""
    array, counted = np.asarray(right, dtype=np.float64), np.asarray(terms, dtype=np.float64)
    return Measure(name, proportion(array, clusters, counted), values=array, terms=counted)


class Scores(ABC):
    """The scores of answers of one kind about images."""

    @abstractmethod
    def add(self, answer: Answer, truth: Truth) -> None:
        """Add one image's answer, as `predict` of its kind gives it, and the truth of the same size."""

    @abstractmethod
    def measures(self, key: str, clusters: Clusters) -> tuple[Measure, ...]:
        """Return the numbers; none where the truth says nothing.

        Args:
            key: Keys resampling.
            clusters: Numbers of the images (n,), equal for those that belong together; None: each is its own.
        """

    def clusters(self) -> Clusters:
        """Return the clusters that the answers themselves make; None: none."""
        return None

    def notes(self) -> dict[str, Any]:
        """Return what else the results say; `how` stands in the table."""
        return {}

    def per_class(self) -> dict[str, float | None] | None:
        """Return the main number of each class; None where there are no classes."""
        return None

    def answers(self) -> ItemAnswers | None:
        """Return the answer about each image; None where it is too large to list."""
        return None


class PictureMeans(Scores):
    """Numbers of one picture each, averaged over pictures; those without any valid pixel count nowhere."""

    names: tuple[str, ...]
    how = "means over pictures"

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...] | None] = []

    def measures(self, key: str, clusters: Clusters) -> tuple[Measure, ...]:  # noqa: ARG002
        """A mean for each name."""
        known = np.array([row is not None for row in self.rows], dtype=np.float64)
        table = np.array([row if row is not None else (0.0,) * len(self.names) for row in self.rows])
        terms = None if known.all() else known
        if not known.any():
            return ()
        return tuple(mean_measure(name, table[:, i], clusters, terms) for i, name in enumerate(self.names))

    def notes(self) -> dict[str, Any]:
        """How the numbers were made, and pictures that have none."""
        missing = sum(row is None for row in self.rows)
        return {"how": self.how, "pictures_without_truth": missing}


def known_values(truth: Truth) -> tuple[Float[Tensor, "c h w"], Bool[Tensor, "h w"]] | None:
    """The values of a picture and where they are known; None where none is."""
    assert truth.scene.values is not None
    assert truth.scene.valid is not None
    valid = truth.scene.valid[0]
    return (truth.scene.values, valid) if valid.any() else None

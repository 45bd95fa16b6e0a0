"""What each item was answered, beside what is right: for confusion matrices, calibration, and reading the mistakes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from unified.core.metrics import BLOCK, predictions

DIGITS = 6


@dataclass(frozen=True)
class ItemAnswers:
    """Truth, answer and score of all items, in their order.

    Classes are numbers into `classes`; other answers are texts or keys. With several seeds `answer` and `score` have a
    row for each.
    """

    truth: Sequence[Any] | NDArray[Any]
    answer: Sequence[Any] | NDArray[Any]
    score: NDArray[Any] | None = None
    """Of the answer: a probability where `probability`, else what the answer was chosen by."""
    classes: tuple[str, ...] | None = None
    probability: bool = False

    def content(self) -> dict[str, Any]:
        """The answers as the items of a result hold them."""
        return {
            "classes": None if self.classes is None else list(self.classes),
            "truth": _plain(self.truth),
            "answer": _plain(self.answer),
            "score": None if self.score is None else _plain(self.score),
            "score_is_probability": self.probability,
        }


def _plain(values: Any) -> Any:
    if not isinstance(values, np.ndarray):
        return list(values)
    return np.round(values.astype(np.float64), DIGITS).tolist() if values.dtype.kind == "f" else values.tolist()


def best_classes(
    features: NDArray[np.float32], weights: Float[Tensor, "c w"], scale: float | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the most similar class of each item, and its probability P ∝ exp(scale · cos).

    Args:
        features: Of the items (n, w), of any length.
        weights: A unit vector a class.
        scale: The inverse temperature; None: the cosine itself is the score.

    Returns:
        Class numbers (n,), of equal ones the first, and scores (n,).
    """
    found, scores = [], []
    for images in F.normalize(torch.from_numpy(features), dim=1).split(BLOCK):
        similarity = images @ weights.T
        best = predictions(similarity)
        values = similarity if scale is None else (scale * similarity.double()).softmax(1)
        found.append(best)
        scores.append(values.gather(1, best[:, None])[:, 0].double())
    return torch.cat(found).numpy(), torch.cat(scores).numpy()


def scale_of(model: Any, family: str | None) -> float | None:
    """Return the inverse temperature of a model's family; None for what only embeds."""
    return float(model.scale(family)) if hasattr(model, "scale") else None


def nearest_entries(
    queries: Float[Tensor, "q w"], gallery: Float[Tensor, "g w"]
) -> tuple[Int[Tensor, " q"], NDArray[np.float64]]:
    """Return the most similar entry of the gallery for each query, and the cosine; all vectors have length 1."""
    best, cosines = [], []
    for block in queries.split(BLOCK):
        similarity = block @ gallery.T
        best.append(predictions(similarity))
        cosines.append(similarity.gather(1, best[-1][:, None])[:, 0].double())
    return torch.cat(best), torch.cat(cosines).numpy()

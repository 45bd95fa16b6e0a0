"""k nearest neighbours on frozen features (DINOv3's protocol, eval/knn.py): soft votes weighted by similarity."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07
BLOCK = 1024


@dataclass(frozen=True)
class Neighbours:
    """Predictions of each test item by each k, and the k that leave-one-out on the training part prefers."""

    predicted: dict[int, NDArray[np.int64]]
    share: dict[int, NDArray[np.float64]]  # of the votes that the predicted class has
    best: int
    validation_accuracy: float


def nearest_neighbours(
    train: tuple[NDArray[np.float32], NDArray[np.int64]], test: NDArray[np.float32], classes: int
) -> Neighbours:
    """Vote among the nearest training items; every k is clipped to their number (less one when leaving one out)."""
    gallery = F.normalize(torch.from_numpy(np.asarray(train[0], dtype=np.float32)), dim=1)
    target = torch.from_numpy(train[1])
    sizes = sorted({min(k, len(gallery) - 1) for k in NEIGHBOURS if len(gallery) > 1} or {1})
    within = _votes(gallery, gallery, target, classes, sizes, leave_one_out=len(gallery) > 1)
    right = {k: float((predicted == target).double().mean()) for k, (predicted, _) in within.items()}
    best = max(sizes, key=lambda k: (right[k], -k))
    queries = F.normalize(torch.from_numpy(np.asarray(test, dtype=np.float32)), dim=1)
    found = _votes(queries, gallery, target, classes, sizes, leave_one_out=False)
    predicted = {k: of_k.numpy() for k, (of_k, _) in found.items()}
    share = {k: of_k.double().numpy() for k, (_, of_k) in found.items()}
    return Neighbours(predicted, share, best, right[best])


def _votes(
    queries: Tensor, gallery: Tensor, target: Tensor, classes: int, sizes: list[int], *, leave_one_out: bool
) -> dict[int, tuple[Tensor, Tensor]]:
    """By k the predicted classes, and their shares of the votes."""
    parts: dict[int, list[tuple[Tensor, Tensor]]] = {k: [] for k in sizes}
    for start in range(0, len(queries), BLOCK):
        similarity = queries[start : start + BLOCK] @ gallery.T
        if leave_one_out:
            rows = torch.arange(len(similarity))
            similarity[rows, start + rows] = -torch.inf
        near = similarity.topk(sizes[-1], dim=1)
        weight = (near.values / TEMPERATURE).softmax(1)
        for k in sizes:
            votes = torch.zeros(len(similarity), classes)
            votes.scatter_add_(1, target[near.indices[:, :k]], weight[:, :k])
            best = votes.argmax(1)
            parts[k].append((best, votes.gather(1, best[:, None])[:, 0] / votes.sum(1)))
    return {k: (torch.cat([of for of, _ in found]), torch.cat([of for _, of in found])) for k, found in parts.items()}

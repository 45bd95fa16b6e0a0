"""Measures of right and wrong, item by item where one item has a score, so that results can be paired and clustered.

Ties are ranked by (score descending, index ascending) everywhere.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 1024
"""Queries that are scored at once: memory grows with BLOCK x gallery, never with queries x gallery."""


def target_rank(scores: Float[Tensor, "b c"], target: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The place, from 0, of each row's target among its candidates."""
    _finite(scores)
    index = torch.arange(scores.shape[1], device=scores.device)
    own = scores.gather(1, target[:, None])
    ahead = (scores > own) | ((scores == own) & (index < target[:, None]))
    return ahead.sum(1)


def accuracy(scores: Float[Tensor, "b c"], target: Int[Tensor, " b"]) -> float:
    """Share of rows whose best candidate is the target."""
    return float((target_rank(scores, target) < 1).double().mean())


def predictions(scores: Float[Tensor, "b c"]) -> Int[Tensor, " b"]:
    """The best candidate of each row; of equal ones the first."""
    _finite(scores)
    return (scores == scores.amax(1, keepdim=True)).to(torch.uint8).argmax(1)


def class_recalls(correct: NDArray[Any], target: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Recall of each class (classes,) from scores between 0 and 1; NaN for a class without items."""
    count = np.bincount(target, minlength=classes).astype(np.float64)
    hits = np.bincount(target, weights=correct.astype(np.float64), minlength=classes)
    return np.divide(hits, count, out=np.full(classes, np.nan), where=count > 0)


def mean_per_class_recall(correct: NDArray[Any], target: NDArray[np.int64]) -> float:
    """The mean of the recalls of the classes that are present."""
    return float(np.nanmean(class_recalls(correct, target, int(target.max()) + 1)))


def first_positive_rank(
    queries: Float[Tensor, "q w"],
    gallery: Float[Tensor, "g w"],
    query_group: Int[Tensor, " q"],
    gallery_group: Int[Tensor, " g"],
    block: int = BLOCK,
) -> Int[Tensor, " q"]:
    """The place, from 0, of each query's best positive: the gallery items of its group are all positives.

    A query without a positive gets the size of the gallery, which no k reaches.
    """
    index = torch.arange(len(gallery), device=gallery.device)
    ranks = []
    for start in range(0, len(queries), block):
        scores = queries[start : start + block] @ gallery.T
        _finite(scores)
        positive = query_group[start : start + block, None] == gallery_group
        best = scores.masked_fill(~positive, -torch.inf).amax(1, keepdim=True)
        first = ((scores == best) & positive).to(torch.uint8).argmax(1, keepdim=True)
        ahead = ((scores > best) | ((scores == best) & (index < first))).sum(1)
        ranks.append(torch.where(positive.any(1), ahead, len(gallery)))
    return torch.cat(ranks) if ranks else index[:0]


def recall_at_k(ranks: Int[Tensor, " q"], k: int, gallery: int) -> Bool[Tensor, " q"]:
    """Whether each query has a positive among its k first; k is capped at the size of the gallery."""
    return ranks < min(k, gallery)


def exact_match(texts: Sequence[str], accepted: Sequence[Collection[str]]) -> NDArray[np.bool_]:
    """Whether each text is, apart from outer and repeated white space, one of its accepted ones."""
    return np.array(
        [_plain(text) in {_plain(a) for a in answers} for text, answers in zip(texts, accepted, strict=True)],
        dtype=bool,
    )


def perplexity(loss: float, terms: float) -> float:
    """exp of the mean loss of a term; `loss` is the sum over `terms` terms, in nats. Infinite where it overflows."""
    if terms <= 0:
        raise ValueError("perplexity needs at least one term")
    return math.inf if loss / terms > 700 else math.exp(loss / terms)  # NaN stays NaN


def _plain(text: str) -> str:
    return " ".join(text.split())


def _finite(scores: Tensor) -> None:
    # A NaN would compare as "not ahead" of anything and turn a broken model into a perfect one.
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores hold NaN or infinity: the model's features are not finite")

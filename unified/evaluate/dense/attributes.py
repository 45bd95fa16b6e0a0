"""Scores of answers about whole pictures: what there is in them, and who it is."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from unified.answers.regress.attributes import ATTRIBUTES
from unified.answers.spec import QuerySpec
from unified.core.statistics import bootstrap
from unified.evaluate.answers import ItemAnswers
from unified.evaluate.dense.baseline_maps import Baselines
from unified.evaluate.dense.evaluation import DenseEvaluation
from unified.evaluate.dense.scores import Answer, Clusters, Scores
from unified.evaluate.dense.targets import Truth
from unified.evaluate.results import Measure, Metric

DRAWS = 200
"""Resamples of an average precision, which sorts all pictures anew for each attribute."""


class PresenceScores(Scores):
    """Mean accuracy mA (the mean of the recalls of what is there and of what is not) and mAP, over attributes.

    Unknown ones do not count; attributes count in mA if both are known of some picture, in mAP if any has them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.shares: list[NDArray[np.float64]] = []
        self.there: list[NDArray[np.float64]] = []

    def add(self, answer: Answer, truth: Truth) -> None:
        """A share from 0 to 1 for each attribute."""
        self.shares.append(answer["presence"].cpu().double().numpy())
        self.there.append(truth.target.double().numpy())

    def measures(self, key: str, clusters: Clusters) -> tuple[Measure, ...]:
        """Both by resampling pictures; none where they cannot be told."""
        shares, there = np.stack(self.shares), np.stack(self.there)
        n, found = len(shares), []
        for name, of_all, draws in (("mA", _accuracies, 1000), ("map", _precisions, DRAWS)):

            def mean_of(picked: NDArray[np.int64], of_all: Any = of_all) -> float:
                values = of_all(shares[picked], there[picked])
                return float(np.nanmean(values)) if not np.isnan(values).all() else np.nan

            if not np.isnan(of_all(shares, there)).all():
                spread = bootstrap(mean_of, n, key, name, clusters=clusters, draws=draws, bounds=(0.0, 1.0))
                found.append(Measure(name, spread))
        return tuple(found)

    def answers(self) -> ItemAnswers:
        """A row an image, with a number an attribute: 1, 0, or −1 for unknown."""
        shares, there = np.stack(self.shares), np.stack(self.there)
        truth = np.where(there < 0, -1, there > 0.5).astype(np.int64)
        return ItemAnswers(truth, (shares > 0.5).astype(np.int64), shares, self.names, probability=True)

    def per_class(self) -> dict[str, float | None]:
        """Average precision of each attribute."""
        values = _precisions(np.stack(self.shares), np.stack(self.there))
        return {name: None if np.isnan(one) else float(one) for name, one in zip(self.names, values, strict=True)}

    def notes(self) -> dict[str, Any]:
        """How many attributes mA rests on."""
        counted = int((~np.isnan(_accuracies(np.stack(self.shares), np.stack(self.there)))).sum())
        return {"how": f"mA of {counted} of {len(self.names)} attributes", "attributes": counted}


def _accuracies(shares: NDArray[np.float64], there: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of both recalls of each attribute at one half; NaN where one is not known."""
    said = shares > 0.5
    positive, negative = there > 0.5, (there >= 0) & (there <= 0.5)
    with np.errstate(invalid="ignore"):
        found = (said & positive).sum(0) / positive.sum(0)
        left = (~said & negative).sum(0) / negative.sum(0)
    return (found + left) / 2  # type: ignore[no-any-return]


def _precisions(shares: NDArray[np.float64], there: NDArray[np.float64]) -> NDArray[np.float64]:
    """The average precision of each attribute; NaN where no picture is known to have it."""
    values = np.full(shares.shape[1], np.nan)
    for number in range(shares.shape[1]):
        known = there[:, number] >= 0
        if (there[known, number] > 0.5).any():
            values[number] = average_precision_score(there[known, number] > 0.5, shares[known, number])
    return values


def _prior(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Baselines:  # noqa: ARG001
    there = torch.stack([truth.target for truth in truths])
    known = there >= 0
    share = (there * known).sum(0) / known.sum(0).clamp(min=1)
    return {"share of each": lambda _: {"presence": share}}


def _known(truth: Truth, otherwise: Answer) -> Answer:
    return {"presence": torch.where(truth.target < 0, otherwise["presence"], truth.target)}


EVALUATION = DenseEvaluation(
    kind=ATTRIBUTES,
    scores=PresenceScores,
    metrics=(Metric("map", "mAP"),),
    fit=_prior,
    nearest=_known,
)

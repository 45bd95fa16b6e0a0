"""Scores of counts from density maps, and the mean count."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified.answers.spec import QuerySpec
from unified.core.statistics import bootstrap
from unified.evaluate.answers import ItemAnswers
from unified.evaluate.dense.baseline_maps import Floors
from unified.evaluate.dense.scores import Answer, Clusters, mean_measure
from unified.evaluate.dense.targets import Truth
from unified.evaluate.results import Measure


class CountScores:
    """Mean absolute error of counts, and the root of the mean squared one."""

    def __init__(self) -> None:
        self.counts: list[float] = []
        self.truths: list[int] = []

    def add(self, answer: Answer, truth: Truth) -> None:
        """A count."""
        assert truth.scene.boxes is not None
        self.counts.append(float(answer["count"]))
        self.truths.append(len(truth.scene.boxes))

    def measures(self, key: str, clusters: Clusters) -> tuple[Measure, ...]:
        """Of all pictures."""
        errors = np.array(self.counts) - np.array(self.truths)

        def root(picked: NDArray[np.int64]) -> float:
            return float(np.sqrt((errors[picked] ** 2).mean()))

        spread = bootstrap(root, len(errors), key, "count_rmse", clusters=clusters, bounds=(0.0, np.inf))
        return mean_measure("count_mae", np.abs(errors), clusters), Measure("count_rmse", spread)

    def answers(self) -> ItemAnswers:
        """Both counts of each image."""
        return ItemAnswers(np.array(self.truths), np.array(self.counts))

    def notes(self) -> dict[str, Any]:
        """Nothing to add."""
        return {}


def _mean_count(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Floors:  # noqa: ARG001
    counts = [len(truth.scene.boxes) for truth in truths if truth.scene.boxes is not None]
    mean = sum(counts) / max(len(counts), 1)
    return {"mean count": lambda _: {"count": mean}}

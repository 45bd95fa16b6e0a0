"""Scores of counts from density maps, and the mean count."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from unified.answers.map.density import DENSITY
from unified.answers.spec import QuerySpec
from unified.core.statistics import bootstrap
from unified.evaluate.answers import ItemAnswers
from unified.evaluate.dense.baseline_maps import Baselines
from unified.evaluate.dense.evaluation import DenseEvaluation
from unified.evaluate.dense.scores import Answer, Clusters, Scores, mean_measure
from unified.evaluate.dense.targets import Truth
from unified.evaluate.results import Measure, error_metric


class CountScores(Scores):
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


def _mean_count(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Baselines:  # noqa: ARG001
    counts = [len(truth.scene.boxes) for truth in truths if truth.scene.boxes is not None]
    mean = sum(counts) / max(len(counts), 1)
    return {"mean count": lambda _: {"count": mean}}


def _known(truth: Truth, otherwise: Answer) -> Answer:  # noqa: ARG001
    assert truth.scene.boxes is not None
    return {"count": len(truth.scene.boxes)}


EVALUATION = DenseEvaluation(
    kind=DENSITY,
    scores=lambda _: CountScores(),
    metrics=(error_metric("count_mae", "mean error of the count"), error_metric("count_rmse")),
    fit=_mean_count,
    nearest=_known,
)

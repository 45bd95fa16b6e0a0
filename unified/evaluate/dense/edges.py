"""Scores of edge maps."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from unified.answers.map.edges import EDGES
from unified.core.statistics import bootstrap
from unified.evaluate.dense.baseline_maps import known_map, mean_maps
from unified.evaluate.dense.evaluation import DenseEvaluation
from unified.evaluate.dense.scores import Answer, Clusters, Scores
from unified.evaluate.dense.targets import Truth
from unified.evaluate.results import Measure, Metric

THRESHOLDS = np.arange(1, 100) / 100


TOLERANCE = 0.01
"""Of the diagonal: how far an edge may lie off, along each axis."""


class EdgeScores(Scores):
    """F at the best threshold for the whole data set (ODS), and the average precision over thresholds.

    An edge pixel counts as found where an answer lies within a square of `TOLERANCE` of the diagonal, and the other way
    round. Answers are not thinned, and pixels that anybody marked are edges.
    """

    def __init__(self) -> None:
        self.counts: list[NDArray[np.int64]] = []  # of each picture (4, thresholds): as `_curve` takes them

    def add(self, answer: Answer, truth: Truth) -> None:
        """Shares (h, w)."""
        assert truth.scene.values is not None
        share, edges = answer["share"].cpu().float(), (truth.scene.values[0] > 0).float()
        reach = max(round(TOLERANCE * float(np.hypot(*share.shape))), 1)
        wide_share, wide_edges = (
            F.max_pool2d(of[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0] for of in (share, edges)
        )
        parts = (share[wide_edges > 0], share.flatten(), wide_share[edges > 0], torch.ones(int(edges.sum())))
        self.counts.append(np.stack([_above(part.numpy()) for part in parts]))

    def measures(self, key: str, clusters: Clusters) -> tuple[Measure, ...]:
        """The threshold is chosen anew in every resample."""
        counts = np.stack(self.counts)
        if not counts[:, 3].any():
            return ()

        def best(picked: NDArray[np.int64]) -> float:
            precision, recall = _curve(counts[picked].sum(0))
            return float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())

        def area(picked: NDArray[np.int64]) -> float:
            precision, recall = _curve(counts[picked].sum(0))
            return float((precision * (recall - np.append(recall[1:], 0.0))).sum())

        n = len(counts)
        f, precision = (
            bootstrap(of, n, key, name, clusters=clusters, bounds=(0.0, 1.0))
            for of, name in ((best, "ods"), (area, "ap"))
        )
        return Measure("ods_f", f), Measure("edge_ap", precision)

    def notes(self) -> dict[str, Any]:
        """What counts as found."""
        return {"how": f"within {100 * TOLERANCE:g} % of the diagonal, not thinned"}


def _above(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many values reach each threshold."""
    places = np.searchsorted(THRESHOLDS, values, side="right")
    return np.bincount(places, minlength=len(THRESHOLDS) + 1)[::-1].cumsum()[::-1][1:]


def _curve(counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall at each threshold from answers that are right, answers, edges that are found, and edges."""
    right, said, found, there = counts.astype(np.float64)
    precision = np.divide(right, said, out=np.ones_like(said), where=said > 0)
    return precision, np.divide(found, there, out=np.zeros_like(there), where=there > 0)


EVALUATION = DenseEvaluation(
    kind=EDGES,
    scores=lambda _: EdgeScores(),
    metrics=(Metric("edge_ap", "average precision"),),
    column=lambda _: "edges.png",
    fit=mean_maps("share"),
    nearest=known_map("share"),
)

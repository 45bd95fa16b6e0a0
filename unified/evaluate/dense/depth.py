"""Scores of depth maps."""

import torch

from unified.answers.map.depth import DEPTH
from unified.evaluate.dense.baseline_maps import known_map, mean_maps
from unified.evaluate.dense.evaluation import DenseEvaluation
from unified.evaluate.dense.scores import Answer, PictureMeans, known_values
from unified.evaluate.dense.targets import Truth
from unified.evaluate.results import Metric, error_metric


class DepthScores(PictureMeans):
    """Root of the mean squared error and relative error of numbers above 0, and the share within a factor of 1.25."""

    names = ("rmse", "abs_rel", "delta1")

    def add(self, answer: Answer, truth: Truth) -> None:
        """Values (h, w), in the unit of the truth."""
        known = known_values(truth)
        if known is None:
            self.rows.append(None)
            return
        values, valid = known
        ours, theirs = answer["values"].cpu()[valid].double(), values[0][valid].double()
        error = ours - theirs
        ratio = torch.maximum(ours / theirs, theirs / ours)
        near = ((ratio > 0) & (ratio < 1.25)).double().mean()
        self.rows.append(tuple(map(float, (error.square().mean().sqrt(), (error.abs() / theirs).mean(), near))))


EVALUATION = DenseEvaluation(
    kind=DEPTH,
    scores=lambda _: DepthScores(),
    metrics=(Metric("delta1", "δ < 1.25"), error_metric("rmse"), error_metric("abs_rel")),
    column=lambda _: "depth.png",
    fit=mean_maps("values"),
    nearest=known_map("values"),
)

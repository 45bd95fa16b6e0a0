"""Scores of depth maps."""

import torch

from unified.evaluate.dense.scores import Answer, PictureMeans, _known
from unified.evaluate.dense.targets import Truth


class DepthScores(PictureMeans):
    """Root of the mean squared error and relative error of numbers above 0, and the share within a factor of 1.25."""

    names = ("rmse", "abs_rel", "delta1")

    def add(self, answer: Answer, truth: Truth) -> None:
        """Values (h, w), in the unit of the truth."""
        known = _known(truth)
        if known is None:
            self.rows.append(None)
            return
        values, valid = known
        ours, theirs = answer["values"].cpu()[valid].double(), values[0][valid].double()
        error = ours - theirs
        ratio = torch.maximum(ours / theirs, theirs / ours)
        near = ((ratio > 0) & (ratio < 1.25)).double().mean()
        self.rows.append(tuple(map(float, (error.square().mean().sqrt(), (error.abs() / theirs).mean(), near))))

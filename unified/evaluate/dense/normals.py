"""Scores of maps of surface normals."""

import numpy as np
import torch.nn.functional as F

from unified.evaluate.dense.scores import Answer, PictureMeans, _known
from unified.evaluate.dense.targets import Truth

ANGLES = (11.25, 22.5, 30.0)
"""Degrees within which a direction counts as found."""


class DirectionScores(PictureMeans):
    """Mean and median angle, and the shares within some degrees."""

    names = ("angle_mean", "angle_median", *(f"within_{angle:g}" for angle in ANGLES))
    how = "means over pictures; angles in degrees"

    def add(self, answer: Answer, truth: Truth) -> None:
        """Unit vectors (3, h, w)."""
        known = _known(truth)
        if known is None:
            self.rows.append(None)
            return
        values, valid = known
        ours, theirs = (F.normalize(v.cpu()[:, valid].double(), dim=0) for v in (answer["vectors"], values))
        angle = (ours * theirs).sum(0).clamp(-1, 1).acos().rad2deg()
        within = [float((angle < limit).double().mean()) for limit in ANGLES]
        self.rows.append((float(angle.mean()), float(np.median(angle.numpy())), *within))

"""Scores of maps of surface normals."""

import numpy as np
import torch.nn.functional as F

from unified.answers.map.normals import NORMALS
from unified.evaluate.dense.baseline_maps import known_map, mean_maps
from unified.evaluate.dense.evaluation import DenseEvaluation
from unified.evaluate.dense.scores import Answer, PictureMeans, known_values
from unified.evaluate.dense.targets import Truth
from unified.evaluate.results import error_metric

COLUMN = "normals.png"
ANGLES = (11.25, 22.5, 30.0)
"""Degrees within which a direction counts as found."""


class DirectionScores(PictureMeans):
    """Mean and median angle, and the shares within some degrees."""

    names = ("angle_mean", "angle_median", *(f"within_{angle:g}" for angle in ANGLES))
    how = "means over pictures; angles in degrees"

    def add(self, answer: Answer, truth: Truth) -> None:
        """Unit vectors (3, h, w)."""
        known = known_values(truth)
        if known is None:
            self.rows.append(None)
            return
        values, valid = known
        ours, theirs = (F.normalize(v.cpu()[:, valid].double(), dim=0) for v in (answer["vectors"], values))
        angle = (ours * theirs).sum(0).clamp(-1, 1).acos().rad2deg()
        within = [float((angle < limit).double().mean()) for limit in ANGLES]
        self.rows.append((float(angle.mean()), float(np.median(angle.numpy())), *within))


EVALUATION = DenseEvaluation(
    kind=NORMALS,
    scores=lambda _: DirectionScores(),
    metrics=(error_metric("angle_mean", "mean angle, degrees"), error_metric("angle_median")),
    column=lambda _: COLUMN,
    fit=mean_maps("vectors", lambda mean: F.normalize(mean, dim=0)),
    nearest=known_map("vectors"),
)

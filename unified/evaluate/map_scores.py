"""Scores of answers that have a value at each pixel: classes, depth, directions, edges, colours, densities.

Each `add` takes one picture's answer, as `unified.readings.answers` gives it, and the truth of the same size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from unified.evaluate.answers import ItemAnswers
from unified.evaluate.results import Measure
from unified.evaluate.truths import Truth
from unified.intervals import bootstrap, mean, proportion
from unified.types import IGNORE

Answer = dict[str, Any]
Clusters = NDArray[np.int64] | None
ANGLES = (11.25, 22.5, 30.0)
"""Degrees within which a direction counts as found."""
THRESHOLDS = np.arange(1, 100) / 100
TOLERANCE = 0.01
"""Of the diagonal: how far an edge may lie off, along each axis."""
CEILING = 100.0
"""PSNR of equal pictures, which would be infinite, in dB."""


def mean_measure(name: str, values: ArrayLike, clusters: Clusters, terms: ArrayLike | None = None) -> Measure:
    """A mean over pictures, or with `terms` over what they hold; those with 0 terms count nowhere."""
    array = np.asarray(values, dtype=np.float64)
    if terms is None:
        return Measure(name, mean(array, clusters), values=array)
    counted = np.asarray(terms, dtype=np.float64)
    return Measure(name, mean(array, clusters, counted), values=array, terms=counted)


def share_measure(name: str, right: ArrayLike, clusters: Clusters, terms: ArrayLike) -> Measure:
    """The share of right ones among `terms` of each picture."""
    array, counted = np.asarray(right, dtype=np.float64), np.asarray(terms, dtype=np.float64)
    return Measure(name, proportion(array, clusters, counted), values=array, terms=counted)


class PictureMeans:
    """Numbers of one picture each, averaged over pictures; those without any valid pixel count nowhere."""

    names: tuple[str, ...]
    how = "means over pictures"

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...] | None] = []

    def measures(self, key: str, clusters: Clusters) -> tuple[Measure, ...]:  # noqa: ARG002
        """A mean for each name."""
        known = np.array([row is not None for row in self.rows], dtype=np.float64)
        table = np.array([row if row is not None else (0.0,) * len(self.names) for row in self.rows])
        terms = None if known.all() else known
        if not known.any():
            return ()
        return tuple(mean_measure(name, table[:, i], clusters, terms) for i, name in enumerate(self.names))

    def notes(self) -> dict[str, Any]:
        """How the numbers were made, and pictures that have none."""
        missing = sum(row is None for row in self.rows)
        return {"how": self.how, "pictures_without_truth": missing}


class ClassScores:
    """mIoU of the summed confusion matrix, and the share of pixels that are right."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.counts: list[NDArray[np.int64]] = []  # of each picture: right, said, true pixels of each class (3, c)

    def add(self, answer: Answer, truth: Truth) -> None:
        """Labels (h, w)."""
        assert truth.scene.labels is not None
        valid = truth.scene.labels != IGNORE
        said, true = answer["labels"].cpu()[valid].numpy(), truth.scene.labels[valid].numpy()
        parts = (said[said == true], said, true)
        self.counts.append(np.stack([np.bincount(part, minlength=len(self.names)) for part in parts]))

    def measures(self, key: str, clusters: Clusters) -> tuple[Measure, ...]:
        """Classes that neither answers nor truth have do not count in the mean."""
        counts = np.stack(self.counts)
        right, valid = counts[:, 0].sum(1), counts[:, 2].sum(1)
        if not valid.any():
            return ()
        miou = bootstrap(
            lambda picked: float(np.nanmean(_overlaps(counts[picked].sum(0)))), len(counts), key, "miou",
            clusters=clusters, bounds=(0.0, 1.0),
        )  # fmt: skip
        return Measure("miou", miou), share_measure("pixel_accuracy", right, clusters, valid)

    def per_class(self) -> dict[str, float | None]:
        """IoU of each class; None for those that are nowhere."""
        found = _overlaps(np.stack(self.counts).sum(0))
        return {name: None if np.isnan(one) else float(one) for name, one in zip(self.names, found, strict=True)}

    def notes(self) -> dict[str, Any]:
        """How many classes the mean leaves out."""
        absent = sum(one is None for one in self.per_class().values())
        return {"how": f"{absent} classes nowhere" if absent else "", "absent_classes": absent}


def _overlaps(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU from right, said and true pixels of each class; NaN where there is none."""
    right, union = counts[0], counts[1] + counts[2] - counts[0]
    if not union.any():
        return np.zeros(1)
    return np.divide(right, union, out=np.full(len(right), np.nan), where=union > 0)


def _known(truth: Truth) -> tuple[Float[Tensor, "c h w"], Bool[Tensor, "h w"]] | None:
    """The values of a picture and where they are known; None where none is."""
    assert truth.scene.values is not None
    assert truth.scene.valid is not None
    valid = truth.scene.valid[0]
    return (truth.scene.values, valid) if valid.any() else None


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


class EdgeScores:
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


class PixelScores(PictureMeans):
    """PSNR in dB and SSIM, by torchmetrics; pixels that are not known are taken as right."""

    names = ("psnr", "ssim")

    def add(self, answer: Answer, truth: Truth) -> None:
        """Pictures (3, h, w) from 0 to 1."""
        from torchmetrics.functional.image import (  # takes seconds, and few evaluations need it
            peak_signal_noise_ratio,
            structural_similarity_index_measure,
        )

        assert truth.scene.values is not None
        assert truth.scene.valid is not None
        theirs = truth.scene.values[None].float()
        ours = torch.where(truth.scene.valid[None], answer["image"].cpu()[None].float(), theirs)
        psnr = min(float(peak_signal_noise_ratio(ours, theirs, data_range=1.0)), CEILING)
        ssim = structural_similarity_index_measure(ours, theirs, data_range=1.0)
        self.rows.append((psnr, float(ssim)))  # type: ignore[arg-type]


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


MAP_SCORES: dict[str, Callable[[], Any]] = {
    "bins": DepthScores,
    "directions": DirectionScores,
    "share": EdgeScores,
    "pixels": PixelScores,
    "density": CountScores,
}

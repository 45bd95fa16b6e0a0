"""Scores of named points: PCK and distance, and OKS where objects have points."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unified.answers.base import SceneExample
from unified.answers.map.heatmaps import HEATMAPS
from unified.answers.regress.keypoints import KEYPOINTS
from unified.answers.spec import QuerySpec
from unified.core.types import Sample
from unified.data.cuts import Beside, read_cut
from unified.data.samples import annotations as said
from unified.evaluate.dense.baseline_maps import Baselines, extent
from unified.evaluate.dense.evaluation import DenseEvaluation
from unified.evaluate.dense.objects import AveragePrecision
from unified.evaluate.dense.scores import Answer, Clusters, Scores, mean_measure, share_measure
from unified.evaluate.dense.targets import Truth, read_scene
from unified.evaluate.results import Measure, error_metric
from unified.pipeline.dense_collate import SceneCollator

NEAR = 0.1
"""Of the diagonal: how near a point must be."""
COCO_SIGMAS = (0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89)
"""Of COCO's 17 joints in their order, times 10 (pycocotools, `Params.setKpParams`); other points have `SIGMA`."""
COCO_JOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
SIGMA = 0.5


class PointScores(Scores):
    """The share of known points that are near enough, and the mean distance in pixels.

    Near is a tenth of the diagonal: of the body's box where a picture has one object, else of the picture. Where
    objects have points, the answer is also one body for OKS, by pycocotools: e^(−d² / (2 s² k²)) of each labelled
    point, where s² is the area of the object and k twice the sigma of the point. As in COCO's own evaluation, crowds
    and bodies without a labelled point are neither asked for nor counted against. Cuts of one image are matched, and
    resampled, as that image.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.rows: list[tuple[float, float, int]] = []  # near, summed distance, known points of each picture
        self.boxes = 0
        self.firsts: list[int] = []  # the row of each picture of `bodies`, of its first cut where it comes in cuts
        self.areas: Counter[str] = Counter()  # of the labelled bodies, by where they come from
        self.bodies = AveragePrecision("keypoints", ("body",), [sigma / 10 for sigma in joint_sigmas(names)])

    def add(self, answer: Answer, truth: Truth) -> None:
        """Points (j, 2) in pixels, and scores (j,)."""
        objects, points = truth.objects, truth.scene.points
        assert points is not None
        diagonal = float(np.hypot(*truth.size))
        if objects is not None and len(objects.boxes) == 1:
            x0, y0, x1, y1 = objects.boxes[0].tolist()
            diagonal, self.boxes = float(np.hypot(x1 - x0, y1 - y0)), self.boxes + 1
        known = points[:, 2] > 0
        found = answer["points"].cpu().float()
        distance = (found - points[:, :2]).norm(dim=1)[known]
        self.rows.append((float((distance <= NEAR * diagonal).sum()), float(distance.sum()), int(known.sum())))
        self._add_bodies(found, answer["scores"].cpu(), truth)

    def _add_bodies(self, found: Tensor, scores: Tensor, truth: Truth) -> None:
        objects = truth.objects
        if objects is None:
            return
        # Of a cut, everything is moved to its place in the image.
        corner = torch.tensor([truth.cut.left, truth.cut.top] if truth.cut is not None else [0.0, 0.0])
        found, known = found + corner, objects.points + torch.cat([corner, torch.zeros(1)])
        truths = [
            {**_body(points, box, float(area)), "iscrowd": int(crowd)}
            for points, box, area, crowd in zip(
                known, objects.boxes + corner.repeat(2), objects.area, objects.crowd, strict=True
            )
        ]
        labelled = [bool(one["num_keypoints"] and not one["iscrowd"]) for one in truths]
        if any(labelled):
            self.areas.update(itertools.compress(objects.area_sources, labelled))
            name, beside = (truth.cut.image, truth.cut.beside) if truth.cut is not None else (None, ())
            if name is None or name not in self.bodies.named:
                self.firsts.append(len(self.rows) - 1)
                truths += [_unlabelled(body, len(found)) for body in beside]
            low, high = found.amin(0), found.amax(0)
            points = torch.cat([found, torch.ones(len(found), 1)], dim=1)
            ours = _body(points, torch.cat([low, high]), float((high - low).prod()))
            self.bodies.add(truths, [{**ours, "score": float(scores.mean())}], truth.size, name)

    def measures(self, key: str, clusters: Clusters) -> tuple[Measure, ...]:
        """Means over points; pictures are resampled, or their clusters."""
        near, distance, known = np.array(self.rows, dtype=np.float64).T
        if not known.any():
            return ()
        found = [
            share_measure("pck@0.1", near, clusters, known),
            mean_measure("distance_px", distance, clusters, known),
        ]
        if self.bodies.pictures:
            within = None if clusters is None else clusters[self.firsts]
            found += self.bodies.measures(key, within, "oks_")
        return tuple(found)

    def notes(self) -> dict[str, Any]:
        """Of what diagonal a tenth is near, and where the areas of OKS come from."""
        of = "picture" if not self.boxes else "body" if self.boxes == len(self.rows) else "body, or of the picture"
        near = f"near: a tenth of the diagonal of the {of}"
        if not self.areas:
            return {"how": near, "boxes": self.boxes}
        areas = ", ".join(f"{count} from the {source}" for source, count in sorted(self.areas.items()))
        return {"how": f"{near}; OKS: areas, {areas}", "boxes": self.boxes, "areas": dict(sorted(self.areas.items()))}


def joint_sigmas(names: Sequence[str]) -> tuple[float, ...]:
    """The sigmas of COCO's joints, in any order and number, or of 17 points; `SIGMA` for each of all others."""
    by_name = dict(zip(COCO_JOINTS, COCO_SIGMAS, strict=True))
    if set(names) <= set(by_name):
        return tuple(by_name[name] for name in names)
    return COCO_SIGMAS if len(names) == len(COCO_SIGMAS) else (SIGMA,) * len(names)


def _unlabelled(body: Beside, joints: int) -> dict[str, Any]:
    """A body that no answer is asked of, and none that lies on it counted against."""
    return {**_body(torch.zeros(joints, 3), torch.tensor(body.box), body.area), "iscrowd": int(body.crowd)}


def _body(points: Tensor, box: Tensor, area: float) -> dict[str, Any]:
    x0, y0, x1, y1 = box.tolist()
    sides = [x0, y0, x1 - x0, y1 - y0]
    return {
        "category_id": 0, "bbox": sides, "area": area, "keypoints": points.flatten().tolist(),
        "num_keypoints": int((points[:, 2] > 0).sum()),
    }  # fmt: skip


def _mean_points(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Baselines:  # noqa: ARG001
    total, count, pictures = torch.zeros(len(names), 2), torch.zeros(len(names)), 0
    for truth in truths:
        points = truth.scene.points
        assert points is not None
        known = points[:, 2] > 0
        total += torch.where(known[:, None], points[:, :2] / extent(truth.picture), 0.0)
        count, pictures = count + known, pictures + 1
    mean = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], 0.5)
    scores = count / max(pictures, 1)
    return {"mean points": lambda picture: {"points": mean * extent(picture), "scores": scores}}


def _known(truth: Truth, otherwise: Answer) -> Answer:
    points = truth.scene.points
    assert points is not None
    there = points[:, 2] > 0
    return {"points": torch.where(there[:, None], points[:, :2], otherwise["points"]), "scores": there.float()}


def _bodies(collator: SceneCollator, sample: Sample, example: SceneExample, number: int) -> Truth:
    """The objects that have joints, or would have if someone had labelled them; all where none has."""
    truth, facts = read_scene(collator, sample, example, number), sample[said.FACTS]
    if "objects" not in facts:
        return truth
    labels = dict.fromkeys(said.labels_of(sample, "objects"), 0)
    bodies = [item for item in facts["objects"] if "points" in item] or facts["objects"]
    objects = said.objects({**sample, said.FACTS: {**facts, "objects": bodies}}, labels, collator.asked.names)
    return replace(truth, objects=objects, cut=read_cut(sample))


EVALUATIONS = tuple(
    DenseEvaluation(
        kind=kind,
        scores=PointScores,
        metrics=(error_metric("distance_px", "mean distance, pixels"),),
        truth=_bodies,
        fit=_mean_points,
        nearest=_known,
    )
    for kind in (HEATMAPS, KEYPOINTS)
)

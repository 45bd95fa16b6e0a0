"""Average precision of boxes, masks and bodies, by pycocotools; the interval resamples pictures."""

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params
from torch import Tensor

from unified.answers.base import SceneExample
from unified.answers.regress.object_targets import SEGMENTS
from unified.answers.regress.objects import BOXES, MASKS
from unified.answers.spec import QuerySpec
from unified.core.statistics import bootstrap
from unified.core.types import Sample
from unified.data.augment.geometric import Scene
from unified.data.samples import annotations as said
from unified.evaluate.dense.baseline_maps import Baselines, extent, size_of
from unified.evaluate.dense.evaluation import DenseEvaluation
from unified.evaluate.dense.scores import Answer, Clusters, Scores
from unified.evaluate.dense.targets import Truth, read_scene
from unified.evaluate.results import Measure, Metric
from unified.pipeline.dense_collate import SceneCollator

DRAWS = 400
"""Resamples: each adds up all detections again."""
RECALLS = np.linspace(0, 1, 101)
"""At which precision is read."""
MOST = {"bbox": 100, "segm": 100, "keypoints": 20}
"""Detections of a picture, as COCO counts them."""


class AveragePrecision:
    """AP over IoU (or OKS) from 0.5 to 0.95, and AP50, over classes that the truth has."""

    def __init__(self, iou_type: str, names: Sequence[str], sigmas: Sequence[float] = ()) -> None:
        """`iou_type`: bbox, segm or keypoints, as pycocotools calls them; `sigmas`: of each keypoint."""
        self.iou_type, self.names, self.sigmas = iou_type, tuple(names), np.array(sigmas)
        self.pictures: list[dict[str, int]] = []
        self.named: dict[str, int] = {}  # pictures that come in parts
        self.truths: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []

    def add(
        self,
        truths: Sequence[dict[str, Any]],
        found: Sequence[dict[str, Any]],
        size: tuple[int, int],
        name: str | None = None,
    ) -> None:
        """Add one picture in COCO's form, or a part of the picture of a name.

        Args:
            truths: Annotations, with categories from 0.
            found: Detections, likewise.
            size: Height and width in pixels.
            name: Parts of one name are matched as one picture; None: a picture of its own.
        """
        number = self.named.get(name, len(self.pictures) + 1) if name is not None else len(self.pictures) + 1
        if number > len(self.pictures):
            self.pictures.append({"id": number, "height": size[0], "width": size[1]})
        if name is not None:
            self.named[name] = number
        for given, kept in ((truths, self.truths), (found, self.found)):
            for one in given:
                kept.append({"iscrowd": 0, **one, "id": len(kept) + 1, "image_id": number})

    def measures(self, key: str, clusters: Clusters, prefix: str = "") -> tuple[Measure, ...]:
        """None where the truth has no objects."""
        if not any(not one["iscrowd"] for one in self.truths):
            return ()
        evaluator = self._matched()
        precision = _precision(evaluator)
        n, classes = len(self.pictures), _classes(evaluator)
        found = []
        for name, rows in (("ap", slice(None)), ("ap50", slice(1))):

            def score(picked: NDArray[np.int64], rows: slice = rows) -> float:
                weights = np.bincount(picked, minlength=n)
                values = [of.precision(weights, rows) for of in classes if weights @ of.objects]
                return float(np.mean(values)) if values else np.nan

            known = precision[rows][precision[rows] > -1]
            interval = bootstrap(score, n, key, name, clusters=clusters, draws=DRAWS, bounds=(0.0, 1.0))
            found.append(Measure(f"{prefix}{name}", replace(interval, value=float(known.mean()))))
        return tuple(found)

    def per_class(self) -> dict[str, float | None]:
        """AP of each class; None for those without objects."""
        precision = _precision(self._matched())
        of_class = [precision[:, :, number] for number in range(len(self.names))]
        return {
            name: float(one[one > -1].mean()) if (one > -1).any() else None
            for name, one in zip(self.names, of_class, strict=True)
        }

    def _matched(self) -> COCOeval:
        """Detections matched with objects, picture by picture."""
        with contextlib.redirect_stdout(io.StringIO()):
            evaluator = COCOeval(self._coco(self.truths), self._coco(self.found), self.iou_type)
            params: Params = evaluator.params
            params.maxDets, params.areaRng, params.areaRngLbl = [MOST[self.iou_type]], [[0, 1e10]], ["all"]
            if len(self.sigmas):
                params.kpt_oks_sigmas = self.sigmas
            evaluator.evaluate()
        return evaluator

    def _coco(self, annotations: Sequence[dict[str, Any]]) -> COCO:
        coco = COCO()
        coco.dataset = {
            "images": self.pictures,
            "annotations": [dict(one) for one in annotations],  # the evaluator writes into them
            "categories": [{"id": number, "name": name} for number, name in enumerate(self.names)],
        }
        coco.createIndex()
        return coco


def _precision(evaluator: COCOeval) -> NDArray[np.float64]:
    """Precision (IoU, recall, classes); −1 for classes without objects."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.accumulate()
    return evaluator.eval["precision"][:, :, :, 0, 0]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Class:
    """The detections of one class in all pictures, the surest first, as they were matched."""

    pictures: NDArray[np.int64]  # (d,)
    right: NDArray[np.bool_]  # (IoU, d)
    wrong: NDArray[np.bool_]
    objects: NDArray[np.int64]  # of each picture

    def precision(self, weights: NDArray[np.int64], rows: slice) -> float:
        """The mean precision at 101 recalls, over `rows` of IoU, where pictures count so often; as in pycocotools."""
        often = weights[self.pictures]
        right, wrong = ((of[rows] * often).cumsum(1) for of in (self.right, self.wrong))
        recall = right / (weights @ self.objects)
        envelope = np.maximum.accumulate((right / np.maximum(right + wrong, 1))[:, ::-1], axis=1)[:, ::-1]
        padded = np.pad(envelope, ((0, 0), (0, 1)))  # recalls that are not reached
        places = [np.searchsorted(of, RECALLS) for of in recall]
        return float(np.mean([of[place] for of, place in zip(padded, places, strict=True)]))


def _classes(evaluator: COCOeval) -> list[_Class]:
    """By class, what pycocotools matched: adding that up is quicker than asking it again for each resample."""
    found = []
    of_class = np.array(evaluator.evalImgs, dtype=object).reshape(len(evaluator.params.catIds), -1)
    for rows in of_class:
        held = [(number, row) for number, row in enumerate(rows) if row is not None]
        objects = np.zeros(len(rows), dtype=np.int64)
        for number, row in held:
            objects[number] = (np.asarray(row["gtIgnore"]) == 0).sum()
        if not objects.any():
            continue
        scores = np.concatenate([row["dtScores"] for _, row in held])
        order = np.argsort(-scores, kind="stable")
        matched, ignored = (
            np.concatenate([row[name] for _, row in held], axis=1)[:, order].astype(bool)
            for name in ("dtMatches", "dtIgnore")
        )
        pictures = np.repeat([number for number, _ in held], [len(row["dtScores"]) for _, row in held])[order]
        found.append(_Class(pictures, matched & ~ignored, ~matched & ~ignored, objects))
    return found


class ObjectScores(Scores):
    """AP of boxes, and of masks where answers have them. Crowds are neither asked for nor counted against."""

    def __init__(self, names: Sequence[str], masks: bool) -> None:
        self.boxes = AveragePrecision("bbox", names)
        self.masks = AveragePrecision("segm", names) if masks else None
        self.objects = 0

    def add(self, answer: Answer, truth: Truth) -> None:
        """Boxes by corners in pixels (k, 4), labels, scores, and masks (k, h, w)."""
        there = truth.objects
        assert there is not None
        self.objects += int((~there.crowd).sum())
        truths = [
            {"category_id": int(label), "bbox": _sides(box), "iscrowd": int(crowd), "area": float(area)}
            for label, box, crowd, area in zip(there.labels, there.boxes, there.crowd, there.area, strict=True)
        ]
        labels, scores = answer["labels"].tolist(), answer["scores"].tolist()
        found = [
            {"category_id": label, "score": score, "bbox": _sides(box), "area": _area(box)}
            for label, score, box in zip(labels, scores, answer["boxes"].cpu(), strict=True)
        ]
        self.boxes.add(truths, found, truth.size)
        if self.masks is None:
            return
        regions = [
            {**one, "segmentation": mask} for one, mask in zip(truths, there.masks, strict=True) if mask is not None
        ]
        encoded = coco_mask.encode(np.asfortranarray(answer["masks"].cpu().permute(1, 2, 0).numpy().astype(np.uint8)))
        covered = [
            {**one, "segmentation": mask, "area": float(coco_mask.area(mask))}
            for one, mask in zip(found, encoded, strict=True)
        ]
        self.masks.add(regions, covered, truth.size)

    def measures(self, key: str, clusters: Clusters) -> tuple[Measure, ...]:
        """Of masks first."""
        of_masks = self.masks.measures(key, clusters, "mask_") if self.masks is not None else ()
        return (*of_masks, *self.boxes.measures(key, clusters, "box_"))

    def per_class(self) -> dict[str, float | None]:
        """AP of each class: of masks if there are any, else of boxes."""
        return (self.masks or self.boxes).per_class()

    def notes(self) -> dict[str, Any]:
        """How many objects the numbers rest on."""
        return {"how": f"{self.objects} objects", "objects": self.objects}


def _sides(box: Tensor) -> list[float]:
    """Corner, width and height, as COCO has boxes."""
    x0, y0, x1, y1 = box.tolist()
    return [x0, y0, x1 - x0, y1 - y0]


def _area(box: Tensor) -> float:
    x0, y0, x1, y1 = box.tolist()
    return float((x1 - x0) * (y1 - y0))


def _mean_boxes(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Baselines:  # noqa: ARG001
    """The mean box of each class, as likely as pictures have the class."""
    boxes, count, having, pictures = torch.zeros(len(names), 4), torch.zeros(len(names)), torch.zeros(len(names)), 0
    for truth in truths:
        assert truth.objects is not None
        single = ~truth.objects.crowd
        labels = truth.objects.labels[single]
        boxes.index_add_(0, labels, truth.objects.boxes[single] / extent(truth.picture).repeat(2))
        ones = torch.bincount(labels, minlength=len(names)).float()
        count, having, pictures = count + ones, having + (ones > 0), pictures + 1
    mean, labels = boxes / count.clamp(min=1)[:, None], torch.arange(len(names))

    def answer(picture: Tensor) -> Answer:
        here = mean * extent(picture).repeat(2)
        return {"boxes": here, "labels": labels, "scores": having / max(pictures, 1)}

    return {"mean box of each class": answer}


def _mean_masks(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Baselines:
    """The same boxes, with all that is inside as their masks."""
    ((name, mean_boxes),) = _mean_boxes(truths, spec, names).items()

    def answer(picture: Tensor) -> Answer:
        height, width = size_of(picture)
        found = mean_boxes(picture)
        y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
        x0, y0, x1, y1 = found["boxes"].T[..., None, None]
        return {**found, "masks": (x >= x0) & (x < x1) & (y >= y0) & (y < y1)}

    return {name: answer}


def _known(truth: Truth, otherwise: Answer) -> Answer:  # noqa: ARG001
    scene = truth.scene
    assert scene.boxes is not None
    found: Answer = {"boxes": scene.boxes, "labels": scene.classes, "scores": torch.ones(len(scene.boxes))}
    return found if scene.masks is None else {**found, "masks": scene.masks}


def _objects(collator: SceneCollator, sample: Sample, example: SceneExample, number: int) -> Truth:
    segments = collator.task.target == SEGMENTS
    objects = _single(example.scene) if segments else said.objects(sample, collator.asked.classes)
    return replace(read_scene(collator, sample, example, number), objects=objects)


def _single(scene: Scene) -> said.Objects:
    """The regions that share out a picture, as objects."""
    assert scene.boxes is not None
    assert scene.classes is not None
    assert scene.areas is not None
    count, masks = len(scene.boxes), scene.masks
    kept = tuple(
        coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in (() if masks is None else masks)
    )
    return said.Objects(
        scene.boxes, scene.classes, torch.zeros(count, dtype=torch.bool), kept or (None,) * count,
        torch.zeros(count, 0, 3), area=scene.areas, area_sources=(said.MASK,) * count,
    )  # fmt: skip


_AP50 = Metric("box_ap50", "AP50 of boxes")
EVALUATIONS = (
    DenseEvaluation(
        kind=BOXES,
        scores=lambda names: ObjectScores(names, masks=False),
        metrics=(_AP50,),
        truth=_objects,
        fit=_mean_boxes,
        nearest=_known,
    ),
    DenseEvaluation(
        kind=MASKS,
        scores=lambda names: ObjectScores(names, masks=True),
        metrics=(Metric("mask_ap50", "AP50 of masks"), _AP50),
        truth=_objects,
        fit=_mean_masks,
        nearest=_known,
    ),
)

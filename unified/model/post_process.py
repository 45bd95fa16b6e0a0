"""Answers of task queries in the forms that the processors of transformers give: names, arguments and results as there.

Thin shells over `unified.answers.table.answers` and `unified.answers.regress.detections`. `outputs` is what
`UnifiedModel.ask` found for one task; `target_sizes` are (height, width) of the pictures, by default the size that the
task was trained at.

```python
import unified
from PIL import Image

model, processor = unified.load("runs/scenes")
image = Image.open("street.jpg")
features = processor(images=image, size=model.queries.specs["parts"].size)  # as in training
found = model.ask(features, ["parts", "boxes"])
sizes = [(image.height, image.width)]
labels = processor.post_process_semantic_segmentation(found["parts"], target_sizes=sizes)[0]
boxes = processor.post_process_object_detection(found["boxes"], threshold=0.5, target_sizes=sizes)[0]
```
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from unified.answers.base import QueryStates
from unified.answers.regress import detections
from unified.answers.table import answers, query_kind
from unified.core.errors import UserError

Sizes = Sequence[tuple[int, int]] | Tensor | None


class PostProcessing:
    """What a processor offers to read the answers of queries with."""

    def post_process_semantic_segmentation(self, outputs: QueryStates, target_sizes: Sizes = None) -> list[Tensor]:
        """The class of each pixel (height, width), a tensor a picture; of `classes`."""
        return [answer["labels"] for answer in _answers(outputs, target_sizes, "labels", alone=True)]

    def post_process_object_detection(
        self, outputs: QueryStates, threshold: float = 0.5, target_sizes: Sizes = None
    ) -> list[dict[str, Tensor]]:
        """`scores`, `labels` and `boxes` (x0, y0, x1, y1) of objects above the threshold; of `boxes` or `masks`."""
        found = _answers(outputs, target_sizes, "boxes")
        return [
            {name: answer[name][answer["scores"] > threshold] for name in ("scores", "labels", "boxes")}
            for answer in found
        ]

    def post_process_instance_segmentation(
        self,
        outputs: QueryStates,
        threshold: float = 0.5,
        target_sizes: Sizes = None,
        return_binary_maps: bool = False,
    ) -> list[dict[str, Any]]:
        """`segmentation` (height, width) of numbers, −1 where there is nothing, and `segments_info`; of `masks`.

        Of masks that overlap the surest is on top. With `return_binary_maps` they are (segments, height, width), whole.
        """
        results = []
        for answer in _answers(outputs, target_sizes, "masks"):
            order = answer["scores"].argsort(descending=True)
            masks, labels, scores = (answer[name][order] for name in ("masks", "labels", "scores"))
            seen = (scores >= threshold) & masks.flatten(1).any(1)
            masks, info = masks[seen], []
            segmentation = torch.full(masks.shape[1:], -1, dtype=torch.int64, device=masks.device)
            rows = zip(masks, labels[seen].tolist(), scores[seen].tolist(), strict=True)
            for number, (mask, label, score) in enumerate(rows):
                segmentation[mask & (segmentation == -1)] = number
                info.append({"id": number, "label_id": label, "was_fused": False, "score": score})
            results.append({"segmentation": masks if return_binary_maps else segmentation, "segments_info": info})
        return results

    def post_process_panoptic_segmentation(
        self,
        outputs: QueryStates,
        threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        label_ids_to_fuse: Collection[int] = (),
        target_sizes: Sizes = None,
    ) -> list[dict[str, Any]]:
        """`segmentation` (height, width) of numbers from 1, 0 where there is nothing, and `segments_info`; of `masks`.

        A segment keeps at least `overlap_mask_area_threshold` of its mask. `label_ids_to_fuse`: classes without single
        things, such as the sky.
        """
        sizes = _sizes(outputs, target_sizes)
        with torch.no_grad():
            queries = query_kind(outputs.spec.read).object_queries(outputs, outputs.states[-1])
        if queries is None or queries.maps is None:
            raise UserError(f"expected answers with 'masks', got those of {outputs.spec.read!r}")
        things = torch.ones(queries.classes.shape[2], dtype=torch.bool)
        things[list(label_ids_to_fuse)] = False
        results = []
        for logits, maps, size in zip(queries.classes, queries.maps, sizes, strict=True):
            numbers, parts = detections.panoptic(
                logits, maps, size, things, threshold=threshold, kept=overlap_mask_area_threshold
            )
            info = [
                {"id": p.number, "label_id": p.label, "was_fused": not bool(things[p.label]), "score": p.score}
                for p in parts
            ]
            results.append({"segmentation": numbers, "segments_info": info})
        return results

    def post_process_pose_estimation(
        self, outputs: QueryStates, threshold: float | None = None, target_sizes: Sizes = None
    ) -> list[list[dict[str, Tensor]]]:
        """`keypoints` (x, y) in pixels, `scores`, `labels` of the one body of each picture; of `points` or `places`."""
        results = []
        for answer in _answers(outputs, target_sizes, "points"):
            seen = answer["scores"] > (-torch.inf if threshold is None else threshold)
            labels = torch.arange(len(seen), device=seen.device)
            body = {"keypoints": answer["points"][seen], "scores": answer["scores"][seen], "labels": labels[seen]}
            results.append([body])
        return results

    def post_process_depth_estimation(
        self, outputs: QueryStates, target_sizes: Sizes = None
    ) -> list[dict[str, Tensor]]:
        """`predicted_depth` (height, width), in the unit of the data; of `bins`."""
        return [{"predicted_depth": answer["values"]} for answer in _answers(outputs, target_sizes, "values")]

    def post_process_normal_estimation(
        self, outputs: QueryStates, target_sizes: Sizes = None
    ) -> list[dict[str, Tensor]]:
        """`predicted_normals` (3, height, width) of unit length: x right, y down, z away; of `directions`."""
        return [{"predicted_normals": answer["vectors"]} for answer in _answers(outputs, target_sizes, "vectors")]


def _answers(outputs: QueryStates, target_sizes: Sizes, part: str, *, alone: bool = False) -> list[dict[str, Any]]:
    """Answers that have a part; an error where they have none, or others beside one that must be `alone`."""
    found = answers(outputs, _sizes(outputs, target_sizes))
    if found and (part not in found[0] or (alone and len(found[0]) > 1)):
        raise UserError(f"expected answers with {part!r}, got {', '.join(found[0])} of {outputs.spec.read!r}")
    return found


def _sizes(outputs: QueryStates, target_sizes: Sizes) -> list[tuple[int, int]]:
    """A size for each image."""
    images = len(outputs.states[-1])
    if target_sizes is None:
        return [outputs.spec.size] * images
    sizes = [(int(height), int(width)) for height, width in target_sizes]
    if len(sizes) != images:
        raise UserError(f"target_sizes: {len(sizes)} for {images} pictures; expected (height, width) of each")
    return sizes

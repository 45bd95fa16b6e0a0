"""What samples say is right, for one task with queries."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pycocotools import mask as coco_mask
from torch import Tensor

from unified.answers.base import SceneExample
from unified.answers.regress.object_targets import SEGMENTS
from unified.answers.spec import QuerySpec
from unified.answers.table import query_kind
from unified.config.task import Task
from unified.core.types import Sample
from unified.data.augment.geometric import Scene
from unified.data.augment.image_operators import RESHADE
from unified.data.cuts import Cut, read_cut
from unified.data.samples import annotations as said
from unified.data.samples.decode import using
from unified.modalities.image.tokenizer import ImageTokenizer
from unified.pipeline.dense_collate import SceneCollator

TARGETS = {"classes": "classes.png", "bins": "depth.png", "directions": "normals.png", "share": "edges.png"}
"""Columns of maps; all else lies in the facts."""
POINTS = ("points", "places")
MANY = 10**6
"""Objects that a picture may have: more than there are queries are missed ones, and no error."""


@dataclass(frozen=True)
class Truth:
    """A picture as it is shown, and what is known of it, all in its pixels."""

    picture: UInt8[Tensor, "3 h w"]
    scene: Scene
    presence: Float[Tensor, "q"] | None = None
    objects: said.Objects | None = None
    identity: str = ""
    cut: Cut | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.picture.shape[1], self.picture.shape[2]


class Truths:
    """Reads samples for one task."""

    def __init__(
        self,
        name: str,
        spec: QuerySpec,
        names: Sequence[str],
        picture: str,
        target: str | None,
        tokenizer: ImageTokenizer,
    ) -> None:
        """`picture` and `target`: columns; `names`: of classes, points or attributes."""
        answer = query_kind(spec.read).settings_for(spec, queries=MANY)
        usual = "directions" if getattr(spec, "operator", None) == RESHADE else spec.read
        column = target or TARGETS.get(usual, said.FACTS)
        size = spec.size if min(spec.size) else None
        task = Task("", {picture: "image"}, column, answer, "score", 1, size=size)
        self.read, self.names = spec.read, tuple(names)
        self._collator = SceneCollator(name, task, tokenizer, names, (), 0)
        self.columns = self._collator.columns
        """Of a sample, those that must be decoded."""

    def __call__(self, sample: Sample, number: int) -> Truth:
        """What a decoded sample says; `number` keys what an operator draws. Raises `DataError`."""
        with using(sample):
            return self._read(sample, number)

    def _read(self, sample: Sample, number: int) -> Truth:
        example = self._collator.example(sample)
        truth = Truth(example.scene.image, example.scene, example.target)
        if self.read == "pixels":
            return self._changed(example, number)
        if self.read == "identity":
            return replace(truth, identity=said.identity(sample), presence=None)
        if self._collator.task.target == SEGMENTS:
            return replace(truth, objects=_single(example.scene))
        if self.read in ("boxes", "masks"):
            return replace(truth, objects=said.objects(sample, self._collator.asked.classes))
        if self.read in POINTS and "objects" in sample[said.FACTS]:
            return replace(truth, objects=self._bodies(sample), cut=read_cut(sample))
        return truth

    def _bodies(self, sample: Sample) -> said.Objects:
        """The objects that have joints, or would have if someone had labelled them; all where none has."""
        labels = dict.fromkeys(said.labels_of(sample, "objects"), 0)
        listed = sample[said.FACTS]["objects"]
        bodies = [item for item in listed if "points" in item] or listed
        return said.objects({**sample, said.FACTS: {**sample[said.FACTS], "objects": bodies}}, labels, self.names)

    def _changed(self, example: SceneExample, number: int) -> Truth:
        """The picture as the task's operator shows it, at the size of the task, and what it asks for."""
        (shown,), asked = self._collator.pictures([example], np.array([number]))
        return Truth(shown, Scene(shown, values=asked["map"][0], valid=asked["valid"][0]))


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

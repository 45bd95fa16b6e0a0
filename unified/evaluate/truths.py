"""What samples say is right, for one task with queries."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unified.data import scene as said
from unified.data.scene_changes import Scene, resized
from unified.data.scenes import SceneCollator
from unified.modalities.image import RESAMPLE, ImageTokenizer
from unified.query_spec import QuerySpec
from unified.task import Map, Regress, Task
from unified.types import Sample

TARGETS = {"classes": "classes.png", "bins": "depth.png", "directions": "normals.png", "share": "edges.png"}
"""Columns of maps; all else lies in the facts."""
POINTS = ("points", "places")


@dataclass(frozen=True)
class Truth:
    """A picture as it is shown, and what is known of it, all in its pixels."""

    picture: UInt8[Tensor, "3 h w"]
    scene: Scene
    presence: Float[Tensor, "q"] | None = None
    objects: said.Objects | None = None
    identity: str = ""

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
        answer: Map | Regress
        if spec.read in ("boxes", "masks", "presence", "places", "identity"):
            answer = Regress(spec.read)  # type: ignore[arg-type]
        else:
            answer = Map(spec.read, scale=spec.scale, operator=spec.operator or None)  # type: ignore[arg-type]
        column = target or TARGETS.get(spec.read, said.FACTS)
        size = spec.size if min(spec.size) else None
        task = Task("", {picture: "image"}, column, answer, "score", 1, size=size)
        self.read, self.names = spec.read, tuple(names)
        self._collator = SceneCollator(name, task, tokenizer, names, (), 0)
        self.columns = self._collator.columns
        """Of a sample, those that must be decoded."""

    def __call__(self, sample: Sample, number: int) -> Truth:
        """What a decoded sample says; `number` keys what an operator draws. Raises `DataError`."""
        example = self._collator.example(sample)
        truth = Truth(example.scene.image, example.scene, example.target)
        if self.read == "pixels":
            return self._operated(example.scene, number)
        if self.read == "identity":
            return replace(truth, identity=said.identity(sample), presence=None)
        if self.read in ("boxes", "masks"):
            return replace(truth, objects=said.objects(sample, self._collator.classes))
        if self.read in POINTS and "objects" in sample[said.FACTS]:
            labels = {item.get("label"): 0 for item in sample[said.FACTS]["objects"]}
            return replace(truth, objects=said.objects(sample, labels, self.names))
        return truth

    def _operated(self, scene: Scene, number: int) -> Truth:
        """The picture as the task's operator shows it, at the size of the task, and what it asks for."""
        of, resample = self._collator, RESAMPLE[self._collator.tokenizer.spec.resample]
        large = resized(scene, of.scale * of.height, of.scale * of.width, resample)
        (shown,), asked = of.operated([large.image], np.array([number]))
        return Truth(shown, Scene(shown, values=asked["map"][0], valid=torch.ones_like(asked["valid"][0])))

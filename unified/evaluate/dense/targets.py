"""What is right of one picture."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from unified.answers.base import SceneExample
from unified.core.types import Sample
from unified.data.augment.geometric import Scene
from unified.data.cuts import Cut
from unified.data.samples.annotations import Objects
from unified.pipeline.dense_collate import SceneCollator


@dataclass(frozen=True)
class Truth:
    """A picture as it is shown, and what is known of it, all in its pixels."""

    picture: UInt8[Tensor, "3 h w"]
    scene: Scene
    target: Any = None
    """Of the picture as a whole, such as its attributes or who it shows."""
    objects: Objects | None = None
    cut: Cut | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.picture.shape[1], self.picture.shape[2]


ReadTruth = Callable[[SceneCollator, Sample, SceneExample, int], Truth]
"""Makes a truth of a decoded sample and of what the collator read in it; the number keys what operators draw."""


def read_scene(collator: SceneCollator, sample: Sample, example: SceneExample, number: int) -> Truth:  # noqa: ARG001
    """Return what the collator read: the truth of most kinds."""
    return Truth(example.scene.image, example.scene, example.target)

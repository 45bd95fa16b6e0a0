"""An image: what an operator makes of the input, or the input without what it did (denoising, super-resolution)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from unified.answers import baselines as base
from unified.answers.base import QueryStates, SceneExample, SceneTask, Size, Target, layer_mean
from unified.answers.kind import (
    FieldOps,
    QueryKind,
    QuerySettings,
    map_of,
    map_target,
    mirrored,
    single_image,
)
from unified.answers.map import maps
from unified.answers.map.normals import NORMALS
from unified.answers.spec import QuerySpec
from unified.config.task import Task
from unified.core.errors import RecipeError, nearest
from unified.core.seed import uniform
from unified.core.types import Sample
from unified.data.augment.geometric import Scene
from unified.data.augment.image_operators import DRAWS, OPERATORS, RESHADE, reshaded


@dataclass(frozen=True, kw_only=True)
class ImageAnswerSettings(QuerySettings):
    """Colours of pixels."""

    kind: ClassVar[str] = "pixels"
    map: Literal["pixels"] = "pixels"
    operator: str
    """How input and answer are made from an image; operators are listed in data/augment/image_operators.py."""
    scale: int = 1
    """How much larger than the input the answer is."""
    residual: bool = False
    """Whether it is added to the input itself, at the size of the answer (VDSR, CVPR 2016)."""

    def check(self, where: str, task: Task) -> None:
        """Refuse operators that do not exist."""
        super().check(where, task)
        if self.scale < 1:
            raise RecipeError(f"{where}.answer.scale: expected at least 1, found {self.scale}")
        if self.operator not in (*OPERATORS, RESHADE):
            known = nearest(self.operator, [*OPERATORS, RESHADE])
            raise RecipeError(f"{where}.answer.operator: {self.operator!r} is not an image operator{known}")


@dataclass(frozen=True)
class ImageSpec(QuerySpec):
    """With how the answer is made."""

    scale: int = 1
    operator: str = ""
    residual: bool = False


class ImageAnswer(QueryKind):
    """An image."""

    name, key = ImageAnswerSettings.kind, "map"
    Settings, Spec = ImageAnswerSettings, ImageSpec
    mapped = True

    def made(self, task: Task, names: Sequence[str], cell: int) -> dict[str, Any]:
        """Return a query for each colour of each pixel of a place."""
        answer: Any = task.answer
        kept = {"scale": answer.scale, "operator": answer.operator, "residual": answer.residual}
        return {"queries": 3 * (cell * answer.scale) ** 2, **kept}

    def baseline_shapes(self, spec: Any) -> dict[str, tuple[int, ...]]:
        """Return colours, unless the answer is added to the input."""
        return {} if spec.residual else {"colours": (3, base.GRID, base.GRID)}

    def baseline(self, spec: Any, targets: Iterable[Target], places: int) -> base.Slots:
        """Begin at the mean image; what is added to an image begins at nothing."""
        return {} if spec.residual else {"colours": base.mean_maps(targets)[0]}

    def adds_to_input(self, spec: Any) -> bool:
        """Tell whether the answer is added to the input."""
        return bool(spec.residual)

    def columns(self, task: Task, image: str) -> tuple[str, ...]:
        """Return the image alone, but for shading, which is made from normals."""
        return super().columns(task, image) if _reshades(task) else (image,)

    def read(self, asked: SceneTask, sample: Sample) -> SceneExample:
        """Return the image, of which the operator makes input and answer."""
        if _reshades(asked.task):
            return super().read(asked, sample)
        return SceneExample(sample["__key__"], Scene(single_image(asked, sample)))

    def annotated(self, asked: SceneTask, sample: Sample, image: Tensor) -> SceneExample:
        """Return an image with its normals, which are shaded anew."""
        return NORMALS.annotated(asked, sample, image)

    def larger(self, task: Task) -> int:
        """Return how much larger than the input the answer is."""
        answer: Any = task.answer
        return int(answer.scale)

    def pairs(
        self, asked: SceneTask, images: list[Tensor], examples: Sequence[SceneExample], indices: NDArray[np.int64]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return inputs of the task's size, and what the operator makes of the images."""
        if _reshades(asked.task):
            target = map_of(examples)
            target["map"] = torch.stack([reshaded(normals) for normals in target["map"]])
            return [_resized(image, asked.height, asked.width) for image in images], target
        answer: Any = asked.task.answer
        operator = OPERATORS[answer.operator]
        draws = uniform(indices, DRAWS, "operator", asked.seed, asked.name)
        pairs = [operator(image.float() / 255, of) for image, of in zip(images, draws, strict=True)]
        right = torch.stack([after for _, after in pairs])
        inputs = [_uint8(before, asked.height, asked.width) for before, _ in pairs]
        return inputs, {"map": right, "valid": torch.ones_like(right[:, :1], dtype=torch.bool)}

    def labelled(self, spec: Any, labels: Tensor, samples: int) -> dict[str, Tensor]:
        """Return an image that is known everywhere."""
        return map_target(self, labels, samples)

    def loss(self, found: QueryStates, target: Target) -> tuple[Tensor, Tensor]:
        """Return the error of pixels; the score is 1 − mean absolute error."""
        picture, valid = target["map"], target["valid"]
        loss = layer_mean([maps.pixel_loss(_image(found, s), picture, valid, 1e-3) for s in found.states])
        with torch.no_grad():
            ours = _image(found, found.states[-1]).clamp(0, 1)
            away = maps.mean_of_valid((ours - picture).abs(), valid)
        return loss, 1 - away

    def predict(self, found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
        """Return an image (3, h, w) from 0 to 1."""
        images = _image(found, found.states[-1]).clamp(0, 1)
        scale = found.spec.scale
        return [
            {"image": maps.resized(images[row : row + 1], (scale * size[0], scale * size[1]))[0].clamp(0, 1)}
            for row, size in enumerate(sizes)
        ]

    def merge(self) -> FieldOps:
        """Return how fields are averaged."""
        return FieldOps(
            lambda found, sizes: [answer["image"] for answer in self.predict(found, sizes)],
            lambda field, _: {"image": field},
            mirrored,
        )


def _reshades(task: Task) -> bool:
    answer: Any = task.answer
    return bool(answer.operator == RESHADE)


def _image(found: QueryStates, states: Tensor) -> Float[Tensor, "b 3 H W"]:
    said = maps.pixels(found.maps(states), 3)
    if found.baseline.colours is not None:
        said = said + maps.resized(found.baseline.colours[None], (said.shape[-2], said.shape[-1]))
    if found.picture is None:
        return said
    # As large images are made without learning; one of the same size stays as it is.
    return said + F.interpolate(found.picture, said.shape[2:], mode="bicubic", align_corners=False)


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[-2:] == (height, width):
        return image
    return F.interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0]


def _uint8(image: Tensor, height: int, width: int) -> Tensor:
    return (_resized(image, height, width) * 255).round().clamp(0, 255).to(torch.uint8)


IMAGE = ImageAnswer()

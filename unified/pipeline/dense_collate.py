"""Batches of tasks with queries: what samples say of their pictures, changed at random and as targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unified.config.labels import Labels, load_labels, partners
from unified.config.task import Map, Match, Regress, Task
from unified.core.schema import RecipeError, build, nearest
from unified.core.seed import uniform
from unified.core.types import IGNORE, Batch, DataError, Sample
from unified.data.augment.augment import augment
from unified.data.augment.geometric import (
    DRAWN,
    NO_OBJECT,
    CropScene,
    FlipScene,
    Scene,
    boxes_in_shares,
    padded,
    resized,
)
from unified.data.augment.image_operators import DRAWS, OPERATORS, RESHADE, reshaded
from unified.data.augment.transforms import KINDS, PixelTransform, Transform
from unified.data.class_lists import lists_of_shards
from unified.data.samples import annotations as said
from unified.data.samples.decode import place, read_image
from unified.modalities.base import Tokenizer
from unified.modalities.image.patches import PatchRows
from unified.modalities.image.tokenizer import RESAMPLE, ImageTokenizer
from unified.pipeline.collate import Collator

SEGMENTS = "json.segments"
"""A target of regions that share out a picture, instead of its objects."""
COARSER = 4
"""Masks of objects are kept at a quarter of the picture's height and width."""
SCENE_KINDS: dict[str, type[Transform]] = {"flip": FlipScene, "crop": CropScene}
COLOURS = ("blur", "contrast", "noise", "pixelate", "saturation")
"""Changes of pixels that leave everything at its place."""


@dataclass(frozen=True)
class SceneExample:
    """One sample as its task sees it."""

    key: str
    scene: Scene
    target: Tensor | None = None  # of the whole picture: presence, identity


class SceneCollator:
    """Makes the batches of one task with queries; a pure function of the samples and their global indices.

    `Batch.target` is a dict of tensors, by what is read: labels (b, h, w) · map (b, c, h, w) with valid (b, 1, h, w) ·
    points (b, j, 3) in shares of the picture · boxes (b, m, 4) as centre and size in shares, labels (b, m), IGNORE
    where there is none, and masks (b, m, h/4, w/4) · presence (b, q) · identity (b,).
    """

    def __init__(
        self, name: str, task: Task, tokenizer: Any, names: Sequence[str], identities: Sequence[str], seed: int
    ) -> None:
        """`names`: of classes, points or attributes; `identities`: all that the training data have."""
        assert isinstance(tokenizer, ImageTokenizer)
        answer = task.answer
        self.name, self.task, self.tokenizer, self.seed = name, task, tokenizer, seed
        self.read: str = answer.map if isinstance(answer, Map) else answer.regress  # type: ignore[union-attr]
        self.names, self.classes = tuple(names), {label: number for number, label in enumerate(names)}
        self.identities = {label: number for number, label in enumerate(identities)}
        self.partners = partners(names) if self.read in ("points", "places") else []
        self.height, self.width = task.size or (tokenizer.height, tokenizer.width)
        where = f"tasks.{name}.augment"
        self.changes, self.colours = _changes(task.augment, where)
        operator = answer.operator if isinstance(answer, Map) else None
        self.reshades = operator == RESHADE
        self.operator = OPERATORS[operator] if operator is not None and not self.reshades else None
        self.scale = answer.scale if isinstance(answer, Map) else 1
        self.picture = next(iter(task.inputs))
        target = "json" if task.target.startswith("json") else task.target
        self.columns = (
            (self.picture,) if self.operator is not None else tuple(dict.fromkeys([self.picture, "json", target]))
        )
        """Of a sample, those that must be decoded."""

    def unchanged(self) -> "SceneCollator":
        """The same without changes at random."""
        task = replace(self.task, augment=())
        return SceneCollator(self.name, task, self.tokenizer, self.names, tuple(self.identities), self.seed)

    def rows(self, count: int) -> PatchRows | None:  # noqa: ARG002
        """None: pictures are changed and resized with what is known of them, when the batch is made."""
        return None

    def example(self, sample: Sample, rows: PatchRows | None = None, row: int = 0) -> SceneExample:  # noqa: ARG002
        """What the task needs of one decoded sample. Raises `DataError` naming shard, key and column."""
        image = read_image(sample, self.picture)
        if image.dim() == 4:
            raise DataError(
                f"{place(sample)}: column {self.picture!r}: expected one image, as task queries read it, got "
                f"{len(image)} frames. Hint: store the annotated frame by itself"
            )
        if self.operator is None and tuple(image.shape[1:]) != said.image_size(sample):
            height, width = said.image_size(sample)
            raise DataError(
                f"{place(sample)}: column {self.picture!r}: {image.shape[2]}×{image.shape[1]} pixels, its facts say "
                f"{width}×{height}"
            )
        return _READERS[self.read](self, sample, image)

    def batch(
        self,
        examples: Sequence[SceneExample],
        indices: NDArray[np.int64],
        rows: PatchRows | None = None,  # noqa: ARG002
    ) -> Batch:
        """The examples as one batch; `indices` are their global sample indices, which key all that is random."""
        images, target = self.pictures(examples, indices)
        tokens = self.tokenizer.tokens([image.contiguous() for image in images])
        return Batch(self.name, {"image": tokens}, target, [example.key for example in examples])

    def pictures(
        self, examples: Sequence[SceneExample], indices: NDArray[np.int64]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The pictures of a batch, changed and resized, and what is asked about them."""
        scenes = [example.scene for example in examples]
        for number, change in enumerate(self.changes):
            draws = uniform(indices, DRAWN + 1, "augment", self.seed, self.name, "scene", number)
            scenes = [
                change(scene, of, self.partners) if of[DRAWN] < change.probability else scene
                for scene, of in zip(scenes, draws, strict=True)
            ]
        resample = RESAMPLE[self.tokenizer.spec.resample]
        larger = self.scale if self.read == "pixels" else 1
        scenes = [resized(scene, larger * self.height, larger * self.width, resample) for scene in scenes]
        images = [scene.image for scene in scenes]
        if self.colours:
            images = augment(images, self.colours, indices, self.seed, self.name)
        target: dict[str, Tensor]
        if self.operator is not None:
            images, target = self._operated(images, indices)
        else:
            target = self._target(scenes, [example.target for example in examples])
        if self.reshades:
            target["map"] = torch.stack([reshaded(normals) for normals in target["map"]])
            images = [_resized(image, self.height, self.width) for image in images]
        return images, target

    def _operated(self, images: Sequence[Tensor], indices: NDArray[np.int64]) -> tuple[list[Tensor], dict[str, Tensor]]:
        assert self.operator is not None
        draws = uniform(indices, DRAWS, "operator", self.seed, self.name)
        pairs = [self.operator(image.float() / 255, of) for image, of in zip(images, draws, strict=True)]
        inputs = [_uint8(given, self.height, self.width) for given, _ in pairs]
        answer = torch.stack([asked for _, asked in pairs])
        return inputs, {"map": answer, "valid": torch.ones_like(answer[:, :1], dtype=torch.bool)}

    def _target(self, scenes: Sequence[Scene], whole: Sequence[Tensor | None]) -> dict[str, Tensor]:
        first, size = scenes[0], torch.tensor([self.width, self.height])
        if first.labels is not None:
            return {"labels": torch.stack([s.labels for s in scenes if s.labels is not None])}
        if first.values is not None:
            return {
                "map": torch.stack([s.values for s in scenes if s.values is not None]),
                "valid": torch.stack([s.valid for s in scenes if s.valid is not None]),
            }
        if first.points is not None:
            shares = [
                torch.cat([s.points[:, :2] / size, s.points[:, 2:]], dim=1) for s in scenes if s.points is not None
            ]
            return {"points": padded(shares)}
        if first.boxes is not None:
            return self._objects(scenes)
        return {self.read: torch.stack([target for target in whole if target is not None])}

    def _objects(self, scenes: Sequence[Scene]) -> dict[str, Tensor]:
        boxes = [boxes_in_shares(s.boxes, self.height, self.width) for s in scenes if s.boxes is not None]
        if self.read == "density":
            points = [torch.cat([of[:, :2], of.new_ones(len(of), 1)], dim=1) for of in boxes]
            return {"points": padded(points)}
        target = {
            "boxes": padded(boxes),
            "labels": padded([s.classes for s in scenes if s.classes is not None], NO_OBJECT),
        }
        if self.read == "masks":
            target["masks"] = padded([_coarse(s.masks) for s in scenes if s.masks is not None])
        return target


def make_collator(
    name: str,
    task: Task,
    tokenizers: Mapping[str, Tokenizer],
    labels: Labels | None,
    seed: int,
    shards: Sequence[str] = (),
) -> Collator | SceneCollator:
    """The collator of a task; `labels`: of what it picks from, or of its queries; `shards`: the paths of its data."""
    if isinstance(task.answer, Match):
        counted = labels is not None and task.target == "cls"
        return Collator(name, task, tokenizers, labels, seed, lists_of_shards(shards) if counted else None)
    listed = task.answer.identities if isinstance(task.answer, Regress) else None
    identities = load_labels(listed).names if listed else ()
    return SceneCollator(name, task, tokenizers["image"], labels.names if labels else (), identities, seed)


def _changes(entries: Sequence[dict[str, Any]], where: str) -> tuple[tuple[Any, ...], tuple[PixelTransform, ...]]:
    """The changes of scenes, and those of colours, which come after them."""
    scenes, colours = [], []
    for number, entry in enumerate(entries):
        kind, settings = str(entry.get("kind")), {name: value for name, value in entry.items() if name != "kind"}
        if kind in SCENE_KINDS:
            scenes.append(build(SCENE_KINDS[kind], settings, f"{where}[{number}]"))
        elif kind in COLOURS:
            colours.append(build(KINDS[kind], settings, f"{where}[{number}]"))
        else:
            known = nearest(kind, [*SCENE_KINDS, *COLOURS])
            raise RecipeError(f"{where}[{number}].kind: {kind!r} cannot change what is known of places as well{known}")
    return tuple(scenes), tuple(colours)  # type: ignore[arg-type]


def _coarse(masks: Tensor) -> Tensor:
    """Masks of a quarter of the height and width: cells of which a mask has at least half."""
    return torch.nn.functional.avg_pool2d(masks[:, None].float(), COARSER)[:, 0] >= 0.5


def _resized(picture: Tensor, height: int, width: int) -> Tensor:
    if picture.shape[-2:] == (height, width):
        return picture
    return torch.nn.functional.interpolate(picture[None], (height, width), mode="bicubic", antialias=True)[0]


def _uint8(picture: Tensor, height: int, width: int) -> Tensor:
    return (_resized(picture, height, width) * 255).round().clamp(0, 255).to(torch.uint8)


def _classes(collator: SceneCollator, sample: Sample, image: Tensor) -> SceneExample:
    labels = said.class_map(sample, len(collator.names), collator.task.target)
    return SceneExample(sample["__key__"], Scene(image, labels=labels))


def _points(collator: SceneCollator, sample: Sample, image: Tensor) -> SceneExample:
    return SceneExample(sample["__key__"], Scene(image, points=said.joints(sample, collator.names)))


def _depth(collator: SceneCollator, sample: Sample, image: Tensor) -> SceneExample:
    values, valid = said.depth_map(sample, collator.task.target)
    return SceneExample(sample["__key__"], Scene(image, values=values[None], valid=valid[None]))


def _directions(collator: SceneCollator, sample: Sample, image: Tensor) -> SceneExample:
    values, valid = said.normal_map(sample, collator.task.target)
    return SceneExample(sample["__key__"], Scene(image, values=values, valid=valid[None], vectors=True))


def _share(collator: SceneCollator, sample: Sample, image: Tensor) -> SceneExample:
    values = said.edge_map(sample, collator.task.target)[None]
    return SceneExample(sample["__key__"], Scene(image, values=values, valid=torch.ones_like(values, dtype=torch.bool)))


def _objects(collator: SceneCollator, sample: Sample, image: Tensor) -> SceneExample:
    if collator.task.target == SEGMENTS:
        return _segments(collator, sample, image)
    found = said.objects(sample, collator.classes)
    single = ~found.crowd
    count, queries = int(single.sum()), collator.task.answer.queries  # type: ignore[union-attr]
    if count > queries:
        raise DataError(
            f"{place(sample)}: {count} objects, and task {collator.name!r} has {queries} queries: each object needs "
            "one of its own; raise answer.queries, or leave the picture out"
        )
    masks = None
    if collator.read == "masks":
        chosen = [mask for mask, one in zip(found.masks, single.tolist(), strict=True) if one]
        masks = said.decode_masks(sample, chosen)
    boxes, classes, areas = found.boxes[single], found.labels[single], found.area[single]
    return SceneExample(sample["__key__"], Scene(image, boxes=boxes, classes=classes, masks=masks, areas=areas))


def _segments(collator: SceneCollator, sample: Sample, image: Tensor) -> SceneExample:
    """Things and stuff alike, as panoptic segmentation wants them; their boxes are those of their masks."""
    found = said.segments(sample, collator.classes)
    masks = said.decode_masks(sample, found.masks)
    seen = masks.flatten(1).any(1)
    masks, labels = masks[seen], found.labels[seen]
    boxes, areas, kept = _boxes_of(masks), masks.flatten(1).sum(1).float(), masks if collator.read == "masks" else None
    return SceneExample(sample["__key__"], Scene(image, boxes=boxes, classes=labels, masks=kept, areas=areas))


def _boxes_of(masks: Tensor) -> Tensor:
    """The smallest boxes around masks (n, h, w), none of them empty."""
    ends = []
    for axis in (2, 1):  # of columns, then of rows
        line = masks.any(3 - axis).int()
        ends.append((line.argmax(1), masks.shape[axis] - line.flip(1).argmax(1)))
    (left, right), (top, bottom) = ends
    return torch.stack([left, top, right, bottom], dim=1).float()


def _counted(collator: SceneCollator, sample: Sample, image: Tensor) -> SceneExample:
    labels = dict.fromkeys(said.labels_of(sample, "objects"), 0)
    found = said.objects(sample, {**labels, **dict.fromkeys(collator.names, 1)})
    kept = (found.labels == int(bool(collator.names))) & ~found.crowd
    return SceneExample(sample["__key__"], Scene(image, boxes=found.boxes[kept], classes=found.labels[kept]))


def _presence(collator: SceneCollator, sample: Sample, image: Tensor) -> SceneExample:
    return SceneExample(sample["__key__"], Scene(image), said.presence(sample, collator.names))


def _identity(collator: SceneCollator, sample: Sample, image: Tensor) -> SceneExample:
    number = collator.identities.get(said.identity(sample), IGNORE)
    return SceneExample(sample["__key__"], Scene(image), torch.tensor(number))


def _pixels(collator: SceneCollator, sample: Sample, image: Tensor) -> SceneExample:
    if collator.reshades:
        return _directions(collator, sample, image)
    return SceneExample(sample["__key__"], Scene(image))


_READERS: dict[str, Callable[[SceneCollator, Sample, Tensor], SceneExample]] = {
    "classes": _classes,
    "points": _points,
    "places": _points,
    "bins": _depth,
    "directions": _directions,
    "share": _share,
    "pixels": _pixels,
    "density": _counted,
    "boxes": _objects,
    "masks": _objects,
    "presence": _presence,
    "identity": _identity,
}

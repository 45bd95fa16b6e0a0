"""Batches of tasks with queries: what samples say of their pictures, changed at random and as targets."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unified.answers.base import SceneExample, SceneTask
from unified.answers.table import query_kind
from unified.config.labels import Labels, load_labels
from unified.config.task import Task
from unified.core.errors import RecipeError, nearest
from unified.core.schema import build
from unified.core.seed import uniform
from unified.core.types import Batch, Sample
from unified.data.augment.augment import augment
from unified.data.augment.geometric import (
    DRAWN,
    CropScene,
    FlipScene,
    resized,
)
from unified.data.class_lists import lists_of_shards
from unified.modalities import MODALITIES
from unified.modalities.base import Tokenizer
from unified.modalities.image.patches import PatchRows
from unified.modalities.image.tokenizer import RESAMPLE, ImageTokenizer
from unified.modalities.image.transforms import KINDS, PixelTransform, Transform
from unified.pipeline.collate import Collator

SCENE_KINDS: dict[str, type[Transform]] = {"flip": FlipScene, "crop": CropScene}
COLOURS = ("blur", "contrast", "noise", "pixelate", "saturation")
"""Changes of pixels that leave everything at its place."""


class SceneCollator:
    """Makes the batches of one task with queries; a pure function of the samples and their global indices.

    `Batch.target` is what the kind of answer makes of annotations: a dict of tensors.
    """

    def __init__(
        self, name: str, task: Task, tokenizer: Any, names: Sequence[str], identities: Sequence[str], seed: int
    ) -> None:
        """`names`: of classes, points or attributes; `identities`: all that the training data have."""
        assert isinstance(tokenizer, ImageTokenizer)
        self.name, self.task, self.tokenizer, self.seed = name, task, tokenizer, seed
        self.kind = query_kind(task.answer.kind)
        height, width = task.size or (tokenizer.height, tokenizer.width)
        self.asked = SceneTask(name, task, tuple(names), tuple(identities), height, width, seed)
        self.partners = self.kind.flip_pairs(names)
        self.changes, self.colours = _changes(task.augment, f"tasks.{name}.augment")
        self.columns = self.kind.columns(task, self.asked.image)
        """Of a sample, those that must be decoded."""

    def unchanged(self) -> "SceneCollator":
        """The same without changes at random."""
        task, asked = replace(self.task, augment=()), self.asked
        return SceneCollator(self.name, task, self.tokenizer, asked.names, asked.identities, self.seed)

    def rows(self, count: int) -> PatchRows | None:  # noqa: ARG002
        """None: pictures are changed and resized with what is known of them, when the batch is made."""
        return None

    def example(self, sample: Sample, rows: PatchRows | None = None, row: int = 0) -> SceneExample:  # noqa: ARG002
        """What the task needs of one decoded sample. Raises `DataError` naming shard, key and column."""
        return self.kind.read(self.asked, sample)

    def batch(
        self,
        examples: Sequence[SceneExample],
        indices: NDArray[np.int64],
        rows: PatchRows | None = None,  # noqa: ARG002
    ) -> Batch:
        """The examples as one batch; `indices` are their global sample indices, which key all that is random."""
        images, target = self.pictures(examples, indices)
        tokens = self.tokenizer.tokens([image.contiguous() for image in images])
        return Batch(self.name, {tokens.modality: tokens}, target, [example.key for example in examples])

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
        resample, larger = RESAMPLE[self.tokenizer.spec.resample], self.kind.larger(self.task)
        size = (larger * self.asked.height, larger * self.asked.width)
        scenes = [resized(scene, *size, resample) for scene in scenes]
        images = [scene.image for scene in scenes]
        if self.colours:
            images = augment(images, self.colours, indices, self.seed, self.name)
        changed = [replace(example, scene=scene) for example, scene in zip(examples, scenes, strict=True)]
        return self.kind.pairs(self.asked, images, changed, indices)


def make_collator(
    name: str,
    task: Task,
    tokenizers: Mapping[str, Tokenizer],
    labels: Labels | None,
    seed: int,
    shards: Sequence[str] = (),
) -> Collator | SceneCollator:
    """The collator of a task; `labels`: of what it picks from, or of its queries; `shards`: the paths of its data."""
    if not task.answer.queried:
        counted = labels is not None and task.target == "cls"
        return Collator(name, task, tokenizers, labels, seed, lists_of_shards(shards) if counted else None)
    listed = task.answer.identity_names()
    identities = load_labels(listed).names if listed else ()
    return SceneCollator(name, task, tokenizers[MODALITIES.spatial], labels.names if labels else (), identities, seed)


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

"""What both kinds of named points share: their target, and the lines that join them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unified.answers.base import SceneExample, SceneTask
from unified.answers.kind import QueryKind, shaped
from unified.answers.spec import QuerySpec
from unified.config.labels import partners
from unified.config.task import Task
from unified.core.types import Sample
from unified.data.augment.geometric import Scene, padded
from unified.data.samples import annotations as said
from unified.data.shards.patterns import MANIFEST, read_manifest


@dataclass(frozen=True)
class PointSpec(QuerySpec):
    """With the lines between points."""

    skeleton: tuple[tuple[int, int], ...] = ()
    """Pairs of named points that a line joins."""


class PointKind(QueryKind):
    """Named points of an image."""

    def made(self, task: Task, names: Sequence[str], cell: int) -> dict[str, Any]:
        """Return a query for each point."""
        listed = task.answer.query_names()
        return {"queries": len(names), "skeleton": _skeleton(Path(listed), names) if listed else ()}

    def flip_pairs(self, names: Sequence[str]) -> list[int]:
        """Return for each point the one on the other side, by their names."""
        return partners(names)

    def annotated(self, asked: SceneTask, sample: Sample, image: Tensor) -> SceneExample:
        """Return an image with its named points."""
        return SceneExample(sample["__key__"], Scene(image, points=said.joints(sample, asked.names)))

    def target(self, asked: SceneTask, examples: Sequence[SceneExample]) -> dict[str, Tensor]:
        """Return points (b, j, 3): x and y as fractions of the image, and 0 where one is not known."""
        size, scenes = torch.tensor([asked.width, asked.height]), [example.scene for example in examples]
        shares = [torch.cat([s.points[:, :2] / size, s.points[:, 2:]], dim=1) for s in scenes if s.points is not None]
        return {"points": padded(shares)}

    def labelled(self, spec: Any, labels: Tensor, samples: int) -> dict[str, Tensor]:
        """Return points (b, q, 3)."""
        return {"points": shaped(self, labels, (samples, spec.queries, 3))}


def _skeleton(listed: Path, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The pairs of points that the manifest beside their names joins, if it is there."""
    if not (listed.parent / MANIFEST).is_file():
        return ()
    number = {name: place for place, name in enumerate(names)}
    pairs = read_manifest(listed.parent).get("skeleton", ())
    return tuple((number[a], number[b]) for a, b in pairs if a in number and b in number)

"""Classification by names of changed images: size, shift, rotation, contrast and noise, each at exact strengths."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unified.core import statistics
from unified.core.errors import DataError, quoted
from unified.core.locations import named
from unified.data.augment.augment import augment
from unified.data.class_lists import ClassNumbers
from unified.data.samples.decode import decode, read_image
from unified.data.shards.write import progress
from unified.evaluate.context import Context
from unified.evaluate.items import Items, clusters_of, read_items, targets
from unified.evaluate.protocols.classification import CANDIDATES, asks_labels, find_labels
from unified.evaluate.protocols.protocol import Protocol
from unified.evaluate.protocols.zero_shot import class_ranks, class_weights
from unified.evaluate.results import UNTUNED, ZERO_SHOT, Measure, Result
from unified.evaluate.spec import Robustness
from unified.modalities import MODALITIES
from unified.modalities.image.prepare import prepare_images
from unified.modalities.image.transforms import Affine, Contrast, Noise, PixelTransform

DRAWN, UNCHANGED = "drawn size", "unchanged"
KEY = "robustness"  # of the noise: the same in every evaluation and at every strength
LEAST, MIDDLE, MOST = 0.0, 0.5, 1.0
"""Draws at which a transform that goes either way does most of it one way, nothing, and most of it the other way."""
SIGNS = (LEAST, MOST)


@dataclass(frozen=True, kw_only=True)
class _Exactly(PixelTransform):
    """A transform whose draws are given, the same for all images."""

    change: PixelTransform
    draws: NDArray[np.float64]

    def __call__(self, pixels: Tensor, draw: Any) -> Tensor:  # noqa: ARG002
        return self.change(pixels, lambda count: np.tile(self.draws[:count], (len(pixels), 1)))


@dataclass(frozen=True)
class Change:
    """One kind of change at one strength; an item's score is the mean over its variants."""

    kind: str
    value: float
    label: str
    variants: tuple[PixelTransform, ...]


AXES: Mapping[str, tuple[str, float]] = {
    "size": ("size, factor", 1.0),
    "shift": ("shift, fraction of the side", 0.0),
    "rotation": ("rotation, degrees", 0.0),
    "contrast": ("contrast, factor", 1.0),
    "noise": ("noise, standard deviation as a fraction of white", 0.0),
}
"""Of each kind of change, what its strength is, and the strength that changes nothing."""


def changes(evaluation: Robustness) -> list[Change]:
    """Return the changes that a spec lists, in the order of their kinds and strengths."""
    fill = evaluation.fill

    def affine(*draws: float, **settings: Any) -> PixelTransform:
        # Angle, slant, scale, stretch, and both shifts.
        return _Exactly(change=Affine(fill=fill, **settings), draws=np.array(draws))

    found = [Change("size", v, f"size × {v:g}", (affine(*[MIDDLE] * 6, scale=(v, v)),)) for v in evaluation.size]
    for v in evaluation.shift:
        ways = [(sign, MIDDLE) for sign in SIGNS] + [(MIDDLE, sign) for sign in SIGNS]
        variants = tuple(affine(*[MIDDLE] * 4, *way, translate=v) for way in ways)
        found.append(Change("shift", v, f"shifted by {v:g} of the side", variants))
    for v in evaluation.rotation:
        variants = tuple(affine(sign, *[MIDDLE] * 5, degrees=v) for sign in SIGNS)
        found.append(Change("rotation", v, f"rotated by {v:g}°", variants))
    found += [Change("contrast", v, f"contrast × {v:g}", (Contrast(contrast=(v, v)),)) for v in evaluation.contrast]
    found += [Change("noise", v, f"noise of {v:g}", (Noise(std=(v, v)),)) for v in evaluation.noise]
    order = list(AXES)
    return sorted(found, key=lambda change: (order.index(change.kind), change.value))


def evaluate_robustness(evaluation: Robustness, name: str, context: Context) -> Iterator[Result]:
    """Accuracy of the images as they are, of each size in which they were drawn, and of each change."""
    labels = find_labels(evaluation)
    others = [c for c in (evaluation.size_column, evaluation.cluster) if c]
    items = read_items(evaluation.several, evaluation.inputs, [evaluation.target, *others], evaluation.limit)
    target = targets(items, evaluation.target, ClassNumbers(labels))
    sizes = _sizes(evaluation, items)
    chosen = np.ones(len(items), dtype=bool) if evaluation.reference is None else sizes == evaluation.reference
    if not chosen.any():
        known = ", ".join(f"{size:g}" for size in np.unique(sizes))
        raise DataError(
            f"{name}.reference: expected a value of {evaluation.size_column} ({known}), got {evaluation.reference:g}"
        )
    listed = changes(evaluation)
    unchanged, changed = _scores(
        evaluation, items, target, chosen, listed, context, class_weights(context, labels, evaluation.prompt)
    )
    base = Result(
        name, KEY, "", "", (), (), items.digest, ZERO_SHOT if evaluation.unseen else UNTUNED,
        notes={"chance": 1 / len(labels), "prompt": evaluation.prompt},
    )  # fmt: skip
    rows = np.flatnonzero(chosen)
    yield _row(base, evaluation, items, rows, Change(UNCHANGED, 0.0, "as they are", ()), unchanged[rows])
    for size in np.unique(sizes):
        rows_of_size = np.flatnonzero(sizes == size)
        drawn = Change(DRAWN, float(size), f"drawn at {evaluation.size_column} = {size:g}", ())
        yield _row(base, evaluation, items, rows_of_size, drawn, unchanged[rows_of_size])
    for change, scores in zip(listed, changed, strict=True):
        yield _row(base, evaluation, items, rows, change, scores)


def _sizes(evaluation: Robustness, items: Items) -> NDArray[np.float64]:
    """The size in which each item was drawn; none where that is not asked for."""
    name = evaluation.size_column
    if name is None:
        return np.zeros(0)
    for value, place in zip(items.columns[name], items.places, strict=True):
        if not isinstance(value, int | float):
            raise DataError(f"{place}: column {quoted(name)}: expected a number, got {quoted(value)}")
    return np.array(items.columns[name], dtype=np.float64)


def _scores(
    evaluation: Robustness,
    items: Items,
    target: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    listed: Sequence[Change],
    context: Context,
    weights: Tensor,
) -> tuple[NDArray[np.bool_], list[NDArray[Any]]]:
    """Whether each item is right as it is, and the score of each chosen item under each change."""
    ((name, _),) = evaluation.inputs.items()
    encoder, tokenizer = context.encoder("model"), context.tokenizers[MODALITIES.spatial]

    def right(images: Sequence[Tensor], of: NDArray[np.int64]) -> NDArray[np.bool_]:
        features = encoder({tokenizer.modality: prepare_images(images, tokenizer)}).float().cpu().numpy()
        return class_ranks(features, weights, of) == 0

    unchanged: list[NDArray[np.bool_]] = []
    changed: list[list[NDArray[Any]]] = [[] for _ in listed]
    starts = range(0, len(items), context.batch)
    for start in progress(starts, len(starts), f"changed images of {named(evaluation.data)}"):
        part = slice(start, start + context.batch)
        numbers = items.numbers[part]
        images = [read_image(decode(items.source[int(number)], [name]), name) for number in numbers]
        unchanged.append(right(images, target[part]))
        rows = np.flatnonzero(chosen[part])
        shown = [images[row] for row in rows]
        for change, scores in zip(listed, changed, strict=True) if len(rows) else ():
            found = [
                right(augment(shown, [variant], numbers[rows], 0, KEY), target[part][rows])
                for variant in change.variants
            ]
            scores.append(found[0] if len(found) == 1 else np.mean(found, axis=0))
    return np.concatenate(unchanged), [np.concatenate(scores) for scores in changed]


def _row(
    base: Result,
    evaluation: Robustness,
    items: Items,
    rows: NDArray[np.int64],
    change: Change,
    scores: NDArray[Any],
) -> Result:
    cluster = [items.columns[evaluation.cluster][row] for row in rows] if evaluation.cluster else None
    clusters = clusters_of(cluster)
    return replace(
        base,
        protocol=UNCHANGED if change.kind == UNCHANGED else f"{change.kind}_{change.value:g}".replace(" ", "_"),
        label=change.label,
        measures=(Measure("acc1", statistics.proportion(scores, clusters), values=scores),),
        keys=tuple(items.keys[row] for row in rows),
        clusters=clusters,
        notes={**base.notes, "change": change.kind, "value": change.value, "size_column": evaluation.size_column},
    )


PROTOCOL = Protocol(settings=Robustness, evaluate=evaluate_robustness, kinds=CANDIDATES, asks=asks_labels)

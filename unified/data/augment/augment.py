"""Random changes of images, drawn for each sample from (seed, task, global sample index): no batch or worker enters.

A task lists them as `{kind: affine, degrees: 10}`. They act in the order of the list on decoded images, before the
tokenizer resizes them: a glyph stored at 32×32 and read at 16×16 is turned at 32×32. Images of equal size are changed
together; put `crop` first where sizes differ, so that all others act on images of one, small size.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from unified.core.errors import RecipeError, nearest, quoted
from unified.core.schema import build
from unified.core.seed import uniform
from unified.modalities import MODALITIES
from unified.modalities.image.prepare import stack_images
from unified.modalities.image.transforms import WHITE, Crop, Draw, Transform


def build_transforms(
    entries: Sequence[dict[str, Any]], where: str, modalities: Iterable[str]
) -> dict[str, tuple[Any, ...]]:
    """Return the transforms that a task lists under `augment`, by the modality of its inputs that they change.

    Args:
        entries: Each a `kind` with its settings.
        where: Their place in the recipe.
        modalities: Those of the task's inputs, which know the kinds.

    Raises:
        RecipeError: No modality knows a kind, or its settings cannot be.
    """
    rows = [MODALITIES[name] for name in modalities]
    kinds = {kind: (row.name, settings) for row in rows for kind, settings in row.augment.items()}
    found: dict[str, tuple[Any, ...]] = {}
    for number, entry in enumerate(entries):
        place = f"{where}[{number}]"
        kind = entry.get("kind")
        if kind not in kinds:
            raise RecipeError(f"{place}.kind: {quoted(kind)} is not an augmentation{nearest(str(kind), list(kinds))}")
        name, settings = kinds[kind]
        transform: Any = build(settings, {k: v for k, v in entry.items() if k != "kind"}, place)
        found[name] = (*found.get(name, ()), transform)
    return found


def augment_values(
    values: Sequence[Any], transforms: Sequence[Any], indices: NDArray[np.int64], seed: int, task: str
) -> list[Any]:
    """Return prepared values of another modality than images, each changed by every transform in turn.

    Args:
        values: Of the samples, as their tokenizer prepares them.
        transforms: Called with a value and a function that draws so many numbers in [0, 1).
        indices: The global sample indices, which key the draws.
        seed, task: Which key them too.
    """
    result = list(values)
    for number, transform in enumerate(transforms):
        for row, index in enumerate(indices):
            draw = _draw(np.array([index]), (seed, task), number)
            result[row] = transform(result[row], lambda count, draw=draw: draw(count)[0])
    return result


def augment(
    images: Sequence[UInt8[Tensor, "*t 3 h w"]],
    transforms: Sequence[Transform],
    indices: NDArray[np.int64],
    seed: int,
    task: str,
) -> list[UInt8[Tensor, "*t 3 h w"]]:
    """The images changed by each transform in turn; `indices` are the global sample indices, which key the draws.

    All frames of a video are changed by the same draw.
    """
    result = list(images)
    for is_crop, run in groupby(enumerate(transforms), key=lambda pair: isinstance(pair[1], Crop)):
        if is_crop:
            for number, transform in run:
                _crop(result, transform, indices, (seed, task, number))
        else:
            steps = list(run)
            for rows, pixels in _alike(result):
                changed = _change(pixels, steps, indices[rows], (seed, task))
                for row, image in zip(rows, changed.unbind(), strict=True):
                    result[row] = image.reshape(result[row].shape)
    return result


def _crop(images: list[Tensor], transform: Any, indices: NDArray[np.int64], parts: tuple[int | str, ...]) -> None:
    draws = uniform(indices, 5, "augment", *parts)
    for row in np.flatnonzero(draws[:, 4] < transform.probability):
        images[row] = transform(images[row], draws[row])


def _change(
    images: UInt8[Tensor, "b c h w"],
    steps: Sequence[tuple[int, Any]],
    indices: NDArray[np.int64],
    parts: tuple[int | str, ...],
) -> UInt8[Tensor, "b d h w"]:
    pixels = images.to(torch.float32, memory_format=torch.contiguous_format)
    for number, transform in steps:
        if transform.probability < 1:
            chance = uniform(indices, 1, "augment or not", *parts, number)[:, 0]
            rows = np.flatnonzero(chance < transform.probability)
            if len(rows):
                chosen = torch.from_numpy(rows)
                pixels[chosen] = transform(pixels[chosen], _draw(indices[rows], parts, number))
        else:
            pixels = transform(pixels, _draw(indices, parts, number))
    changed = pixels.round_().clamp_(0, WHITE).to(torch.uint8)
    return (changed.expand(-1, 3, -1, -1) if changed.shape[1] == 1 else changed).contiguous()


def _draw(indices: NDArray[np.int64], parts: tuple[int | str, ...], number: int) -> Draw:
    return lambda count: uniform(indices, count, "augment", *parts, number)


def _alike(images: Sequence[Tensor]) -> Iterator[tuple[NDArray[np.int64], UInt8[Tensor, "b c h w"]]]:
    """Rows and pixels of images of one size; those whose three channels are equal come apart, as one channel.

    Of a video, the frames are further channels.
    """
    sizes: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        sizes.setdefault(tuple(image.shape), []).append(row)
    for size_rows in sizes.values():
        rows, pixels = np.array(size_rows), stack_images([images[row] for row in size_rows])
        if pixels.dim() == 5:
            yield rows, pixels.flatten(1, 2)
            continue
        grey = (pixels[:, :1] == pixels[:, 1:]).flatten(1).all(1).numpy()
        if grey.any():
            yield rows[grey], pixels[:, :1] if grey.all() else pixels[torch.from_numpy(grey), :1]
        if not grey.all():
            yield rows[~grey], pixels[torch.from_numpy(~grey)]

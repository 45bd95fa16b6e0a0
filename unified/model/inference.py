"""Pictures of any size as tasks are asked about them: resized, mirrored, in windows; answers are of the whole picture.

`see` is what prediction and evaluation use. A picture is brought to the task's size by squashing it, as in training, or
with its aspect kept: its longer side becomes the longer side of the task's size, and both become multiples of the
patch, at least one. So a picture of 1 × 1 pixels is a square, and one of 8000 × 50 is a column of single patches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unified.answers.base import QueryStates
from unified.answers.kind import FieldOps
from unified.answers.spec import QuerySpec
from unified.answers.table import answers, query_kind
from unified.core.errors import UserError
from unified.modalities.image.tokenizer import ImageTokenizer
from unified.model.pretrained import UnifiedModel

Size = tuple[int, int]
Answer = dict[str, Any]
STRIDE = 2 / 3
"""Of a window, the way to the next one."""


@dataclass(frozen=True)
class Views:
    """How pictures are shown; without anything each is squashed to the task's size, as in training."""

    aspect: bool = False
    """Keep the aspect: patches lie in another grid than in training."""
    flip: bool = False
    """Show each picture mirrored too, and average."""
    window: Size | None = None
    """Height and width in pixels of the picture: show parts of this size, two thirds of one apart, and average."""


PLAIN = Views()


def input_size(height: int, width: int, size: Size, patch: int) -> Size:
    """The size at which a picture is shown with its aspect kept: the longer side is that of `size`, all in patches."""
    by = max(size) / max(height, width)
    tall, wide = (max(round(side * by / patch), 1) * patch for side in (height, width))
    return tall, wide


def windows(height: int, width: int, window: Size) -> list[tuple[int, int, int, int]]:
    """The parts (top, left, height, width) that cover a picture; at the far edges they are moved inwards."""
    tall, wide = min(window[0], height), min(window[1], width)
    return [(top, left, tall, wide) for top in _starts(height, tall) for left in _starts(width, wide)]


def _starts(length: int, part: int) -> list[int]:
    stride = max(int(part * STRIDE), 1)
    count = -(-(length - part) // stride) + 1
    return [min(number * stride, length - part) for number in range(count)]


@torch.no_grad()
def see(
    model: UnifiedModel,
    tokenizer: ImageTokenizer,
    pictures: Sequence[UInt8[Tensor, "3 h w"]],
    tasks: Sequence[str],
    views: Views = PLAIN,
    *,
    names: Mapping[str, Any] | None = None,
    batch: int = 16,
) -> list[dict[str, Answer]]:
    """The answers of tasks about each picture, at its own size; tasks of one size share the passes over the encoder.

    Answers are those of `unified.answers.table.answers`. `names` as in `UnifiedModel.ask`; `batch`: views at a time.
    Raises `UserError` where a task's answers cannot be put together from the views.
    """
    specs = _specs(model, tasks, views)
    _check_names(specs, views, names or {})
    found: list[dict[str, Answer]] = [{} for _ in pictures]
    sizes = {name: spec.size if min(spec.size) else (tokenizer.height, tokenizer.width) for name, spec in specs.items()}
    for size in dict.fromkeys(sizes.values()):
        here = [name for name in specs if sizes[name] == size]
        shown = _Shown(model, tokenizer, here, size, views, {n: v for n, v in (names or {}).items() if n in here})
        for number, answer in shown.of(pictures, batch):
            found[number] |= answer
    return found


def _specs(model: UnifiedModel, tasks: Sequence[str], views: Views) -> dict[str, QuerySpec]:
    if model.queries is None:
        raise UserError("this model has no task queries; train it with a recipe that has `model.queries`")
    if views.window is not None and min(views.window) < 1:
        raise UserError(f"window: {list(views.window)}; expected height and width in pixels, from 1")
    specs = model.queries.specs
    for name in tasks:
        if name not in specs:
            raise UserError(f"task {name!r} has no queries in this model; there are: {', '.join(specs)}")
        read = specs[name].read
        ops = query_kind(read).merge()
        if views.window is not None and (ops is None or not ops.windows):
            raise UserError(
                f"task {name!r}: {read} are not of single pixels, so windows cannot share them; leave it out"
            )
        if views.flip and ops is None:
            raise UserError(f"task {name!r}: {read} are found as a set, which has no mean with a mirrored one; no flip")
    return {name: specs[name] for name in tasks}


def _check_names(specs: Mapping[str, QuerySpec], views: Views, names: Mapping[str, Any]) -> None:
    """Points change sides in a mirror, by their names."""
    for name, spec in specs.items():
        given = names.get(name)
        changes_sides = views.flip and query_kind(spec.read).flip_pairs(spec.names)
        if changes_sides and isinstance(given, Tensor) and len(given) != len(spec.names):
            raise UserError(f"task {name!r}: give new points by their words, which tell left from right; or no flip")


@dataclass(frozen=True)
class _Piece:
    """A part of a picture that is shown at once."""

    picture: int
    place: tuple[int, int, int, int]  # top, left, height, width
    size: Size  # as shown


@dataclass(frozen=True)
class _Shown:
    """Tasks of one size, asked about pictures."""

    model: UnifiedModel
    tokenizer: ImageTokenizer
    tasks: Sequence[str]
    size: Size
    views: Views
    names: Mapping[str, Any]

    def of(self, pictures: Sequence[Tensor], batch: int) -> Any:
        """Pairs of a picture's number and its answers."""
        by_size: dict[Size, list[_Piece]] = {}
        whole: dict[int, _Whole] = {}
        for number, picture in enumerate(pictures):
            height, width = picture.shape[1:]
            places = [(0, 0, height, width)]
            if self.views.window is not None:
                places = windows(height, width, self.views.window)
                whole[number] = _Whole((height, width), len(places))
            for place in places:
                shown = self.size
                if self.views.aspect:
                    shown = input_size(place[2], place[3], self.size, self.tokenizer.patch)
                by_size.setdefault(shown, []).append(_Piece(number, place, shown))
        for pieces in by_size.values():
            for start in range(0, len(pieces), batch):
                some = pieces[start : start + batch]
                for piece, fields in zip(some, self._look(pictures, some), strict=True):
                    if self.views.window is None:
                        yield piece.picture, fields
                    elif whole[piece.picture].add(piece.place, fields):
                        yield piece.picture, whole.pop(piece.picture).answers(self._spec)

    def _spec(self, task: str) -> QuerySpec:
        assert self.model.queries is not None
        return self.model.queries.specs[task]

    def _look(self, pictures: Sequence[Tensor], pieces: Sequence[_Piece]) -> list[dict[str, Any]]:
        """By task: the answers about each piece, or with windows what they are made of."""
        images = []
        for piece in pieces:
            top, left, tall, wide = piece.place
            part = pictures[piece.picture][:, top : top + tall, left : left + wide]
            images.append(self.tokenizer.resize(part.contiguous(), *piece.size))
        sizes = [(piece.place[2], piece.place[3]) for piece in pieces]
        found = self._ask(images)
        mirrored = self._ask([image.flip(-1).contiguous() for image in images]) if self.views.flip else None
        result: list[dict[str, Any]] = [{} for _ in pieces]
        for task in self.tasks:
            spec = self._spec(task)
            if mirrored is None and self.views.window is None:
                of_task: Sequence[Any] = answers(found[task], sizes)
            else:
                of_task = fields(found[task], sizes)
                if mirrored is not None:
                    given = self.names.get(task, spec.names)
                    names = spec.names if isinstance(given, Tensor) else given
                    back = [_ops(spec).unmirrored(of, names, size[1]) for of, size in
                            zip(fields(mirrored[task], sizes), sizes, strict=True)]  # fmt: skip
                    of_task = [(one + other) / 2 for one, other in zip(of_task, back, strict=True)]
                if self.views.window is None:
                    of_task = [answer_of(of, spec, size) for of, size in zip(of_task, sizes, strict=True)]
            for row, of in zip(result, of_task, strict=True):
                row[task] = of
        return result

    def _ask(self, images: Sequence[Tensor]) -> dict[str, QueryStates]:
        return self.model.ask(
            {self.tokenizer.modality: self.tokenizer.tokens(images)}, self.tasks, names=self.names or None
        )


class _Whole:
    """A picture that its windows fill."""

    def __init__(self, size: Size, missing: int) -> None:
        self.size, self.missing = size, missing
        self.sums: dict[str, Tensor] = {}
        self.count = torch.zeros(size)

    def add(self, place: tuple[int, int, int, int], fields: Mapping[str, Tensor]) -> bool:
        """Put a window's fields in; True when all windows are."""
        top, left, tall, wide = place
        self.count[top : top + tall, left : left + wide] += 1
        for task, field in fields.items():
            scale = field.shape[-1] // wide
            if task not in self.sums:
                height, width = self.size
                self.sums[task] = field.new_zeros(len(field), scale * height, scale * width)
            rows, columns = (slice(scale * a, scale * (a + n)) for a, n in ((top, tall), (left, wide)))
            self.sums[task][:, rows, columns] += field
        self.missing -= 1
        return self.missing == 0

    def answers(self, spec: Callable[[str], QuerySpec]) -> dict[str, Answer]:
        """Means over the windows at each pixel, as answers."""
        found = {}
        for task, total in self.sums.items():
            scale = total.shape[-1] // self.size[1]
            count = self.count.repeat_interleave(scale, 0).repeat_interleave(scale, 1).to(total.device)
            found[task] = answer_of(total / count, spec(task), self.size)
        return found


@torch.no_grad()
def fields(found: QueryStates, sizes: Sequence[Size]) -> list[Float[Tensor, "..."]]:
    """Return what answers are made of, as numbers that may be averaged: (c, h, w) at each size, or of another shape."""
    with torch.autocast(found.features.device.type, enabled=False):
        return _ops(found.spec).fields(found, sizes)


def answer_of(field: Tensor, spec: QuerySpec, size: Size) -> Answer:
    """Return the answer that a field stands for, in the form of `unified.answers.table.answers`."""
    return _ops(spec).answer(field, size)


def _ops(spec: QuerySpec) -> FieldOps:
    ops = query_kind(spec.read).merge()
    assert ops is not None, "_specs asks for fields of answers that have some"
    return ops

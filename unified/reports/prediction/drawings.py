"""The drawing of each kind of answer: one function, and one for its facts."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from unified.answers.extensions import extension
from unified.answers.kind import AnswerKind
from unified.answers.map.density import DENSITY
from unified.answers.map.depth import DEPTH
from unified.answers.map.edges import EDGES
from unified.answers.map.heatmaps import HEATMAPS
from unified.answers.map.image import IMAGE
from unified.answers.map.normals import NORMALS
from unified.answers.map.semantic import SEMANTIC
from unified.answers.match.caption import CAPTION
from unified.answers.match.classification import CLASSIFICATION
from unified.answers.regress.attributes import ATTRIBUTES
from unified.answers.regress.identity import IDENTITY
from unified.answers.regress.keypoints import KEYPOINTS
from unified.answers.regress.objects import BOXES, MASKS
from unified.core.errors import UserError
from unified.data.commands.visualize import LINE, OPACITY, RADIUS, label_font, name_colour, write_label
from unified.data.label_places import Rect, place_labels
from unified.reports.prediction import facts as told
from unified.reports.prediction.coco_forms import BODIES, OBJECTS
from unified.reports.prediction.drawing import Canvas, Drawing, Matched, Prediction
from unified.reports.prediction.panels import Line, Panel, Scale, coloured, fitted

ROWS = 12  # lines about one answer
TOP = 5
"""Labels that are told, the most probable first."""

# objects and points over the image


def _draw_objects(found: Prediction, canvas: Canvas) -> Panel:
    """Boxes, and masks where there are any, with their labels; the best on top."""
    sure, made = found.sure(canvas.threshold), canvas.image.copy()
    names = [found.names[int(found.answer["labels"][number])] for number in sure]
    if "masks" in found.answer:
        for number, name in reversed([*zip(sure, names, strict=True)]):
            mask = Image.fromarray(found.answer["masks"][number].numpy().astype(np.uint8) * round(255 * OPACITY))
            made.paste(Image.new("RGB", made.size, name_colour(name)), mask=fitted(mask, made.size))
    pen = ImageDraw.Draw(made)
    boxes = []
    for number in sure:
        edges = enumerate(found.answer["boxes"][number].tolist())
        x0, y0, x1, y1 = (edge * canvas.scale[place % 2] for place, edge in edges)
        boxes.append(Rect(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))
    for name, box in reversed([*zip(names, boxes, strict=True)]):
        corners = (box.left, box.top, max(box.right - 1, box.left), max(box.bottom - 1, box.top))
        pen.rectangle(corners, outline=name_colour(name), width=2)
    texts = [f"{name} {float(found.answer['scores'][number]):.2f}" for name, number in zip(names, sure, strict=True)]
    return _with_legend(made, names, _mark_all(pen, made.size, boxes, texts, names), canvas.threshold)


def _draw_points(found: Prediction, canvas: Canvas) -> Panel:
    """Points, the lines between them and their names."""
    sure, made = found.sure(canvas.threshold), canvas.image.copy()
    pen = ImageDraw.Draw(made)
    places = (found.answer["points"] * found.answer["points"].new_tensor(canvas.scale)).tolist()
    for first, second in () if found.spec is None else found.spec.skeleton:
        if first in sure and second in sure:
            pen.line((*places[first], *places[second]), fill="white", width=2)
    radius = 2 * RADIUS
    names = [found.names[number] for number in sure]
    for name, number in reversed([*zip(names, sure, strict=True)]):
        x, y = places[number]
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=name_colour(name), outline="white")
    beside = radius + 1  # labels leave the point itself visible
    around = [Rect(x - beside, y - beside, x + beside, y + beside) for x, y in (places[number] for number in sure)]
    return _with_legend(made, names, _mark_all(pen, made.size, around, names, names), canvas.threshold)


def _mark_all(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    marked: Sequence[Rect],
    texts: Sequence[str],
    names: Sequence[str],
) -> list[str]:
    """Write labels in the colours of their names, none over another; returns those without room."""
    sizes = [(pen.textlength(text, font=label_font()) + 4, LINE) for text in texts]
    places = place_labels(size, marked, sizes)
    unplaced = []
    for place, text, name in zip(places, texts, names, strict=True):
        if place is None:
            unplaced.append(text)
            continue
        write_label(pen, place, text, name_colour(name))
    return unplaced


def _with_legend(made: Image.Image, names: Sequence[str], unplaced: Sequence[str], threshold: float) -> Panel:
    """The panel of an image, and what its colours mean."""
    counts = Counter(names)
    legend: list[Line] = [(f"{name} ({counts[name]})", name_colour(name)) for name in counts]
    if not names:
        legend = [(f"nothing with a score of {threshold:g} or more", None)]
    hidden = len(legend) - ROWS
    legend = legend[:ROWS] + ([(f"and {hidden} more names", None)] if hidden > 0 else [])
    if unplaced:
        legend.append((f"without room for a label: {', '.join(unplaced)}", None))
    return Panel("", made, tuple(legend))


# maps beside the image


def _panel(values: NDArray[np.uint8], canvas: Canvas, *lines: Line, scale: Scale | None = None) -> Panel:
    return Panel("", fitted(Image.fromarray(values), canvas.image.size), lines, scale)


def _draw_classes(found: Prediction, canvas: Canvas) -> Panel:
    colours = np.array([name_colour(name) for name in found.names], dtype=np.uint8)
    drawn = fitted(Image.fromarray(colours[found.answer["labels"].numpy()]), canvas.image.size)
    shares = told.class_shares(found)
    lines = [(f"{found.names[number]} {share:.1%}", name_colour(found.names[number])) for number, share in shares]
    grey = canvas.image.convert("L").convert("RGB")  # its own colours would be taken for those of classes
    return Panel("", Image.blend(grey, drawn, 0.6), tuple(lines[:ROWS]))


def _draw_values(found: Prediction, canvas: Canvas) -> Panel:
    values = found.answer["values"]
    scale = Scale(float(values.min()), float(values.max()), "", "viridis")
    return _panel(coloured(values, scale), canvas, scale=scale)


def _draw_directions(found: Prediction, canvas: Canvas) -> Panel:
    vectors = found.answer["vectors"].permute(1, 2, 0).float().numpy()
    return _panel(((vectors + 1) * 127.5).clip(0, 255).astype(np.uint8), canvas)


def _draw_share(found: Prediction, canvas: Canvas) -> Panel:
    values = (found.answer["share"].float().numpy() * 255).astype(np.uint8)
    return _panel(values, canvas, scale=Scale(0.0, 1.0, "fraction", "gray"))


def _draw_image(found: Prediction, canvas: Canvas) -> Panel:
    image = found.answer["image"].permute(1, 2, 0).float().numpy()
    height, width = image.shape[:2]
    return _panel((image * 255).round().astype(np.uint8), canvas, (f"{width} × {height} pixels", None))


def _draw_density(found: Prediction, canvas: Canvas) -> Panel:
    density = found.answer["density"]
    scale = Scale(0.0, float(density.max()), "objects a cell", "inferno")
    height, width = density.shape[-2:]
    text = f"count {found.answer['count']:.1f}: the sum over {width} × {height} cells"
    return _panel(coloured(density, scale), canvas, (text, None), scale=scale)


# words below the image


def _scored(scores: Tensor, names: Sequence[str]) -> list[Line]:
    order = scores.argsort(descending=True, stable=True).tolist()
    return [(f"  {float(scores[number]):.2f} {names[number]}", None) for number in order]


def _draw_labels(found: Prediction, _: Canvas) -> list[Line]:
    return _scored(found.answer["scores"], [found.names[number] for number in found.answer["labels"].tolist()])


def _predict_caption(model: Any, inputs: Any, task: Matched) -> dict[str, Any]:
    (text,) = model.caption(inputs, family=task.family, vocabulary=task.vocabulary)
    return {"caption": text}


def _predict_labels(model: Any, inputs: Any, task: Matched) -> dict[str, Any]:
    assert task.labels is not None
    found = model.classify(inputs, task.labels.names, templates=task.labels.templates, family=task.family)
    shares = found[0].float().cpu()
    best = shares.topk(min(TOP, len(shares)))
    return {"scores": best.values, "labels": best.indices}


_DRAWINGS = (
    Drawing(kind=SEMANTIC, facts=told.class_facts, draw=_draw_classes),
    Drawing(kind=HEATMAPS, facts=told.point_facts, draw=_draw_points, coco=BODIES),
    Drawing(kind=KEYPOINTS, facts=told.point_facts, draw=_draw_points, coco=BODIES),
    Drawing(kind=DEPTH, facts=told.spread_facts("values"), draw=_draw_values),
    Drawing(
        kind=NORMALS,
        facts=lambda found, _: {"mean": told.plain(found.answer["vectors"].mean(dim=(1, 2)))},
        draw=_draw_directions,
    ),
    Drawing(kind=EDGES, facts=told.spread_facts("share"), draw=_draw_share),
    Drawing(kind=IMAGE, facts=told.size_facts, draw=_draw_image),
    Drawing(
        kind=DENSITY,
        facts=lambda found, _: {"count": round(found.answer["count"], told.DIGITS)},
        draw=_draw_density,
    ),
    Drawing(kind=BOXES, facts=told.object_facts, draw=_draw_objects, coco=OBJECTS),
    Drawing(kind=MASKS, facts=told.object_facts, draw=_draw_objects, coco=OBJECTS),
    Drawing(
        kind=ATTRIBUTES,
        facts=told.attribute_facts,
        draw=lambda found, _: _scored(found.answer["presence"], found.names),
    ),
    Drawing(kind=IDENTITY, facts=lambda found, _: {"features": told.plain(found.answer["features"])}),
    Drawing(
        kind=CAPTION,
        facts=lambda found, _: {"caption": found.answer["caption"]},
        draw=lambda found, _: [(f"  {found.answer['caption']}", None)],
        predict=_predict_caption,
    ),
    Drawing(kind=CLASSIFICATION, facts=told.label_facts, draw=_draw_labels, predict=_predict_labels),
)
DRAWINGS = {drawing.kind.name: drawing for drawing in _DRAWINGS}
"""By the name of the kind. Retrieval and the other ways to score words have none: they answer about several samples."""


def find_drawing(kind: AnswerKind) -> Drawing:
    """Return the drawing of a kind, or the one that it brings along.

    Raises:
        UserError: It has none.
    """
    found: Drawing | None = DRAWINGS.get(kind.name) or extension(kind, "drawing", Drawing)
    if found is None:
        raise UserError(
            f"answers of kind {kind.name!r}: expected a drawing, got none. Hint: leave its tasks out with --tasks"
        )
    return found

"""One figure with all answers about an image: objects and points drawn over it, maps beside it, words below."""

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from unified.reports.prediction.drawing import Canvas, Prediction
from unified.reports.prediction.drawings import ROWS, find_drawing
from unified.reports.prediction.panels import Line, Panel, arranged, fitted


def sheet(picture: UInt8[Tensor, "3 h w"], found: Sequence[Prediction], threshold: float) -> Image.Image:
    """Return everything about one image; objects and points below `threshold` are left out.

    Each task has a panel of its own: two that name the same things would draw over each other.
    """
    whole = fitted(Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()))
    canvas = Canvas(whole, (whole.width / picture.shape[2], whole.height / picture.shape[1]), threshold)
    lines: list[Line] = []
    panels: list[Panel] = []
    for answer in found:
        draw = find_drawing(answer.kind).draw
        drawn = [] if draw is None else draw(answer, canvas)
        if isinstance(drawn, Panel):
            panels.append(replace(drawn, title=answer.task))
        elif draw is not None:
            lines += [(f"{answer.task}:", None), *drawn[:ROWS]]
    first = [Panel("image", whole, tuple(lines))] if lines or not panels else []
    return arranged([*first, *panels])

"""Heat maps with their numbers, as PNG files."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from unified.core.atomic_files import replacing

CELL = 0.46  # inches
SMALL = 0.16  # of cells that are too many for numbers in them
MANY = 16
LETTER = 0.068  # inches of a letter in a row's name
TITLE_LETTER = 0.1
DPI = 150
MISSING = "0.85"  # the grey of cells without a number


@dataclass(frozen=True)
class Panel:
    """One heat map; NaN is a cell without a number."""

    title: str
    values: NDArray[np.float64]
    """(rows, columns)"""


@dataclass(frozen=True)
class Style:
    """What the panels of a figure share."""

    title: str
    legend: str  # of the colours
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_axis: str
    column_axis: str
    colours: str  # a colour map of matplotlib
    low: float
    high: float
    beyond: str = "neither"  # whether values lie outside low and high: "both" draws the ends of the colour bar pointed
    note: str = ""
    digits: int = 2
    zeros: bool = True
    """Whether a zero is written, or its cell left empty."""


def save(grid: Sequence[Sequence[Panel]], style: Style, out: Path) -> None:
    """Write panels in rows and columns as one figure; rows may be of unequal length."""
    rows, columns = len(grid), max(map(len, grid))
    cell = CELL if len(style.columns) <= MANY else SMALL
    wide, high = len(style.columns) * cell, len(style.rows) * cell
    names = LETTER * max(len(line) for name in style.rows for line in name.splitlines())
    below = LETTER * max(map(len, style.columns)) * 0.75 + 0.35
    size = (names + columns * (wide + 0.25) + 1.3, rows * (high + 0.45) + below + 0.55)
    figure = Figure(figsize=(max(size[0], 6.0), size[1]), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for (row, column), axis in np.ndenumerate(axes):
        if column < len(grid[row]):
            _draw(axis, grid[row][column], style, first=column == 0, lowest=row == rows - 1)
        else:
            axis.set_visible(False)
    colours = ScalarMappable(Normalize(style.low, style.high), style.colours)
    bar = figure.colorbar(colours, ax=axes, extend=style.beyond, fraction=0.04, pad=0.02, aspect=size[1] * 5)
    bar.set_label(style.legend, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    width = figure.get_figwidth()
    figure.suptitle(textwrap.fill(style.title, int(width / TITLE_LETTER)), fontsize=11)
    if style.note:
        figure.supxlabel(textwrap.fill(style.note, int(width / LETTER)), fontsize=8, color="0.35")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as file:
        figure.savefig(file, dpi=DPI, format="png")


def _draw(axis: Axes, panel: Panel, style: Style, *, first: bool, lowest: bool) -> None:
    """One panel; names of rows on the left of the figure, of columns at its foot."""
    colours = colormaps[style.colours].with_extremes(bad=MISSING)
    axis.imshow(panel.values, cmap=colours, vmin=style.low, vmax=style.high, aspect="equal")
    axis.set_title(panel.title, fontsize=9)
    few = len(style.columns) <= MANY
    ticks = range(0, len(style.columns), 1 if few else 8)
    axis.set_xticks(ticks, [style.columns[tick] for tick in ticks] if lowest else [], fontsize=8)
    if not all(name.isdecimal() for name in style.columns):
        for text in axis.get_xticklabels():
            text.set(rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(style.rows)), style.rows if first else [], fontsize=8)
    axis.tick_params(length=0)
    if lowest:
        axis.set_xlabel(style.column_axis, fontsize=9)
    if first:
        axis.set_ylabel(style.row_axis, fontsize=9)
    for side in axis.spines.values():
        side.set_visible(False)
    for (row, column), value in np.ndenumerate(panel.values) if few else ():
        if value == 0 and not style.zeros:
            continue
        axis.text(
            column, row, number(value, style.digits), ha="center", va="center", fontsize=7,
            color=_ink(colours(_share(float(value), style))),
        )  # fmt: skip


def number(value: float, digits: int = 2) -> str:
    """A number for a cell: "–" for none, no minus before zero."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}".replace("-", "−")
    return text.removeprefix("−") if not text.strip("−0.") else text


def _share(value: float, style: Style) -> float:
    return (value - style.low) / (style.high - style.low) if math.isfinite(value) else math.nan


def _ink(colour: tuple[float, float, float, float]) -> str:
    """Black or white, whichever can be read on a colour."""
    red, green, blue, _ = colour
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"

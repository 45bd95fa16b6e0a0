"""Accuracy against the strength of each change, as a PNG file beside the results."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unified.core.atomic_files import replacing
from unified.evaluate.robustness import AXES, DRAWN, KEY, UNCHANGED

PANEL = (2.7, 2.5)  # inches
DPI = 150
COLOUR, FAINT = "tab:blue", "0.55"


def save_figure(results: Mapping[str, Any], out: Path) -> bool:
    """Draw the robustness rows of a results content: a row of panels for each evaluation, a panel for each change.

    Args:
        results: what `evaluate` returns.
        out: the PNG file.

    Returns:
        Whether there were any such rows; nothing is written without.
    """
    entries = [entry for entry in results["results"] if entry["task"] == KEY]
    if not entries:
        return False
    datasets = list(dict.fromkeys(entry["dataset"] for entry in entries))
    kinds = [kind for kind in (DRAWN, *AXES) if any(entry["notes"]["change"] == kind for entry in entries)]
    rows, columns = len(datasets), max(len(kinds), 1)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.7), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for dataset, line in zip(datasets, axes, strict=True):
        own = [entry for entry in entries if entry["dataset"] == dataset]
        drawn = [axis for kind, axis in zip(kinds, line, strict=False) if _draw(axis, own, kind)]
        for axis in drawn[:1]:  # the first panel of the row may be one that this evaluation has not
            axis.set_ylabel(f"{dataset}\naccuracy, %", fontsize=9)
            axis.tick_params(labelleft=True)
    figure.suptitle(
        textwrap.fill(f"{results['model'] or 'model'}: accuracy on changed images", 40 * columns), fontsize=11
    )
    figure.supxlabel("Bars: 95 % sampling. Dotted: images as they are. Dashed: chance.", fontsize=8, color="0.35")
    with replacing(out) as file:
        figure.savefig(file, dpi=DPI, format="png")
    return True


def _draw(axis: Axes, entries: Sequence[Mapping[str, Any]], kind: str) -> bool:
    """One panel; whether there was anything to draw in it."""
    unchanged = next(entry for entry in entries if entry["notes"]["change"] == UNCHANGED)
    found = [entry for entry in entries if entry["notes"]["change"] == kind]
    if not found:
        axis.set_visible(False)
        return False
    name, same = AXES.get(kind, (f"{kind} ({unchanged['notes']['size_column']})", None))
    points = {entry["notes"]["value"]: entry for entry in found}
    if same is not None:
        points.setdefault(same, unchanged)
    places = sorted(points)
    values = [100 * points[place]["metrics"]["acc1"] for place in places]
    axis.plot(places, values, "o-", color=COLOUR, markersize=3.5, linewidth=1.4)
    for place, value in zip(places, values, strict=True):
        low, high = (points[place]["ci"]["acc1"][end] for end in ("low", "high"))
        top = value
        if low is not None and high is not None:  # one item or cluster has no interval
            axis.plot([place, place], [100 * low, 100 * high], color=COLOUR, linewidth=1, alpha=0.6)
            top = 100 * high
        axis.annotate(f"{value:.0f}", (place, top), (0, 2), textcoords="offset points", ha="center", fontsize=6.5)
    axis.axhline(100 * unchanged["metrics"]["acc1"], color=FAINT, linestyle=":", linewidth=1)
    axis.axhline(100 * unchanged["notes"]["chance"], color=FAINT, linestyle="--", linewidth=1)
    axis.set(ylim=(0, 110))
    axis.set_yticks(range(0, 101, 20))
    axis.set_xlabel(textwrap.fill(name, 30), fontsize=8)
    axis.set_xticks(places, [f"{place:g}" for place in places])
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    return True

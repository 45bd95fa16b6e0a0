"""The rows as a picture: a panel a question, a line of error a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.studies.quality.scores import Question
from benchmarks.studies.quality.summary import Estimate, Row
from benchmarks.studies.quality.variants import SPECIALISTS

COLUMNS = 4


def draw(rows: Sequence[Row], questions: Mapping[str, Question], path: Path) -> None:
    """Write a PNG: means over seeds with standard errors; hollow with one seed. The grey line is the specialists."""
    panels = [
        (f"{name}: {question.title}", question.higher_is_better, [row.scores.get(name) for row in rows])
        for name, question in questions.items()
    ]
    lines = -(-(len(panels) + 1) // COLUMNS)
    figure = Figure(figsize=(2.6 * COLUMNS, lines * (0.8 + 0.22 * len(rows))), layout="constrained")
    axes = figure.subplots(lines, COLUMNS, sharey=True, squeeze=False).flatten()
    for axis, (title, higher, found) in zip(axes, panels, strict=False):
        factor = 100 if higher else 1
        _panel(axis, f"{title} {'→' if higher else '←'}", found, factor)
        for row, score in zip(rows, found, strict=True):
            if row.variant == SPECIALISTS and score is not None:
                axis.axvline(factor * score.mean, color="0.7", zorder=0)
    gap = axes[len(panels)]
    gap.axvline(0, color="0.7", zorder=0)
    _panel(gap, "gap to specialists, % →", [row.gap for row in rows], 100)
    for axis in axes[len(panels) + 1 :]:
        axis.remove()
    axes[0].set_yticks(range(len(rows)), [row.variant for row in rows])
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.savefig(path, dpi=150)


def _panel(axis: Any, title: str, found: Sequence[Estimate | None], factor: float) -> None:
    axis.set_title(title, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(axis="x", linewidth=0.4, color="0.85")
    for place, estimate in enumerate(found):
        if estimate is not None:
            error = None if estimate.error is None else factor * estimate.error
            fill = "C0" if estimate.seeds > 1 else "white"
            axis.errorbar(
                factor * estimate.mean, place, xerr=error, fmt="o", color="C0", markerfacecolor=fill, markersize=4,
                capsize=2,
            )  # fmt: skip

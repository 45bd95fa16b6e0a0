"""The rows as a picture: a panel a question, a bar of error a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.quality.scores import Question
from benchmarks.quality.summary import Row
from benchmarks.quality.variants import SPECIALISTS


def draw(rows: Sequence[Row], questions: Mapping[str, Question], path: Path) -> None:
    """Write a PNG; points are means over seeds, lines their standard errors, the grey band is the specialists."""
    figure = Figure(figsize=(2.1 * (len(questions) + 1), 0.8 + 0.32 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(questions) + 1, sharey=True)
    places = list(range(len(rows)))[::-1]
    for panel, (name, question) in zip(panels, questions.items(), strict=False):
        factor = 100 if question.higher_is_better else 1
        arrow = "→" if question.higher_is_better else "←"
        panel.set_title(f"{name}\n{question.title} {arrow}", fontsize=9)
        for row, place in zip(rows, places, strict=True):
            found = row.scores.get(name)
            if found is None:
                continue
            _point(panel, row, place, factor * found.mean, factor * (found.error or 0.0))
            if row.variant == SPECIALISTS:
                panel.axvspan(
                    factor * (found.mean - (found.error or 0.0)), factor * (found.mean + (found.error or 0.0)),
                    color="0.9",
                )  # fmt: skip
    last = panels[-1]
    last.set_title("gap to specialists\nmean of tasks, % →", fontsize=9)
    last.axvline(0, color="0.8")
    for row, place in zip(rows, places, strict=True):
        if row.gap is not None:
            _point(last, row, place, 100 * row.gap.mean, 100 * (row.gap.error or 0.0))
    for panel in panels:
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", linewidth=0.4, color="0.85")
    panels[0].set_ylim(-0.6, len(rows) - 0.4)
    panels[0].set_yticks(places, [row.variant + ("" if _seeds(row) > 1 else " (1 seed)") for row in rows])
    figure.savefig(path, dpi=150)


def _seeds(row: Row) -> int:
    return next(iter(row.scores.values())).seeds


def _point(panel, row: Row, place: int, value: float, error: float) -> None:  # type: ignore[no-untyped-def]
    fill = {} if _seeds(row) > 1 else {"markerfacecolor": "white"}
    panel.errorbar(value, place, xerr=error or None, fmt="o", color="C0", markersize=4, capsize=2, **fill)

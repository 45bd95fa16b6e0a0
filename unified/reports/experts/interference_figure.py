"""The figure of task interference: one model, or two and their difference."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from unified.reports.experts.interference import ALL, LINEARS, Interference
from unified.reports.figures import Panel, Style, save

Measured = tuple[str, Mapping[str, Interference]]
"""What a model is called, and its matrices."""
LEAST = 0.2
"""The colours never tell apart less than ± this: smaller values are noise and should look pale."""


def draw(measured: Sequence[Measured], tasks: Sequence[str], linear: str, batches: int, out: Path) -> None:
    """Heat maps of the mean matrices: all layers together, then each; of two models before, after and difference."""
    names = _parts(measured)
    found = [_short(name) for name, _ in measured]
    title = f"Task interference in {LINEARS[linear]}, {batches} batches a task: {' → '.join(found)}"
    if len(measured) == 1:
        panels = [_panel(measured[0][1][name], _title(name)) for name in names]
        across = len(panels) if len(panels) <= 4 else math.ceil(math.sqrt(len(panels)))
        grid = [panels[i : i + across] for i in range(0, len(panels), across)]
    else:
        groups = [_group(measured, name) for name in names]
        across = 1 if len(groups) <= 4 else 2 if len(groups) <= 14 else 3
        grid = [list(chain(*groups[i : i + across])) for i in range(0, len(groups), across)]
    limit = _limit([panel for row in grid for panel in row])
    style = Style(
        title=title,
        legend="effect of a step along the causing task\n1: that of a step along the task itself; below 0: harm",
        rows=tuple(tasks),
        columns=tuple(tasks),
        row_axis="affected",
        column_axis="causing",
        colours="RdBu",
        low=-limit,
        high=limit,
        beyond="both",
        note=_note([part[name] for _, part in measured for name in names]),
    )
    save(grid, style, out)


def _parts(measured: Sequence[Measured]) -> list[str]:
    """The matrices that all models have; of a single layer that alone."""
    shared = [name for name in measured[-1][1] if all(name in part for _, part in measured)]
    return shared if len(shared) != 2 else shared[1:]


def _group(measured: Sequence[Measured], name: str) -> list[Panel]:
    (before, old), (after, new) = measured
    change = new[name].mean() - old[name].mean()
    return [
        _panel(old[name], f"{_title(name)}\n{_short(before)}"),
        _panel(new[name], f"{_title(name)}\n{_short(after)}"),
        Panel(f"{_title(name)}\ndifference", change),
    ]


def _panel(found: Interference, title: str) -> Panel:
    counts = [("flips", int(found.flips.sum())), ("dropped", int(found.dropped.sum()))]
    marks = ", ".join(f"{count} {what}" for what, count in counts if count)
    return Panel(f"{title} ({marks})" if marks else title, found.mean())


def _title(name: str) -> str:
    return "all layers" if name == ALL else f"layer {name}"


def _short(name: str) -> str:
    """A name that fits over a panel: its end, which is what tells models apart."""
    return name if len(name) <= 22 else f"…{name[-21:]}"


def _limit(panels: Sequence[Panel]) -> float:
    """The end of the colours: the largest value off the diagonal, which is 1 by definition."""
    off = [np.abs(panel.values[~np.eye(len(panel.values), dtype=bool)]) for panel in panels]
    values = np.concatenate(off)
    values = values[np.isfinite(values)]
    return float(np.clip(values.max() if values.size else 1.0, LEAST, 1.0))


def _note(found: Sequence[Interference]) -> str:
    flips, dropped = sum(int(each.flips.sum()) for each in found), sum(int(each.dropped.sum()) for each in found)
    parts = []
    if flips:
        parts.append(f"flips: {flips} batches on which a task's own gradients disagree, so that signs turn")
    if dropped:
        parts.append(f"dropped: {dropped} batches on which they cancel; “–” where none is left")
    return "; ".join(parts)

"""The curves of a run as one figure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from unified.core.atomic_files import replacing
from unified.reports.figures import DPI
from unified.reports.run.diagnosis import DATA_BOUND, UNEVEN
from unified.reports.run.read import Curve, Run
from unified.reports.run_findings import Diagnosis

WIDTH, HEIGHT = 6.4, 2.7  # inches of a panel
ACROSS = 2
LINES = 10  # more in a panel cannot be told apart
MAPS = 12  # heat maps of the load; a deep model has more layers than a page has room
RATIO = 8  # between highest and lowest value from which on an axis is logarithmic
POINTS = 5000  # up to which the best place for a legend is looked for, as that is slow
SMOOTH = 50  # parts of a curve that its moving median keeps
DECADES = 100  # between highest and lowest value up to which such an axis has room for 2 and 5 as well
TASK_COLOURS = ("tab10", "tab20")
"""Of tasks; the second where there are too many for the first."""
OTHER_COLOURS = "Dark2"
"""Of curves that are of no task, so that none is taken for one."""
STYLES = ("-", "--", ":", "-.")
"""Of several curves of one task in a panel, such as those of its data sets."""


Colour = str | tuple[float, float, float, float]


@dataclass(frozen=True)
class Lines:
    """Curves over steps in one panel."""

    title: str
    curves: dict[str, Curve]
    """By what they are of; nothing where the title says it."""
    low: float | None = None
    """Where the axis begins; None: where the values do."""
    limit: tuple[float, str] | None = None
    """A level to draw, and what it is."""
    spikes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Steps to mark, by curve."""
    unit: str = ""
    """What the upright axis counts; the title where it says that."""

    def points(self) -> int:
        """Of all curves."""
        return sum(len(curve.steps) for curve in self.curves.values())


@dataclass(frozen=True)
class Load:
    """The share of each expert over the records, as a heat map."""

    title: str
    steps: NDArray[np.int64]
    shares: NDArray[np.float64]
    """(experts, records)"""


def draw(run: Run, found: Sequence[Diagnosis], out: Path) -> None:
    """Write the panels that the run has numbers for; upright lines are resumes, triangles are spikes."""
    lines, maps = lines_of(run, found), maps_of(run)
    panels: list[Lines | Load] = [*lines, *maps]
    rows = -(-len(panels) // ACROSS)
    figure = Figure(figsize=(ACROSS * WIDTH, rows * HEIGHT + 0.5), layout="constrained")
    axes = figure.subplots(rows, ACROSS, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        if isinstance(panel, Lines):
            _draw_lines(axis, panel, run)
            axis.set_ylabel(panel.unit or panel.title.partition(",")[0], fontsize=8)
        else:
            _draw_load(figure, axis, panel)
        axis.set_xlabel("step", fontsize=8)
        axis.set_title(panel.title, fontsize=10, loc="left")
        axis.tick_params(labelsize=8)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(f"{run.path.resolve().name}: step {run.step:,} of {run.recipe.max_steps:,}", fontsize=12)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as file:
        figure.savefig(file, dpi=DPI, format="png")


def lines_of(run: Run, found: Sequence[Diagnosis]) -> list[Lines]:
    """The panels of curves; those without a number are left out."""
    spiked = {one.subject or "": one.steps for one in found if one.kind in ("loss spike", "gradient spike")}
    panels = [Lines("loss", {task: run.curve(f"loss/{task}") for task in run.tasks()}, spikes=spiked, unit="nats")]
    panels += [Lines(name, curves, unit=name) for name, curves in by_metric(run, "metric/", ".").items()]
    panels += [Lines(f"evaluation: {name}", curves, unit=name) for name, curves in by_metric(run, "eval/", "/").items()]
    panels.append(Lines("learning rate", {"": run.curve("lr")}, low=0))
    clip = (run.recipe.optim.clip, "clipped above")
    panels.append(Lines("gradient norm, before clipping", {"": run.curve("gradient_norm")}, limit=clip, spikes=spiked))
    parts = {part: used(one) for part, one in by_subject(run, "gradient_norm/").items()}
    panels.append(Lines("gradient norm by part", parts))
    panels.append(Lines("samples/s", {"": run.curve("samples_per_second")}, low=0))
    panels.append(Lines("tokens/s", {"": run.curve("tokens_per_second")}, low=0))
    wait = (DATA_BOUND.value, "data-bound above")
    panels.append(
        Lines("share of the time waiting for data", {"": run.curve("data_wait")}, low=0, limit=wait, unit="fraction")
    )
    several = by_subject(run, "mfu/")
    every = {"all": run.curve("mfu"), **several} if len(several) > 1 else {"": run.curve("mfu")}
    panels.append(Lines("model FLOPs utilization", every, low=0, unit="fraction"))
    shares = by_subject(run, "time/")
    panels.append(Lines("share of the time", shares if len(shares) > 1 else {}, low=0, unit="fraction"))
    uneven = (UNEVEN.value, "uneven above")
    panels.append(
        Lines("slowest rank / mean, forward", {"": run.curve("imbalance")}, low=1, limit=uneven, unit="ratio")
    )
    panels.append(Lines("most memory of a process", by_subject(run, "memory/"), low=0, unit="GiB"))
    panels.append(Lines("epochs", by_subject(run, "epochs/"), low=0))
    skipped = run.curve("skipped_steps")
    panels.append(Lines("skipped steps", {"": skipped} if skipped.values.any() else {}, low=0))
    for ending, title in (("/effective", "effective experts"), ("/dead", "idle experts")):
        names = [name for name in run.names("experts/") if name.endswith(ending)]
        places = {name.removeprefix("experts/").removesuffix(ending): run.curve(name) for name in names}
        panels.append(Lines(title, places, low=0))
    shown = [{name: one for name, one in panel.curves.items() if len(one.finite().steps)} for panel in panels]
    return [replace(panel, curves=curves) for panel, curves in zip(panels, shown, strict=True) if curves]


def by_subject(run: Run, prefix: str) -> dict[str, Curve]:
    """Curves of the keys that begin so, by what comes after."""
    return {name.removeprefix(prefix).removesuffix("_gib"): run.curve(name) for name in run.names(prefix)}


def used(curve: Curve) -> Curve:
    """Without the steps in which no task used a part."""
    return Curve(curve.steps[curve.values != 0], curve.values[curve.values != 0])


def by_metric(run: Run, prefix: str, mark: str) -> dict[str, dict[str, Curve]]:
    """Curves by the metric that a key ends with, then by what it is of."""
    found: dict[str, dict[str, Curve]] = {}
    for name in run.names(prefix):
        subject, _, metric = name.removeprefix(prefix).rpartition(mark)
        found.setdefault(metric, {})[subject] = run.curve(name)
    return found


def maps_of(run: Run) -> list[Load]:
    """The load of each layer and decision; of the least even ones where there are too many."""
    names = [name for name in run.names("experts/") if name.endswith("/load")]
    panels = []
    for name in names:
        records = [record for record in run.records if name in record]
        shares = np.array([record[name] for record in records], dtype=np.float64).T
        place = name.removeprefix("experts/").removesuffix("/load")
        panels.append(Load(f"load of experts: {place}", np.array([record["step"] for record in records]), shares))
    kept = sorted(range(len(panels)), key=lambda number: -panels[number].shares[:, -1].max())[:MAPS]
    return [panels[number] for number in sorted(kept)]


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median of each value's neighbourhood, two `SMOOTH`ths of the curve, which a spike does not change."""
    return np.asarray(median_filter(values, len(values) // SMOOTH * 2 + 1, mode="reflect"))


def looks_of(names: Sequence[str], tasks: Sequence[str]) -> dict[str, tuple[Colour, str]]:
    """Return colour and line style of each curve of a panel.

    A task has one colour in all panels, also where a curve is of a part of it (`caption/0`); other curves have colours
    that no task has.
    """
    colours = colormaps[TASK_COLOURS[len(tasks) > colormaps[TASK_COLOURS[0]].N]]
    others = colormaps[OTHER_COLOURS]
    found: dict[str, tuple[Colour, str]] = {}
    seen: Counter[str] = Counter()
    for name in names:
        task = next((one for one in (name, name.partition("/")[0]) if one in tasks), None)
        if name in ("all", ""):
            found[name] = "black", STYLES[0]
        elif task is not None:
            found[name] = colours(tasks.index(task) % colours.N), STYLES[seen[task] % len(STYLES)]
            seen[task] += 1
        else:
            found[name] = others(seen[""] % others.N), STYLES[seen[""] // others.N % len(STYLES)]
            seen[""] += 1
    return found


def _draw_lines(axis: Axes, panel: Lines, run: Run) -> None:
    everything = []
    shown = list(panel.curves.items())[:LINES]
    looks = looks_of([name for name, _ in shown], run.tasks())
    for name, curve in shown:
        fine, (colour, style) = curve.finite(), looks[name]
        everything.append(fine.values)
        many = len(fine.steps) > SMOOTH
        axis.plot(
            fine.steps, smooth(fine.values), color=colour, label=name, linewidth=1.4, linestyle=style,
            marker=None if many else ".", markersize=4,
        )  # fmt: skip
        if many:
            axis.plot(fine.steps, fine.values, color=colour, linewidth=0.7, alpha=0.3)
        for step in panel.spikes.get(name, ()):
            value = fine.values[fine.steps == step]
            axis.plot([step] * len(value), value, color=colour, marker="^", markersize=7, markeredgecolor="black")
    values = np.concatenate(everything)
    if panel.low is None and values.min() > 0 and values.max() > RATIO * values.min():
        axis.set_yscale("log")
        if values.max() < DECADES * values.min():
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    elif panel.low is not None:
        axis.set_ylim(panel.low, None if values.max() > panel.low else panel.low + 1)
    if (values == values.round()).all():
        axis.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    if panel.limit is not None:
        axis.axhline(panel.limit[0], color="0.4", linestyle="--", linewidth=0.9, label=panel.limit[1])
    for resume in run.resumes:
        axis.axvline(resume.step, color="0.6", linestyle=":", linewidth=1)
    hidden = len(panel.curves) - LINES
    if any(panel.curves) or panel.limit:
        where = "best" if panel.points() <= POINTS else "upper right"
        title = f"and {hidden} more" if hidden > 0 else None
        axis.legend(fontsize=7, title=title, title_fontsize=7, loc=where, framealpha=0.6, edgecolor="none")
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.grid(color="0.92", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_load(figure: Figure, axis: Axes, panel: Load) -> None:
    experts = len(panel.shares)
    middle = (panel.steps[1:] + panel.steps[:-1]) / 2
    edges = np.concatenate([[panel.steps[0] - 0.5], middle, [panel.steps[-1] + 0.5]])
    mesh = axis.pcolormesh(
        edges, np.arange(experts + 1) - 0.5, panel.shares, cmap="Blues", vmin=0,
        vmax=max(float(np.nanmax(panel.shares)), 2 / experts), rasterized=True,
    )  # fmt: skip
    axis.set_ylabel("expert", fontsize=8)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    figure.colorbar(mesh, ax=axis, pad=0.01, fraction=0.03).ax.tick_params(labelsize=7)

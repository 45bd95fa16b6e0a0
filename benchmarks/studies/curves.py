"""How the tasks of a generalist learn, as one picture with a panel for each.

`python -m benchmarks.studies.curves runs/queries_cpu --out curves.png` draws the scores of training by step. With
`--spec queries_cpu` each checkpoint that the run keeps (`train.keep_every`) is evaluated, on what is held out and on
training pictures (the `floor` of each evaluation), and the metric is drawn beside its floors. Results are kept in
runs/queries_cpu/curves and read again from there; remove that folder after a change of the spec.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from benchmarks.studies.generalist import best_floor
from unified import checkpoint
from unified.checkpoint.place import checkpoints_of
from unified.core import log
from unified.core.errors import DataError, UserError
from unified.core.log import logger
from unified.evaluate.dense.nearest_neighbour import NEAREST
from unified.evaluate.dense.protocol import FLOOR
from unified.evaluate.results import read_results, write_results
from unified.evaluate.run import evaluate
from unified.evaluate.spec import Dense, Spec, load_spec
from unified.evaluate.table import LOWER, MAIN, UNITS, find_metric
from unified.hub.load import load
from unified.reports.figures import DPI
from unified.reports.run.read import Curve, Run, read_run

WINDOW = 100
"""Steps up to a point of a training score whose records it is the mean of."""
SEEN = ", training pictures"
"""What the name of an evaluation ends with that asks about training pictures."""
ACROSS = 4
WIDTH, HEIGHT = 3.4, 2.3  # inches of a panel
SCORE, HELD_OUT, TRAINING = "training score", "held-out pictures, 95 %", "training pictures"
BEST = "floor"
STYLES: Mapping[str, Mapping[str, Any]] = {
    SCORE: {"color": "tab:blue"},
    HELD_OUT: {"color": "tab:blue", "marker": "."},
    TRAINING: {"color": "tab:orange", "marker": "."},
    BEST: {"color": "0.35", "linestyle": "--"},
    NEAREST: {"color": "0.35", "linestyle": ":"},
}


@dataclass(frozen=True)
class Panel:
    """One task."""

    title: str
    lines: Mapping[str, Curve]
    levels: Mapping[str, float] = field(default_factory=dict)
    """Of floors."""
    band: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    """Lower and upper ends of intervals of the first line."""


def averaged(curve: Curve) -> Curve:
    """Each value's mean with those of the records of the `WINDOW` steps up to it."""
    fine = curve.finite()
    first = np.searchsorted(fine.steps, fine.steps - WINDOW, side="right")
    total = np.concatenate([[0.0], fine.values.cumsum()])
    last = np.arange(len(fine.steps)) + 1
    return Curve(fine.steps, (total[last] - total[first]) / (last - first))


def score_panels(run: Run) -> list[Panel]:
    """The metric of each task on the batches that it is trained on, as the recipe names it."""
    known = {task: run.curve(f"metric/{task}.{run.recipe.tasks[task].metric}") for task in run.tasks()}
    return [Panel(task, {SCORE: averaged(curve)}) for task, curve in known.items() if len(curve.steps)]


def both_parts(spec: Spec, pictures: int, *, floors: bool) -> Spec:
    """Evaluations of queries on what is held out, and on `pictures` of the training data where a spec names them."""
    found: dict[str, Any] = {}
    for name, one in spec.evaluations.items():
        if isinstance(one, Dense):
            found[name] = one if floors else replace(one, floor=None)
            if one.floor is not None:
                found[name + SEEN] = replace(one, data=one.floor, floor=None, limit=pictures)
    return replace(spec, evaluations=found)


def evaluate_steps(run: Path, spec: Spec, pictures: int) -> dict[int, Mapping[str, Any]]:
    """Results of all steps in the run's folder `curves`, after those of its checkpoints that have none there yet."""
    folder = run / "curves"
    steps = [Path(str(path)) for path in checkpoint.listed(checkpoints_of(run))]
    for path in steps:
        file = folder / f"{path.name}.json"
        if file.is_file():
            continue
        logger.info("evaluating %s", path.name)
        asked = both_parts(spec, pictures, floors=path is steps[-1])  # floors are the same at all steps
        write_results(file, evaluate(*load(path), [asked], name=str(path)))
    return {int(file.stem.removeprefix("step_")): read_results(file) for file in sorted(folder.glob("step_*.json"))}


def metric_panels(found: Mapping[int, Mapping[str, Any]]) -> list[Panel]:
    """The main metric of each evaluation by step; floors are those of the last step that has them."""
    at: dict[str, dict[str, dict[int, Any]]] = {}
    for step, results in sorted(found.items()):
        for entry in results["results"]:
            at.setdefault(entry["dataset"], {}).setdefault(entry["features"], {})[step] = entry
    return [_metric_panel(name, of, at.get(name + SEEN)) for name, of in at.items() if not name.endswith(SEEN)]


def _metric_panel(name: str, held_out: dict[str, dict[int, Any]], seen: dict[str, dict[int, Any]] | None) -> Panel:
    own = held_out["model"]
    protocol = next(iter(own.values()))["protocol"]
    metric = MAIN[protocol]
    factor = 1 if metric in UNITS else 100
    lines = {HELD_OUT: _curve(own, metric, factor)}
    if seen is not None:
        lines[TRAINING] = _curve(seen["model"], metric, factor)
    last = {of.removeprefix(FLOOR): by[max(by)] for of, by in held_out.items() if of.startswith(FLOOR)}
    others = {of: entry for of, entry in last.items() if of != NEAREST}
    best = best_floor(others, metric)
    levels = {} if best is None else {BEST: factor * others[best]["metrics"][metric]}
    if NEAREST in last:
        levels[NEAREST] = factor * last[NEAREST]["metrics"][metric]
    low, high = (
        factor * np.array([one["ci"][metric][end] for one in own.values()], dtype=np.float64)  # None becomes NaN
        for end in ("low", "high")
    )
    return Panel(f"{name}\n{find_metric(metric).title} {'↓' if metric in LOWER else '↑'}", lines, levels, (low, high))


def _curve(of: Mapping[int, Any], metric: str, factor: float) -> Curve:
    values = [factor * entry["metrics"][metric] for entry in of.values()]
    return Curve(np.array([*of], dtype=np.int64), np.array(values, dtype=np.float64))


def draw(panels: Sequence[Panel], title: str, out: Path) -> None:
    """Write small panels in rows as one PNG."""
    if not panels:
        raise DataError(
            f"{title}: there is nothing to draw; expected tasks with scores, or evaluations of `kind: dense` and a "
            "checkpoint (train.save_every)"
        )
    across = min(ACROSS, len(panels))
    rows = -(-len(panels) // across)
    figure = Figure(figsize=(across * WIDTH, rows * HEIGHT + 0.8), layout="constrained")
    axes = figure.subplots(rows, across, squeeze=False).ravel()
    known: dict[str, Any] = {}
    for axis, panel in zip(axes, panels, strict=False):
        known = {**_draw(axis, panel), **known}
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    shown = [name for name in STYLES if name in known]
    figure.suptitle(title, fontsize=11)
    if len(shown) > 1:
        figure.legend([known[name] for name in shown], shown, loc="outside lower center", ncols=len(shown), fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=DPI, format="png")


def _draw(axis: Axes, panel: Panel) -> dict[str, Any]:
    """One panel, and what its lines are for the legend."""
    known = {}
    for name, curve in panel.lines.items():
        (known[name],) = axis.plot(curve.steps, curve.values, linewidth=1.4, markersize=4, **STYLES[name])
    if panel.band is not None:
        first = next(iter(panel.lines))
        axis.fill_between(panel.lines[first].steps, *panel.band, color=STYLES[first]["color"], alpha=0.15, linewidth=0)
    for name, level in panel.levels.items():
        known[name] = axis.axhline(level, linewidth=1, **STYLES[name])
    axis.set_title(panel.title, fontsize=9, loc="left")
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.tick_params(labelsize=7)
    axis.grid(color="0.92", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    return known


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    log.set_up()
    about = __doc__.partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.curves", description=about)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--spec", help="evaluations for the run's checkpoints; without it, scores of training")
    parser.add_argument("--pictures", type=int, default=300, help="training pictures of an evaluation (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the PNG file")
    given = parser.parse_args(arguments)
    try:
        if given.spec is None:
            title = f"{given.run.resolve().name}: scores on training batches by step, means of {WINDOW} steps"
            draw(score_panels(read_run(given.run)), title, given.out)
        else:
            found = evaluate_steps(given.run, load_spec(given.spec), given.pictures)
            draw(metric_panels(found), f"{given.run.resolve().name}: metrics by step", given.out)
    except UserError as error:
        sys.exit(f"error: {error}")
    logger.info("written: %s", given.out)


if __name__ == "__main__":
    main()

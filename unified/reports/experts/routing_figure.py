"""The figure of expert use: a heat map of rows and experts for each layer and decision."""

from itertools import chain
from pathlib import Path

import numpy as np

from unified.nn.moe.balance import effective_experts
from unified.reports.experts.routing import Place, Routing
from unified.reports.figures import MANY, Panel, Style, save


def draw(found: Routing, name: str, batches: int, out: Path) -> None:
    """Layers below each other, decisions of a layer side by side; `batches` of 0: gates, which need none."""
    layers: dict[int, list[Panel]] = {}
    for place in found.shares:
        layers.setdefault(place[0], []).append(_panel(found, place))
    groups = list(layers.values())
    experts = next(iter(found.shares.values())).shape[1]
    across = 1 if len(groups) <= 3 or experts > MANY else 2
    counted = f"{batches} batches a task" if batches else "a table of its weights"
    highest = max(float(shares.max()) for shares in found.shares.values())
    style = Style(
        title=f"Experts chosen by the {found.router} router, {counted}: {name}",
        legend="share of the tokens' choices" if batches else "weight of the expert",
        rows=tuple(row.label for row in found.rows),
        columns=tuple(map(str, range(experts))),
        row_axis="",
        column_axis="expert",
        colours="Blues",
        low=0.0,
        high=max(highest, 2 / experts),
        zeros=False,
    )
    save([list(chain(*groups[i : i + across])) for i in range(0, len(groups), across)], style, out)


def _panel(found: Routing, place: Place) -> Panel:
    shares = found.shares[place].numpy().astype(np.float64)
    problems = [problem.partition(":")[0] for problem in found.problems(place)]  # its first word
    dead = len(found.dead(place))
    problems = [f"{dead} dead" if problem == "dead" else problem for problem in problems]
    words = f"effective {float(effective_experts(found.load(place))):.1f} of {shares.shape[1]}"
    title = f"layer {place[0]}, {place[1]}\n{', '.join([words, *problems])}"
    return Panel(title, shares)

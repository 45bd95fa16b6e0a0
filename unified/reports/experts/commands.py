"""The commands `unified report interference` and `unified report routing`."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified.core.atomic_files import replace_file
from unified.core.consent import allow_commands
from unified.core.errors import UserError, say
from unified.core.log import logger
from unified.core.text_tables import aligned
from unified.nn.moe.balance import effective_experts, entropy
from unified.reports.experts import interference_figure, routing, routing_figure
from unified.reports.experts.interference import ALL, LINEARS, VANISHING, Interference, measure
from unified.reports.experts.routing import Routing
from unified.reports.figures import number
from unified.reports.source import FORMAT, Questions, Subject, chosen_tasks, data_commands, find_recipe, open_subject

NUMBERS = re.compile(r"\[\n[^\[\]{}\"]*\]")  # raw line ends stand outside of texts only


@dataclass(frozen=True)
class Ask:
    """What `unified report interference` is asked for."""

    linear: str = "down"
    layers: tuple[int, ...] = ()
    tasks: tuple[str, ...] = ()
    batches: int = 16
    seed: int = 0


def interference_command(
    reference: str, ask: Ask, *, data: str | None = None, against: str | None = None, out: Path | None = None
) -> None:
    """Measure one model or two, print the matrix of all layers, and write the JSON and the figure."""
    if ask.batches < 2:
        raise UserError(f"--batches: {ask.batches}; batch k is set against the others, so at least 2 are needed")
    folder = out_folder(reference, out)
    opened = [(name, open_subject(name)) for name in ([] if against is None else [against]) + [reference]]
    recipe = chosen_tasks(find_recipe(reference, data), ask.tasks)
    content: dict[str, Any] = {}
    entries, subjects = [], []
    for name, subject in opened:
        with allow_commands(data_commands(recipe, data)):
            questions = Questions(subject, recipe, ask.seed)
        found = measure(questions, linear=ask.linear, layers=ask.layers, batches=ask.batches)
        entries.append(entry(name, subject, found, questions.tasks))
        subjects.append((name, found))
        content = head(ask, questions)
        say(f"{name}\n{table(found[ALL], questions.tasks)}")
    content |= entries[-1]
    if against is not None:
        content |= {"against": entries[0], "difference": difference(entries[1], entries[0])}
    write_json(folder / "interference.json", content)
    interference_figure.draw(subjects, list(content["tasks"]), ask.linear, ask.batches, folder / "interference.png")
    logger.info("written: %s and %s", folder / "interference.json", folder / "interference.png")


def routing_command(
    reference: str, *, data: str | None = None, batches: int = 16, seed: int = 0, out: Path | None = None
) -> None:
    """Look at the routers of a model, print how busy their experts are, and write the JSON and the figure."""
    folder = out_folder(reference, out)
    subject = open_subject(reference)
    counted = routing.looks_at_data(routing.check(subject.model, reference))
    if counted:
        asked = find_recipe(reference, data)
        with allow_commands(data_commands(asked, data)):
            questions = Questions(subject, asked, seed)
        found = routing.count(questions, batches)
    else:
        recipe = None if data is None else find_recipe(reference, data)
        found = routing.gate_table(subject.model, routing.kinds_of_tasks(subject.model, recipe))
    content = {**routing_head(reference, subject, found), "batches": batches if counted else 0, "seed": seed}
    say(routing_table(found).rstrip("\n"))
    for warning in content["warnings"]:
        logger.warning("%s", warning)
    write_json(folder / "routing.json", content)
    routing_figure.draw(found, reference, content["batches"], folder / "routing.png")
    logger.info("written: %s and %s", folder / "routing.json", folder / "routing.png")


def routing_head(reference: str, subject: Subject, found: Routing) -> dict[str, Any]:
    """The numbers of a routing report."""
    use: dict[str, dict[str, Any]] = {}
    for (layer, decision), shares in found.shares.items():
        load = found.load((layer, decision))
        use.setdefault(str(layer), {})[decision] = {
            "rows": shares.tolist(),
            "load": load.tolist(),
            "entropy": float(entropy(load)),
            "effective_experts": float(effective_experts(load)),
            "effective_experts_of_rows": effective_experts(shares).tolist(),
            "dead": found.dead((layer, decision)),
        }
    return {
        "format": FORMAT,
        "report": "routing",
        "model": reference,
        "source": subject.source,
        "router": found.router,
        "top": found.top,
        "definition": "rows[r][e]: weight of expert e for row r, or its share of the choices of the row's tokens; "
        "load: the same over all rows, by tokens where they were counted; entropy in nats, effective_experts its exp",
        "rows": [{**asdict(row), "label": row.label.replace("\n", " ")} for row in found.rows],
        "use": use,
        "warnings": [
            f"layer {layer}, {decision}: {problem}"
            for layer, decision in found.shares
            for problem in found.problems((layer, decision))
        ],
    }


def routing_table(found: Routing) -> str:
    """How busy experts are, for the terminal, and what the rows are."""
    rows = []
    for place in found.shares:
        load = found.load(place)
        busiest = f"{int(load.argmax())} ({float(load.max()):.0%})"
        effective = f"{float(effective_experts(load)):.2f} of {len(load)}"
        rows.append([str(place[0]), place[1], effective, busiest, str(len(found.dead(place)))])
    names = [[row.label.partition("\n")[0], row.key or "", ", ".join(row.tasks)] for row in found.rows]
    return (
        aligned(["layer", "decision", "effective experts", "busiest", "dead"], rows, {1})
        + "\n\n"
        + aligned(["row", "key", "tasks"], names, {0, 1, 2})
        + "\n"
    )


def head(ask: Ask, questions: Questions) -> dict[str, Any]:
    """What the numbers are."""
    return {
        "format": FORMAT,
        "report": "interference",
        "definition": "matrix[i][j]: a small step along task j lowers the loss of task i by so much of what a step "
        "along i itself would; mean over batches of ratios of leave-one-out inner products of gradients "
        "(Uni-Perceiver-MoE, NeurIPS 2022). null: every denominator vanished",
        "rows": "affected",
        "columns": "causing",
        "tasks": list(questions.tasks),
        "linear": LINEARS[ask.linear],
        "batches": ask.batches,
        "batch_sizes": questions.sizes(),
        "seed": ask.seed,
        "vanishing": VANISHING,
    }


def entry(reference: str, subject: Subject, found: Mapping[str, Interference], tasks: Sequence[str]) -> dict[str, Any]:
    """The matrices of one model: of `all` layers as one vector, then of each layer."""
    return {
        "model": reference,
        "source": subject.source,
        "layers": [int(name) for name in found if name != ALL],
        "matrices": {
            name: {
                "mean": plain(part.mean()),
                "median": plain(part.median()),
                "standard_error": plain(part.standard_error()),
                "sign_flips": dict(zip(tasks, part.flips.tolist(), strict=True)),
                "dropped": dict(zip(tasks, part.dropped.tolist(), strict=True)),
            }
            for name, part in found.items()
        },
    }


def difference(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Mean matrix of the model less that of the other one, of the layers that both have."""
    pairs = {name: (after["matrices"][name], before["matrices"].get(name)) for name in after["matrices"]}
    return {
        name: plain(np.array(a["mean"], dtype=float) - np.array(b["mean"], dtype=float))
        for name, (a, b) in pairs.items()
        if b is not None
    }


def table(found: Interference, tasks: Sequence[str]) -> str:
    """The mean matrix for the terminal; sign flips and drops only where there are any."""
    extra = [("sign flips", found.flips), ("dropped", found.dropped)]
    shown = [(name, counts) for name, counts in extra if counts.any()]
    rows = [
        [task, *(number(value) for value in row), *(str(counts[i]) for _, counts in shown)]
        for i, (task, row) in enumerate(zip(tasks, found.mean(), strict=True))
    ]
    return aligned(["affected \\ causing", *tasks, *(name for name, _ in shown)], rows, {0}) + "\n"


def plain(values: NDArray[np.float64]) -> list[Any]:
    """Nested lists in which null is a number that there is none of."""
    return [
        plain(value) if isinstance(value, np.ndarray) else float(value) if math.isfinite(value) else None
        for value in values
    ]


def out_folder(reference: str, out: Path | None) -> Path:
    """Where a report goes, checked before hours of work are spent: `reports` in the run, or here for other models."""
    run = Path(reference)
    folder = out or (run / "reports" if (run / "recipe.yaml").is_file() else Path("reports"))
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"--out: {folder} cannot be written, as {there} is not a folder that can be written to")
    return folder


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a report's numbers, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    text = NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]), text)  # numbers of a list in one line
    replace_file(path, text + "\n")

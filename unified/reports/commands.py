"""The commands `unified report interference` and `unified report routing`."""

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified.evaluate.table import aligned
from unified.log import logger
from unified.reports.figures import number
from unified.reports.interference import ALL, LINEARS, VANISHING, Interference, measure
from unified.reports.interference_figure import draw
from unified.reports.source import (
    FORMAT,
    Questions,
    ReportError,
    Subject,
    chosen_tasks,
    find_recipe,
    open_subject,
)


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
        raise ReportError(f"--batches: {ask.batches}; batch k is set against the others, so at least 2 are needed")
    folder = out_folder(reference, out)
    recipe = chosen_tasks(find_recipe(reference, data), ask.tasks)
    content: dict[str, Any] = {}
    entries, subjects = [], []
    for name in [reference] if against is None else [against, reference]:
        subject = open_subject(name)
        logger.info("%s: %s", name, subject.source)
        questions = Questions(subject, recipe, ask.seed)
        found = measure(questions, linear=ask.linear, layers=ask.layers, batches=ask.batches)
        entries.append(entry(name, subject, found, questions.tasks))
        subjects.append((name, found))
        content = head(ask, questions)
        sys.stdout.write(f"{name}\n{table(found[ALL], questions.tasks)}\n")
    content |= entries[-1]
    if against is not None:
        content |= {"against": entries[0], "difference": difference(entries[1], entries[0])}
    write_json(folder / "interference.json", content)
    draw(subjects, list(content["tasks"]), ask.linear, ask.batches, folder / "interference.png")
    logger.info("written: %s and %s", folder / "interference.json", folder / "interference.png")


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
        raise ReportError(f"--out: {folder} cannot be written, as {there} is not a folder that can be written to")
    return folder


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a report's numbers, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)

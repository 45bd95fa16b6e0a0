"""What a finished run leaves: result.json, complete or absent, which a later start skips."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.studies.quality.plan import Run
from benchmarks.studies.quality.scores import Score
from unified.config.recipe import Recipe
from unified.core.errors import RecipeError
from unified.core.schema import build, read_yaml
from unified.pipeline.schedule import samples_before
from unified.train.monitor.recipe_diff import differences, plain

FORMAT = 1
FILE = "result.json"
BESIDE = ("train.", "data.")
"""Keys of a recipe that do not change what is learned."""


@dataclass(frozen=True)
class Result:
    """One run in numbers."""

    variant: str
    seed: int
    tasks: tuple[str, ...]
    samples: dict[str, int]
    """Seen in training, by task."""
    seconds: float
    """Of training steps, the wait for data included, without start, saving and evaluation."""
    threads: int
    stored: int
    """Parameters."""
    active: int
    """Parameters that one token is computed with."""
    scores: dict[str, Score]
    interference: dict[str, dict[str, float]] = field(default_factory=dict)
    """Between tasks, by affected and causing task; empty for a model of one task."""
    format: int = FORMAT


def write(folder: Path, result: Result) -> None:
    """The file, whole or not at all."""
    temporary = folder / f".{FILE}.writing"
    temporary.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / FILE)


def read(folder: Path, run: Run, asked: Iterable[str]) -> Result | None:
    """The result of a finished run; None where it still has to be carried out, or to be asked a new question.

    Raises `RecipeError` where the folder holds a run of another recipe.
    """
    _check_same(folder, run.recipe)
    path = folder / FILE
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("format") != FORMAT:
        raise RecipeError(f"{path}: format {content.get('format')}, this version reads {FORMAT}; remove the file")
    found = build(Result, content, str(path))
    return found if set(found.scores) == set(asked) else None


def _check_same(folder: Path, recipe: Recipe) -> None:
    path = folder / "recipe.yaml"
    if not path.is_file():
        return
    stored = build(Recipe, read_yaml(path), str(path))
    changed = [d for d in differences(plain(stored), plain(recipe)) if not d[0].startswith(BESIDE)]
    if changed:
        listed = "; ".join(f"{key} was {old!r} and is {new!r} now" for key, old, new in changed[:5])
        raise RecipeError(f"{folder}: holds a run of another recipe: {listed}. Use another --out, or remove the folder")


def training_seconds(recipe: Recipe, records: Iterable[Mapping[str, Any]]) -> float:
    """The time of all steps from a run's metrics, however often it was stopped: samples over samples a second."""
    total, before = 0.0, 0
    for record in records:
        if "samples_per_second" in record:
            seen = sum(samples_before(recipe, recipe.seed, record["step"]).values())
            total += (seen - before) / record["samples_per_second"]
            before = seen
    return total

"""The records that a run keeps of itself, read as they come: damaged ones are told, and kept aside."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unified.answers.table import own_keys
from unified.config.earlier import IN_RECIPES, without_removed
from unified.config.model import ModelSettings
from unified.config.recipe import Recipe
from unified.core.errors import DataError, RecipeError, UserError, quoted
from unified.core.json_files import MOST_BYTES, parse_json, read_bytes, read_json
from unified.core.log import logger
from unified.core.schema import build, read_yaml
from unified.core.text_files import read_text
from unified.core.version import check_format

FORMAT = 1
RECIPE_FORMAT = 2
"""The first had the keys of every kind of answer for each task, and modalities beside the other keys of `model`."""
RECIPE_END = "...\n"
"""YAML's end of a document."""
RECIPE_HEADER = "# unified recipe, format "
MOST_STEPS = 2**53
"""What JSON holds exactly."""


def read_metrics(path: Path, damaged: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the records of a metrics.jsonl; a last line that a killed process left unfinished is passed over.

    Args:
        path: The file; where it is none, there are no records.
        damaged: Gets a message for each line that is no record; None: they are logged.

    Raises:
        UserError: The file is of a later format.
    """
    found: list[str] = []
    try:
        lines = read_bytes(path, MOST_BYTES).split(b"\n") if path.exists() else [b""]
    except DataError as error:
        found, lines = [str(error)], [b""]
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line end is empty or unfinished
        try:
            record = parse_json(line, f"{path}:{number}")
            if number == 1 and isinstance(record.get("format"), int):
                check_format(record["format"], FORMAT, str(path), UserError)
            elif is_step(record.get("step")):
                yield record
            else:
                found.append(f"{path}:{number}: expected a record with a step, got {quoted(record.get('step'))}")
        except DataError as error:
            found.append(str(error))
    if found and damaged is None:
        logger.warning("%s%s", found[0], f" (and {len(found) - 1} more lines)" if len(found) > 1 else "")
    elif damaged is not None:
        damaged += found


def is_step(value: Any) -> bool:
    """Whether a value of JSON can be the number of a step."""
    return type(value) is int and 0 <= value < MOST_STEPS


def read_starts(path: Path) -> list[dict[str, Any]] | None:
    """Return what versions.json says of the starts of a run; none without the file, None where it is damaged.

    Raises:
        UserError: The file is of a later format.
    """
    if not path.exists():
        return []
    try:
        content = read_json(path)
    except DataError as error:
        logger.warning("%s", error)
        return None
    check_format(content.get("format", FORMAT), FORMAT, str(path), UserError)
    starts = content.get("starts")
    fits = isinstance(starts, list) and all(isinstance(start, dict) and is_step(start.get("step")) for start in starts)
    if not fits:
        logger.warning("%s: expected a list of starts, each with its step, got %s", path, quoted(starts))
    return starts if fits else None


def put_aside(path: Path, ending: str = "damaged") -> Path:
    """Keep a record beside the one that takes its place, whatever it is; returns where."""
    aside, number = path.with_name(f"{path.name}.{ending}"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{ending}-{number}")
    path.replace(aside)
    return aside


def read_recipe(path: Path) -> Recipe | None:
    """Return the resolved recipe that a run keeps; None where there is no such file.

    Raises:
        RecipeError: It is damaged.
        UserError: It is of a later format.
    """
    if not path.exists():
        return None
    try:
        read_bytes(path)
        text = read_text(path)
    except DataError as error:
        raise RecipeError(str(error)) from error
    first, content = text.split("\n", maxsplit=1)[0], read_yaml(path)
    number = first.removeprefix(RECIPE_HEADER).split(";")[0]
    if first.startswith(RECIPE_HEADER) and number.isdecimal():
        check_format(int(number), RECIPE_FORMAT, str(path), UserError)
        if int(number) == 1:
            content = _upgraded(without_removed(content, IN_RECIPES, str(path)), str(path))
        elif not text.endswith(RECIPE_END):  # half of a recipe may be one, with other defaults
            raise RecipeError(f"{path}: expected {RECIPE_END.strip()!r} as the last line, got a file that was cut off")
    return build(Recipe, content, str(path))


def _upgraded(content: dict[str, Any], where: str) -> dict[str, Any]:
    """A recipe of the first format with today's keys."""
    model = content.get("model")
    if isinstance(model, dict) and (names := ModelSettings.RENAMED.keys() & model.keys()):
        rest = {name: value for name, value in model.items() if name not in names}
        content = {**content, "model": {**rest, "modalities": {name: model[name] for name in sorted(names)}}}
    tasks = content.get("tasks")
    if isinstance(tasks, dict):
        tasks = {name: _upgraded_task(task, f"{where}.tasks.{name}.answer") for name, task in tasks.items()}
        content = {**content, "tasks": tasks}
    return content


def _upgraded_task(task: Any, where: str) -> Any:
    if not isinstance(task, dict) or not isinstance(task.get("answer"), dict):
        return task
    return {**task, "answer": own_keys(task["answer"], where)}

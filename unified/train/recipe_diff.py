"""What differs between the recipe of a run and the one it is resumed with."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unified.config import RecipeError
from unified.log import logger
from unified.recipe import Recipe

ABSENT = "(absent)"


def plain(value: Any) -> Any:
    """A recipe, or a part of one, as what YAML writes: mappings, lists, text and numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def differences(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, old value, new value) for every value that differs, keys joined by dots."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            yield from differences(old.get(name, ABSENT), new.get(name, ABSENT), f"{where}.{name}" if where else name)
    elif old != new:
        yield where, old, new


def check_resume(stored: Recipe, new: Recipe, where: Path) -> None:
    """Refuse another model than the stored recipe's, with a `RecipeError` that lists the keys; log other changes."""
    found = list(differences(plain(stored), plain(new)))
    model = [difference for difference in found if difference[0].startswith("model.")]
    if model:
        listed = "\n".join(f"  {key}: {old!r} in the run, {now!r} in the recipe" for key, old, now in model)
        raise RecipeError(
            f"{where}: the model of this run differs from the recipe's, so its checkpoints do not fit:\n{listed}\n"
            "Give the run's values to resume it, or train into another folder with --out"
        )
    for key, old, now in found:
        logger.warning("resumed with a changed recipe: %s was %r and is %r now", key, old, now)

"""What differs between the recipe of a run and the one it is resumed with."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unified.config.recipe import Recipe
from unified.core.errors import RecipeError, quoted
from unified.core.locations import without_secrets
from unified.core.log import logger
from unified.model.config import UnifiedConfig

ABSENT = "(absent)"
NETWORK = (
    *("width", "depth", "heads", "hidden", "layer_scale", "modalities"),
    *("vocabulary_size", "spe_token_id", "end_token_id"),
)
"""Keys of config.json that a resumed run may not change; temperatures may come and go with their tasks."""
FREE = ("model.drop_path", *(f"model.experts.{name}" for name in ("noise", "balance", "z_loss", "capacity")))
"""Settings of the model that no weight depends on."""


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
    _refuse([difference for difference in found if _of_network(*difference)], where)
    for key, old, now in found:
        was, is_now = map(quoted, without_secrets([old, now]))
        logger.warning("resumed with a changed recipe: %s was %s and is %s now", key, was, is_now)


def _of_network(key: str, old: Any, now: Any) -> bool:
    """Whether checkpoints do not fit any more; a rate of the biases may change while there are biases."""
    biased = key == "model.experts.bias_rate" and bool(old) and bool(now)
    return key.startswith("model.") and key not in FREE and not biased


def check_network(stored: UnifiedConfig, new: UnifiedConfig, where: Path) -> None:
    """Refuse a network of another shape with a `RecipeError` that lists the keys.

    Equal recipes may still differ in it, where a tokenizer was trained anew under its old name.
    """
    old, now = ({name: plain(getattr(config, name)) for name in NETWORK} for config in (stored, new))
    _refuse(list(differences(old, now)), where)


def _refuse(found: Sequence[tuple[str, Any, Any]], where: Path) -> None:
    if found:
        listed = "\n".join(f"  {key}: {quoted(old)} in the run, {quoted(now)} in the recipe" for key, old, now in found)
        raise RecipeError(
            f"{where}: the model of this run differs from the recipe's, so its checkpoints do not fit:\n{listed}\n"
            "Give the run's values to resume it, or train into another folder with --out"
        )

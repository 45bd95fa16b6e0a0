"""Keys that earlier versions wrote and that decide nothing any more: files that hold them are still read."""

from collections.abc import Mapping
from typing import Any

from unified.core.errors import RecipeError, quoted

IN_RECIPES = {"mixing": ("alpha", "block"), "model.image": ("window", "global_every")}
IN_CONFIGURATIONS = {"modalities.image": ("window", "global_every")}
"""By section, the key that was null where it changed nothing, and the one that only counted beside it."""


def without_removed(content: Mapping[str, Any], removed: Mapping[str, tuple[str, str]], where: str) -> dict[str, Any]:
    """Return the content of a file that the project wrote without keys that are gone.

    Args:
        content: What the file holds.
        removed: `IN_RECIPES` or `IN_CONFIGURATIONS`.
        where: The file, for messages.

    Raises:
        RecipeError: The file asks for what is gone.
    """
    left = dict(content)
    for section, keys in removed.items():
        part, *inner = section.split(".")
        found = left.get(part)
        if not isinstance(found, Mapping):
            continue
        if inner:
            left[part] = without_removed(found, {".".join(inner): keys}, f"{where}: {part}")
        elif found.get(keys[0]) is not None:
            raise RecipeError(
                f"{where}: {section}.{keys[0]}: expected null, got {quoted(found[keys[0]])}. Hint: this version has no "
                "such key; use the version that wrote the file"
            )
        else:
            left[part] = {name: value for name, value in found.items() if name not in keys}
    return left

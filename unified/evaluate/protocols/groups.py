"""Which texts are the same answer: those of one group by a column, by the data's manifest, or by being equal."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unified.core.errors import RecipeError
from unified.data.shards.patterns import MANIFEST, read_manifest


class Groups:
    """The group of each text.

    `manifests` are folders whose manifest lists `groups` (number -> names that look alike); `texts` with `values` add
    those of the data themselves.
    """

    def __init__(self, manifests: Iterable[str], texts: Sequence[str], values: Sequence[Any] | None) -> None:
        self._of: dict[str, str] = {}
        for folder in manifests:
            if not (Path(folder) / MANIFEST).is_file():
                raise RecipeError(f"groups: {folder}: no {MANIFEST} there; name the folder of a split of shards")
            for group, names in read_manifest(Path(folder)).get("groups", {}).items():
                self._of.update(dict.fromkeys(names, f"group {group}"))
        for text, value in zip(texts, values or (), strict=bool(values)):
            found = self._of.setdefault(text, f"group {value}")
            if values is not None and found != f"group {value}":
                raise RecipeError(f"groups: {text!r} is in {found} by the manifests and in group {value} by its column")

    def of(self, text: str) -> str:
        """The group of a text; one that is in none is a group of its own."""
        return self._of.get(text, f"text {text}")

    def members(self, texts: Iterable[str]) -> dict[str, set[str]]:
        """By group, all texts that are known, and `texts`."""
        found: dict[str, set[str]] = defaultdict(set)
        for text in (*self._of, *texts):
            found[self.of(text)].add(text)
        return found

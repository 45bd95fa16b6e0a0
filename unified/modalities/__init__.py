"""The modalities, each with a tokenizer (CPU, driven by a spec) and an embedding (the weights)."""

from collections.abc import Iterable, Mapping
from typing import Any

from unified.core.errors import RecipeError, quoted
from unified.core.plugins import Table
from unified.core.schema import build
from unified.modalities.base import Tokenizer
from unified.modalities.image.modality import IMAGE
from unified.modalities.modality import Modality
from unified.modalities.text.modality import TEXT


class ModalityTable(Table[Modality]):
    """The modalities by name, and the two that play a part of their own."""

    def __init__(self, rows: Iterable[Modality]) -> None:
        built_in = list(rows)
        super().__init__("unified.modalities", "modality", built_in, Modality)
        self.built_in = tuple(row.name for row in built_in)
        self.spatial = next(row.name for row in built_in if row.spatial)
        """The name of the one whose pixels maps, boxes and keypoints refer to."""
        self.language = next(row.name for row in built_in if row.language)
        """The name of the one that candidates, captions and names of classes are written in."""

    def row(self, key: str) -> Modality:
        """Return the modality that a key of `model.modalities` in a recipe means: a name, or `package.module:NAME`."""
        return self.resolve(key) if ":" in key else self.find(key, "model.modalities")

    def read(self, value: Any, where: str) -> dict[str, Any]:
        """Return the settings of a recipe's modalities by key; those of this package are always among them.

        Args:
            value: The value of `model.modalities`: keys of settings by name, or by `package.module:NAME`.
            where: Its place in the recipe.

        Raises:
            RecipeError: A modality comes twice, or its settings cannot be.
            UserError: A modality does not exist, or its package cannot be used.
        """
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where}: expected modalities with their settings, got {quoted(value)}")
        found, names = self.defaults(), set[str]()
        for key, given in value.items():
            row = self.resolve(key) if ":" in str(key) else self.find(str(key), where)
            if row.name in names or (row.name in self.built_in and row.name != key):
                raise RecipeError(f"{where}.{key}: expected each modality once, got {quoted(row.name)} again")
            names.add(row.name)
            found[str(key)] = build(row.settings, given, f"{where}.{key}")
        return found

    def defaults(self) -> dict[str, Any]:
        """Return the settings of the modalities of this package."""
        return {name: self[name].settings() for name in self.built_in}


MODALITIES = ModalityTable([IMAGE, TEXT])


def load_tokenizers(settings: Mapping[str, Any]) -> dict[str, Tokenizer]:
    """Return the tokenizers of a recipe's modalities by name; `settings` are those of `model.modalities`."""
    rows = {key: MODALITIES.row(key) for key in settings}
    return {row.name: row.tokenizer(settings[key]) for key, row in rows.items()}

"""The tasks of a model that are answered about an image by comparing representations."""

from pathlib import Path
from typing import TypeGuard

from unified.answers import ANSWERS
from unified.answers.kind import AnswerKind
from unified.answers.match.classification import CLASSIFICATION
from unified.answers.table import kind_of
from unified.config.labels import Labels, load_labels
from unified.config.recipe_facts import label_sets
from unified.modalities import MODALITIES
from unified.model.config import UnifiedConfig
from unified.reports.prediction.drawing import Matched
from unified.reports.prediction.drawings import DRAWINGS
from unified.train.monitor.records import read_recipe


def matched_tasks(reference: str, config: UnifiedConfig) -> dict[str, Matched]:
    """Return the captions and label choices about images that a model learned, by task.

    Args:
        reference: The model; the recipe of a run from before configurations kept label sets is read there.
        config: Its configuration.

    Raises:
        RecipeError: The recipe of such an earlier run names a label set that is not found.
    """
    if not any("read" in entry for entry in config.tasks.values()):
        return _of_recipe(Path(reference) / "recipe.yaml")
    found = {}
    for name, entry in config.tasks.items():
        if set(entry.get("inputs", ())) != {MODALITIES.spatial}:
            continue
        labels, kind = None, ANSWERS.get(entry["read"])
        if "id2label" in entry:
            names = tuple(entry["id2label"][number] for number in sorted(entry["id2label"]))
            labels, kind = Labels(names, tuple(entry["templates"])), CLASSIFICATION
        if _about_images(kind):
            family = config.kinds(name)[0].family or name
            found[name] = Matched(kind, family, labels, entry.get("vocabulary") or "embedding")
    return found


def _of_recipe(file: Path) -> dict[str, Matched]:
    recipe = read_recipe(file) if file.is_file() else None
    if recipe is None:
        return {}
    references, found = label_sets(recipe), {}
    for name, task in recipe.tasks.items():
        kind = kind_of(task)
        if set(task.inputs.values()) == {MODALITIES.spatial} and _about_images(kind):
            labels = load_labels(references[name]) if name in references else None
            vocabulary = getattr(task.answer, "vocabulary", "embedding")
            found[name] = Matched(kind, task.family or name, labels, vocabulary)
    return found


def _about_images(kind: AnswerKind | None) -> TypeGuard[AnswerKind]:
    """Whether answers of a kind are predicted about one image by itself."""
    return kind is not None and kind.name in DRAWINGS and DRAWINGS[kind.name].predict is not None

"""The tasks of a model that are answered about an image by comparing representations."""

from dataclasses import dataclass
from pathlib import Path

from unified.config.labels import Labels, load_labels
from unified.config.task import Task
from unified.model.config import UnifiedConfig
from unified.train.monitor.records import read_recipe


@dataclass(frozen=True)
class Matched:
    """A caption, or a choice from a label set."""

    family: str
    """Names the temperature, and what routers look at."""
    labels: Labels | None
    """None: a caption."""
    vocabulary: str = "embedding"
    """How captions take the entries of the vocabulary, as in recipes."""


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
        if set(entry.get("inputs", ())) != {"image"}:
            continue
        family = config.kinds(name)[0].family or name
        if "id2label" in entry:
            names = tuple(entry["id2label"][number] for number in sorted(entry["id2label"]))
            found[name] = Matched(family, Labels(names, tuple(entry["templates"])))
        elif entry["read"] == "caption":
            found[name] = Matched(family, None, entry["vocabulary"])
    return found


def _of_recipe(file: Path) -> dict[str, Matched]:
    recipe = read_recipe(file) if file.is_file() else None
    tasks = recipe.tasks if recipe is not None else {}
    about_images = {name: task for name, task in tasks.items() if set(task.inputs.values()) == {"image"}}
    found = {name: _matched(name, task) for name, task in about_images.items()}
    return {name: matched for name, matched in found.items() if matched is not None}


def _matched(name: str, task: Task) -> Matched | None:
    answer, family = task.answer, task.family or name
    listed = answer.label_set()
    if listed is None and answer.kind != "caption":
        return None
    return Matched(family, load_labels(listed) if listed else None, getattr(answer, "vocabulary", "embedding"))

"""One transformer, many tasks: train, evaluate and share generalist perception foundation models.

    import unified
    model, processor = unified.load("org/name")          # or a folder, or a run
    probabilities = model.classify(processor(images=image), labels=["a cat", "a dog"])

After `import unified` the classes of transformers know its models: `AutoModel.from_pretrained`, `pipeline`. What takes
long to import, torch above all, is imported when it is first used.
"""

import importlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

# Loader processes share the cores with the threads of a step. Threads that spin while they wait, the default, then
# slow each other down many times over. Read when torch is imported, so it stands before anything that imports it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from unified.config.task import Answer
from unified.core.version import __version__
from unified.hub import registration

if TYPE_CHECKING:
    from unified.config.recipe import Recipe
    from unified.config.task import Task
    from unified.hub.load import load
    from unified.model.pretrained import UnifiedModel
    from unified.model.processor import UnifiedProcessor

__all__ = ["Answer", "Recipe", "Task", "UnifiedModel", "UnifiedProcessor", "__version__", "load"]

_HOMES = {
    "Recipe": "config.recipe",
    "Task": "config.task",
    "UnifiedModel": "model.pretrained",
    "UnifiedProcessor": "model.processor",
    "load": "hub.load",
}


def __getattr__(name: str) -> Any:
    """Import what the package offers when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"unified.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _settings_of(content: Mapping[str, Any], where: str) -> type[Answer]:
    """Kinds of answers are built on the recipe's schema, and their import takes long; so it is given them here."""
    found: type[Answer] = importlib.import_module("unified.answers.table").settings_of(content, where)
    return found


Answer.settings_of = staticmethod(_settings_of)  # type: ignore[assignment]
registration.install()

"""One transformer, many tasks: train, evaluate and share generalist perception foundation models.

    import unified
    model, processor = unified.load("org/name")          # or a folder, or a run
    probabilities = model.classify(processor(images=image), labels=["a cat", "a dog"])

After `import unified` the classes of transformers know its models: `AutoModel.from_pretrained`, `pipeline`. What takes
long to import, torch above all, is imported when it is first used.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Loader processes share the cores with the threads of a step. Threads that spin while they wait, the default, then
# slow each other down many times over. Read when torch is imported, so it stands before anything that imports it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0.dev0"

from unified import registration

if TYPE_CHECKING:
    from unified.hub import load
    from unified.model import UnifiedModel
    from unified.processor import UnifiedProcessor
    from unified.recipe import Recipe
    from unified.task import Match, Task

__all__ = ["Match", "Recipe", "Task", "UnifiedModel", "UnifiedProcessor", "__version__", "load"]

_HOMES = {
    "Match": "task",
    "Recipe": "recipe",
    "Task": "task",
    "UnifiedModel": "model",
    "UnifiedProcessor": "processor",
    "load": "hub",
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


registration.install()

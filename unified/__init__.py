"""One transformer, many tasks: train, evaluate and share generalist perception foundation models.

    import unified
    model, processor = unified.load("org/name")          # or a folder, or a run
    probabilities = model.classify(processor(images=image), labels=["a cat", "a dog"])

Importing the package registers its classes with `transformers`: `AutoModel.from_pretrained` and `pipeline` know them.
"""

import os

# Loader processes share the cores with the threads of a step. Threads that spin while they wait, the default, then
# slow each other down many times over. Read when torch is imported, so it stands before the imports below.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0.dev0"

from unified.hub import load, register
from unified.model import UnifiedModel
from unified.processor import UnifiedProcessor
from unified.recipe import Recipe
from unified.task import Match, Task

__all__ = ["Match", "Recipe", "Task", "UnifiedModel", "UnifiedProcessor", "__version__", "load"]

register()

"""What is given to a model in place of what its processor returns."""

from collections.abc import Mapping
from typing import Any


def processed(inputs: Any, call: str) -> Mapping[str, Any]:
    """Return the features that a processor made.

    Args:
        inputs: What was given as features; None for none.
        call: The method of the model that was called.

    Raises:
        TypeError: `inputs` is something else, such as an image, a path or a text; the message says how to go on.
    """
    if inputs is None or isinstance(inputs, Mapping):
        return inputs or {}
    kind = "text" if call == "embed" and isinstance(inputs, str) and "." not in inputs else "images"
    given = f"{inputs!r:.80}" if isinstance(inputs, str) else f"a {type(inputs).__name__}"
    raise TypeError(
        f"{call}: expected what the processor returns, got {given}. Hint: `model, processor = unified.load(…)`, then "
        f"`model.{call}(processor({kind}=…), …)`"
    )

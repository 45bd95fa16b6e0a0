"""The scale of the loss in fp16: gradients below its smallest numbers would be lost."""

from typing import Any

FIRST = 2.0**16
"""The first scale, as in torch's GradScaler."""
GROWS_AFTER = 2000
"""Steps in a row with finite gradients after which the scale doubles."""


class LossScale:
    """A factor of the loss that halves where the gradient overflows, and slowly grows otherwise.

    The gradients are divided by it before they are clipped, so it changes no result but the rounding.
    """

    def __init__(self) -> None:
        self.value = FIRST
        self.finite_steps = 0

    def update(self, *, finite: bool) -> None:
        """Take in whether the gradient of a step was finite."""
        self.finite_steps = self.finite_steps + 1 if finite else 0
        if not finite:
            self.value = max(self.value / 2, 1.0)
        elif self.finite_steps == GROWS_AFTER:
            self.value, self.finite_steps = self.value * 2, 0

    @property
    def smallest(self) -> bool:
        """Whether it cannot shrink any more: a gradient that is not finite is no matter of fp16 then."""
        return self.value == 1.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"value": self.value, "finite_steps": self.finite_steps}

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self.value, self.finite_steps = state["value"], state["finite_steps"]

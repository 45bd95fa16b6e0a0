"""Steps that changed nothing, as a loss or a gradient was not finite, and the smaller learning rate after them."""

from typing import Any

LASTS = 100
"""Steps for which a skipped step halves the learning rate."""


class Skipped:
    """The numbers of the steps that were skipped so far, counted from 1 as in metrics.jsonl."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def add(self, step: int) -> int:
        """Take in that `step` was skipped; returns how many in a row were, this one included."""
        self.steps.append(step)
        row = 1
        while row < len(self.steps) and self.steps[-row - 1] == step - row:
            row += 1
        return row

    def factor(self, step: int) -> float:
        """The factor of the learning rate of `step`: a half for each skipped one of the `LASTS` steps before it."""
        return float(0.5 ** sum(step - LASTS <= skipped < step for skipped in self.steps[-LASTS:]))

    def record(self) -> dict[str, Any]:
        """What metrics.jsonl tells: how many steps were skipped since the run began, where any was."""
        return {"skipped_steps": len(self.steps)} if self.steps else {}

"""Learned prompts: what a tuned model attends to beside its tokens, and its linear classifier.

Source: the prompt tuning of Uni-Perceiver (CVPR 2022), after VPT (ECCV 2022).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unified.core.errors import UserError
from unified.core.types import weight_of


class Prompts(nn.Module):
    """The vectors of one layer, which pass its norm and become further keys and values, but ask nothing themselves."""

    def __init__(self, count: int, width: int, *, candidates: bool) -> None:
        """`candidates`: whether sequences of candidates have vectors of their own."""
        super().__init__()
        self.count = count
        self.input = nn.Embedding(count, width)
        self.candidate = nn.Embedding(count, width) if candidates else None

    def forward(self, *, candidate: bool) -> Float[Tensor, "p w"]:
        """Those of an input's sequence or of a candidate's."""
        table = self.candidate if candidate and self.candidate is not None else self.input
        return table(torch.arange(self.count, device=weight_of(table).device))


class Classifier(nn.Module):
    """logits = similarity · similarities + linear(features): a linear classifier beside the similarities."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.linear = nn.Linear(width, classes)
        self.similarity = nn.Parameter(torch.ones(1))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """The start, at which the similarities decide alone."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        nn.init.ones_(self.similarity)

    def forward(self, similarities: Float[Tensor, "b c"], features: Float[Tensor, "b w"]) -> Float[Tensor, "b c"]:
        """`features` are projected, of any length. Raises `UserError` for other candidates than its classes."""
        if similarities.shape[1] != self.classes:
            raise UserError(
                f"this model was tuned with a linear classifier of {self.classes} classes, found "
                f"{similarities.shape[1]} candidates; give the names of all its classes in their order, or set "
                "model.classifier = None to answer by similarity alone"
            )
        return self.similarity * similarities + self.linear(features)

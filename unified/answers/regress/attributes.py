"""Presence: whether there is what a query asks for; attributes, classes of an image, joints that can be seen."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unified.answers.kind import QueryKind


def presence_loss(
    logits: Float[Tensor, "b q"], target: Float[Tensor, "b q"], ratio: Float[Tensor, "q"] | None = None
) -> Float[Tensor, "b"]:
    """Binary cross entropy, averaged over the queries that are known; 0 where none is.

    `target`: 1, 0, or −1 for unknown. `ratio`: r, the share of positives of each query over the data: positives weigh
    e^(1−r) and negatives e^r, so that rare ones count (the attribute loss of UniHCP, which sums over queries).
    """
    known = target >= 0
    target = target.clamp(min=0).float()
    loss = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    if ratio is not None:
        loss = loss * torch.where(target > 0.5, (1 - ratio.float()).exp(), ratio.float().exp())
    return (loss * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)


class Attributes(QueryKind):
    """Whether each named attribute holds."""

    name = "presence"


ATTRIBUTES = Attributes()

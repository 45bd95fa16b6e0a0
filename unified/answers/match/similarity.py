"""Match: the answer is the candidate whose representation is most similar to the input's.

P(y|x) ∝ exp(cos(f(x), f(y)) · scale), the scale exp(s) learned for each task family and capped
(Uni-Perceiver, CVPR 2022). Several candidates may be right at once (equal texts, equal pictures): the target
distribution is then uniform over them (UniCL, CVPR 2022).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

MAX_SCALE = 100.0
TEMPERATURES = "log_scales."
"""What the names of a model's learned temperatures begin with."""


def similarity_scale(log_scale: Float[Tensor, "1"]) -> Float[Tensor, "1"]:
    """min(exp(s), 100) in fp32: above the cap it is the constant, so the gradient to s vanishes there."""
    return log_scale.float().exp().clamp(max=MAX_SCALE)


class Temperatures(nn.ParameterDict):
    """The learned s of each task family. Called, so that weights kept elsewhere (accelerate's offload) are fetched."""

    __call__ = nn.Module.__call__  # a plain ParameterDict refuses calls

    def forward(self, family: str) -> Float[Tensor, "1"]:
        """The factor of the similarities of a family."""
        return similarity_scale(self[family])


def similarity(
    features: Float[Tensor, "n w"], candidates: Float[Tensor, "c w"], scale: Float[Tensor, "1"]
) -> Float[Tensor, "n c"]:
    """Logits of unit-length features against unit-length candidates, in fp32 also where autocast is on."""
    with torch.autocast(features.device.type, enabled=False):
        return (features.float() @ candidates.float().T) * scale.float()


def loss_of_class(
    logits: Float[Tensor, "n c"], target: Int[Tensor, "n"], label_smoothing: float = 0.0
) -> Float[Tensor, "n"]:
    """Cross entropy where one candidate is right."""
    return F.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)


def loss_of_set(
    logits: Float[Tensor, "n c"], right: Bool[Tensor, "n c"], label_smoothing: float = 0.0
) -> Float[Tensor, "n"]:
    """Cross entropy against the uniform distribution over the right candidates; each row has at least one."""
    target = right.float() / right.sum(dim=1, keepdim=True)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / right.shape[1]
    return -(target * logits.log_softmax(dim=1)).sum(dim=1)


def correct(logits: Float[Tensor, "n c"], right: Bool[Tensor, "n c"]) -> Bool[Tensor, "n"]:
    """Whether the most similar candidate is a right one; of equal logits the first counts."""
    best = logits.argmax(dim=1, keepdim=True)
    return torch.gather(right, 1, best).squeeze(1)

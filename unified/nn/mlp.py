"""The feed-forward layer."""

from jaxtyping import Float
from torch import Tensor, nn

from unified.nn.attention import MakeLinear
from unified.nn.moe.experts import Dense


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, width: int, hidden: int, make: MakeLinear) -> None:
        super().__init__()
        self.up = make("up", width, hidden)
        self.down = make("down", hidden, width)

    def forward(self, x: Float[Tensor, "b n w"], layer: Dense) -> Float[Tensor, "b n w"]:
        """Each token on its own."""
        return layer.mlp(self.up, self.down, x)

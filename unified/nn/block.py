"""One layer of the encoder."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unified.core.types import Conditions, Segment
from unified.nn.attention import Attention, Cache, QueryKeyValue
from unified.nn.mlp import Mlp
from unified.nn.moe.experts import ConditionalLayer, ConditionalLinear, Dense, Experts
from unified.nn.moe.routing import BY_TOKEN, Usage
from unified.nn.prompts import Prompts

DENSE = Dense()


class Block(nn.Module):
    """Pre-norm attention and feed-forward branches, each with a learned scale and drop path.

    x ← x + drop(γ₁ ⊙ attention(LN₁ x));  x ← x + drop(γ₂ ⊙ mlp(LN₂ x))   (Uni-Perceiver, CVPR 2022)
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        layer_scale: float | None,
        experts: Experts | None = None,
        number: int = 0,
        prompts: Prompts | None = None,
    ) -> None:
        """`experts`: None for a dense layer. `number`: of this layer, which a hash router draws by."""
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

        def make(name: str, inputs: int, outputs: int) -> nn.Module:
            if experts is not None and name in experts.linears:
                return ConditionalLinear(experts.count, inputs, outputs, parts=3 if name == "qkv" else 1)
            return QueryKeyValue(inputs) if name == "qkv" else nn.Linear(inputs, outputs)

        if experts is not None and experts.whole_mlp:
            hidden = experts.hidden or hidden
        self.attention = Attention(width, heads, make)
        self.mlp = Mlp(width, hidden, make)
        self.routers = None if experts is None else ConditionalLayer(experts, width, hidden, number)
        self.prompts = prompts
        self.scale1: nn.Parameter | None = None
        self.scale2: nn.Parameter | None = None
        if layer_scale is not None:
            self.scale1 = nn.Parameter(torch.full((width,), layer_scale))
            self.scale2 = nn.Parameter(torch.full((width,), layer_scale))

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        mask: Bool[Tensor, "_ 1 q k"] | None,
        past: Cache | None = None,
        drop: Float[Tensor, "2 b"] | None = None,
        segments: Sequence[Segment] = (),
        conditions: Conditions | None = None,
        noise: Float[Tensor, "d r e"] | None = None,
        candidate: bool = False,
        read: slice | None = None,
    ) -> tuple[Float[Tensor, "b s w"], Cache, Usage | None]:
        """`drop`: factor of each branch for each sample, 0 where drop path closes it. `noise`: of the gates.

        `candidate`: whether these are tokens of a candidate, which may have prompts of their own. `read`: the tokens
        whose states are wanted, where the block `reads_parts`.
        """
        drop1, drop2 = (None, None) if drop is None else (drop[0], drop[1])
        layer = self._layer(segments, conditions, noise, past)
        if self.prompts is not None and past is None:
            past = self.attention.remember(self.norm1(self.prompts(candidate=candidate)), layer, x.shape[0])
        attended, key, value = self.attention(self.norm1(x), mask, layer, past, read)
        x = _add(x if read is None else x[:, read], attended, self.scale1, drop1)
        feed_forward = self.mlp(self.norm2(x), layer if read is None else layer.within(read))
        x = _add(x, feed_forward, self.scale2, drop2)
        return x, Cache(key, value, layer.context()), layer.usage()

    @property
    def reads_parts(self) -> bool:
        """Whether states of some tokens can be had alone: not where tokens are sent to experts, which all are."""
        return self.routers is None or self.routers.experts.router not in BY_TOKEN

    def _layer(
        self, segments: Sequence[Segment], conditions: Conditions | None, noise: Tensor | None, past: Cache | None
    ) -> Dense:
        if self.routers is None:
            return DENSE
        assert conditions is not None, "a layer with experts needs to know what its tokens are"
        before = None if past is None else past.context
        return self.routers.apply_to(self.linears(), segments, conditions, noise, before)

    def linears(self) -> dict[str, nn.Module]:
        """The linears that can be conditional, by name."""
        return {"qkv": self.attention.qkv, "out": self.attention.out, "up": self.mlp.up, "down": self.mlp.down}


def _add(x: Tensor, branch: Tensor, scale: Tensor | None, drop: Tensor | None) -> Tensor:
    if drop is not None:
        branch = branch * drop.to(branch.dtype)[:, None, None]
    return x + branch if scale is None else torch.addcmul(x, branch, scale)

"""What task queries look at: states of the encoder, and what is made of them once."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from unified.nn.queries.decoder import Remembered


@dataclass(frozen=True)
class Trunk:
    """The states of an image's patches after the encoder, which lie in a grid of `rows` by `columns`."""

    states: Float[Tensor, "b n w"]
    rows: int
    columns: int
    layers: tuple[Float[Tensor, "b n w"], ...] = ()  # of all levels, for projectors
    queries: Float[Tensor, "b q w"] | None = None  # the states of queries that passed the encoder themselves
    pixels: Float[Tensor, "b n p"] | None = None  # of the patches, normalised
    picture: Float[Tensor, "b 3 H W"] | None = None  # in 0..1


@dataclass(frozen=True)
class Seen:
    """What queries look at, computed once for all tasks of a group that are asked about a batch."""

    layers: tuple[Remembered, ...]  # of the decoder
    grid: Float[Tensor, "b r c w"]  # of the states of patches
    pixels: Float[Tensor, "b r c p"] | None
    features: Float[Tensor, "b h w d"] | None = None  # of every place; None where each task has its own
    memory: Float[Tensor, "b r c d"] | None = None  # of the decoder

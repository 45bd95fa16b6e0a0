"""Settings of task queries."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from unified.core.bounds import Count, Depth, Width


@dataclass(frozen=True)
class QuerySettings:
    """The decoder of task queries, and what reads them; defaults: UniHCP (CVPR 2023)."""

    depth: Annotated[int, Interval(ge=0, le=256)] = 9
    """Layers of the decoder."""
    width: Width = 256
    heads: Depth = 8
    hidden: Width = 2048
    norm: Literal["post", "pre"] = "post"
    activation: Literal["relu", "gelu"] = "relu"
    place: Literal["decoder", "encoder"] = "decoder"
    """encoder: queries are further tokens of the encoder itself, and there is no decoder."""
    doublings: Annotated[int, Interval(ge=0, le=6)] = 2
    """How often the grid of patches doubles for maps: 2 makes four places of each patch and axis."""
    detail: Annotated[int, Interval(ge=0, le=4096)] = 0
    """Channels of convolutions over the pixels, which add to maps what patches do not keep; 0: none (UniHCP)."""
    object_content: Literal["learned", "memory"] = "learned"
    """What queries of objects begin with. learned: one row for all of them (UniHCP). memory: also what lies at their
    anchors."""
    deep_supervision: bool = True
    """Whether the states of all layers of the decoder learn, and not the last alone."""
    sharing: Literal["all", "projector", "attention", "head"] = "all"
    """What tasks share beside the encoder. all: the decoder and its readings, so that queries alone are a task's own
    (UniHCP). projector: each kind of answer has its own way from the layers of the encoder to the decoder (PATH, CVPR
    2023). attention: dense tasks of a step look where a reference task looks (MulT, CVPR 2022). head: nothing, each
    task has a head without queries."""
    reduction: Count = 8
    """Divides the width inside a projector."""
    channel_attention: Literal["none", "se", "cbam"] = "none"
    """Attention to channels inside a projector."""

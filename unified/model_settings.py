"""The part of a recipe that decides the network: frozen dataclasses, as in `unified/recipe.py`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval

from unified.bounds import Count, Depth, Fraction, Length, NotNegative, Positive, Width
from unified.config import RecipeError


@dataclass(frozen=True)
class ImageSettings:
    """How images are read and embedded."""

    tokenizer: str = "image"
    """A folder in tokenizers/, or a path: size, resize mode, mean and standard deviation."""
    patch: Depth = 16
    positions: Literal["sincos", "learned"] = "sincos"
    position_scale: Positive = 1.0
    """Multiplies the grid of fixed positions: 160/224 keeps the positions of a 160-pixel model at 224 pixels."""
    grid: Depth = 14
    """Side of the table of learned positions; other grids interpolate it."""
    frames: Count = 8
    """Rows of the learned table of temporal positions; an image uses the first."""
    window: Depth | None = None
    """Patches along each side of the windows that the patches of an image attend in; null: they attend everywhere."""
    global_every: Depth = 3
    """With windows, every so many-th layer attends everywhere. MFU counts all of them as if they did."""


@dataclass(frozen=True)
class TextSettings:
    """How text is read and embedded."""

    tokenizer: str = "text"
    """A folder in tokenizers/, a path, or a tokenizer of the Hugging Face hub (`org/name`, `org/name@revision`)."""
    max_length: Length = 64
    """Tokens of a text, the end token included; longer texts are cut."""
    positions: Length = 512
    """Rows of the learned table of positions."""


@dataclass(frozen=True)
class ExpertSettings:
    """Conditional experts: which linears of which layers have them, and what chooses among them (Uni-Perceiver-MoE)."""

    count: Count = 8
    """Experts of each conditional linear."""
    top: Count = 2
    """Experts that are chosen."""
    router: Literal["attribute", "task", "modality", "context", "token", "hash"] = "attribute"
    """What the choice looks at. The first three and `hash` (a fixed draw by attributes) do not look at the data: the
    weights of the experts are merged before the products, at the cost of a dense layer. `context` and `token` send
    each token to experts of its own."""
    layers: Literal["even", "odd", "all"] | Sequence[int] = "even"
    """Layers with experts: even numbers (0, 2, 4 …), odd ones, all, or a list."""
    linears: Sequence[Literal["qkv", "out", "up", "down"]] = ("qkv", "out", "up", "down")
    """What is conditional: fused queries, keys and values; attention output; both linears of the MLP."""
    shared_decisions: bool = True
    """`out` reuses the choice made for `qkv`, and `down` that for `up`; false: each linear has a router of its own."""
    noise: NotNegative = 1.0
    """Gate noise in training of routers that do not look at the data: standard deviation times the experts (V-MoE)."""
    bits: Sequence[str] = ()
    """Attributes after the eight published: `query`, `modality:NAME` or `family:NAME`; their weights start at 0."""
    hidden: Width | None = None
    """Feed-forward width of one expert where tokens are sent to experts; null: `model.hidden`. With `model.hidden`
    divided by `top` the layer does the work of a dense one."""
    balance: NotNegative = 0.01
    """Weight of the load-balance loss (Switch Transformer) of routers that look at the data."""
    z_loss: NotNegative = 0.0
    """Weight of the squared log-sum of the gate's logits (ST-MoE), likewise."""
    bias_rate: NotNegative = 0.0
    """Step of the bias that balances the load without a loss (DeepSeek-V3), likewise; 0: no bias."""
    capacity: Positive | None = None
    """Most tokens of an expert in training, in multiples of an even share, likewise; the tokens with the lowest gates
    are left out. Shares are those of one pass of one process: other numbers of processes leave out other tokens. null:
    every token reaches its experts, as it always does outside of training."""


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


@dataclass(frozen=True)
class ModelSettings:
    """The shape of the network (reference arithmetic: Uni-Perceiver, CVPR 2022)."""

    width: Width = 768
    depth: Depth = 12
    heads: Depth = 12
    hidden: Width = 3072
    """Width of the feed-forward layer."""
    layer_scale: NotNegative | None = 1e-3
    """Initial value of the learned scale of each residual branch; null: no scale."""
    drop_path: Fraction = 0.0
    experts: ExpertSettings | None = None
    """Conditional experts; null: a dense network."""
    queries: QuerySettings | None = None
    """What answers of `map` and `regress` need; null: none has them."""
    image: ImageSettings = field(default_factory=ImageSettings)
    text: TextSettings = field(default_factory=TextSettings)


def check_experts(experts: ExpertSettings, model: ModelSettings) -> None:
    """Refuse what conditional experts cannot be."""
    where = "model.experts"
    if experts.top > experts.count:
        raise RecipeError(f"{where}.top: {experts.top} of {experts.count} experts; expected 1 to {experts.count}")
    if experts.top == 1 and experts.count > 1 and experts.router != "hash":
        raise RecipeError(
            f"{where}.top: with one expert chosen its weight is always 1, so that no gradient tells the router what to "
            "choose; expected 2 or more, or the router `hash`, which learns nothing"
        )
    for key, found in (("linears", experts.linears), ("layers", experts.layers), ("bits", experts.bits)):
        if len(set(found)) < len(found) and not isinstance(found, str):
            raise RecipeError(f"{where}.{key}: one is named twice in {list(found)}")
    if not experts.linears or not experts.layers:
        raise RecipeError(f"{where}: no linears or no layers are left; leave `experts` out for a dense model")
    if not isinstance(experts.layers, str):
        beyond = [layer for layer in experts.layers if not 0 <= layer < model.depth]
        if beyond:
            raise RecipeError(f"{where}.layers: {beyond} are none of the layers 0 to {model.depth - 1}")
    by_token = experts.router in ("token", "context")
    if experts.hidden is not None and not (by_token and {"up", "down"} <= set(experts.linears)):
        raise RecipeError(
            f"{where}.hidden: the width of one expert is free only where tokens are sent to experts of both `up` and "
            f"`down`; found the router {experts.router!r} and {', '.join(experts.linears)}"
        )
    if experts.hidden is not None and not experts.shared_decisions:
        raise RecipeError(f"{where}.hidden: needs shared_decisions, as `down` follows the choice made for `up`")
    if experts.bits and experts.router not in ("attribute", "hash"):
        raise RecipeError(f"{where}.bits: only the routers attribute and hash look at bits; found {experts.router!r}")
    for key in ("capacity", "bias_rate", "z_loss"):
        if getattr(experts, key) and not by_token:
            raise RecipeError(f"{where}.{key}: for the routers token and context alone; found {experts.router!r}")


def check_queries(queries: QuerySettings, model: ModelSettings) -> None:
    """Refuse what task queries cannot be."""
    where = "model.queries"
    if queries.detail and model.image.patch % 2**queries.doublings:
        raise RecipeError(
            f"{where}.detail: places of maps hold no whole number of pixels, as patches of {model.image.patch} are "
            f"doubled {queries.doublings} times; change model.image.patch or {where}.doublings"
        )
    if queries.object_content == "memory" and (queries.place == "encoder" or queries.sharing == "head"):
        raise RecipeError(
            f"{where}.object_content: memory is what a decoder looks at; use `learned` without one ({where}.place, "
            f"{where}.sharing)"
        )


def check_expert_parallel(size: int, experts: ExpertSettings | None) -> None:
    """Refuse to split experts that are not sent tokens, or not evenly."""
    where = f"engine.expert_parallel: {size}"
    if size > 1 and (experts is None or experts.router not in ("token", "context")):
        found = "a dense model" if experts is None else f"the router {experts.router!r}"
        raise RecipeError(
            f"{where} is for experts that tokens are sent to, by the routers token and context; found {found}. Other "
            "experts are parameters like any, which engine.zero 3 splits"
        )
    if experts is not None and experts.count % size:
        raise RecipeError(f"{where} does not divide model.experts.count {experts.count}")

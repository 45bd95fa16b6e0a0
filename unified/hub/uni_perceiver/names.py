"""What an official checkpoint holds: the names and shapes of its tensors, and what they are called here.

Source: the modules of fundamentalvision/Uni-Perceiver, of which the file is a state dict.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Size = tuple[int, ...]

TEMPERATURES = (
    *("img_cls", "video_cls", "text_mlm", "text_caption", "caption", "mlm", "retrieve"),
    *("tqa_mlm", "tqa_caption", "tqa_retrieve", "downstream"),
)
"""Task families that have a temperature of their own."""
TEXT = "token_embed"
IMAGE = "video_embed"
LAYERS = "fused_encoder.layers"
HEAD = "loss_prepare"
SPATIAL = f"{IMAGE}.embeddings_st_pos.spatial_pos_embed.weight"
IMAGE_BIAS = f"{IMAGE}.embeddings.bias"
IMAGE_TYPE = f"{IMAGE}.embeddings_type.weight"
NORM = f"{TEXT}.embeddings_norm"
ALIAS = f"{IMAGE}.embeddings_norm"
"""The second name of the one norm of all embeddings."""
LINEARS = {"qkv": "attention.qkv", "out": "attention.out", "up": "mlp.up", "down": "mlp.down"}
ROUTERS = {"qkv": "attention", "up": "mlp"}
"""The linears whose gate decides, and the router that it becomes."""
DEAD = {"out": "qkv", "down": "up"}
"""The linears whose gate is stored but never asked, because they reuse the decision of another."""
GATE = {
    "tag_transform.0.weight": "transform.weight",
    "tag_transform.0.bias": "transform.bias",
    "tag_transform.1.weight": "norm.weight",
    "tag_transform.1.bias": "norm.bias",
    "wg.weight": "gate.weight",
}


@dataclass(frozen=True)
class Shape:
    """Everything about an official model that decides which tensors it has. Heads leave no trace in them."""

    width: int
    depth: int
    hidden: int
    patch: int = 16
    vocabulary: int = 49411
    positions: int = 512
    types: int = 2
    frames: int = 8
    places: int = 196
    attention: Literal["in_proj", "qkv_proj"] = "in_proj"
    """How the attention of layers without experts is named: torch's module, or the authors' own."""
    experts: int = 0
    expert_layers: tuple[int, ...] = ()
    linears: tuple[str, ...] = ()
    bits: int = 8
    prompts: int = 0
    """Learned prompts of each layer; 0: none."""
    candidate_prompts: bool = False
    token_bias: bool = False
    """Whether a learned vector is added to every [SPE]."""
    classes: int | None = None
    """Outputs of the linear classifier beside the similarities; None: there is none."""


@dataclass(frozen=True)
class Entry:
    """One tensor of this package's model and the official tensor, or the official tensors of its experts."""

    ours: str
    official: tuple[str, ...]
    shape: Size
    """Of each official tensor."""
    ours_shape: Size


def entries(shape: Shape) -> Iterator[Entry]:
    """Every tensor that the model itself uses."""
    width = shape.width
    yield _plain("embeddings.text.word.weight", f"{TEXT}.embeddings.weight", (shape.vocabulary, width))
    position = f"{TEXT}.embeddings_pos.position_embeddings.weight"
    yield _plain("embeddings.text.position.weight", position, (shape.positions, width))
    yield _plain("embeddings.text.token_type.weight", f"{TEXT}.embeddings_token_type.weight", (shape.types, width))
    yield from _affine("norm", NORM, (width,))
    pixels = (width, 3, shape.patch, shape.patch)
    yield Entry(
        "embeddings.image.projection.weight", (f"{IMAGE}.embeddings.weight",), pixels, (width, math.prod(pixels[1:]))
    )
    yield _plain("embeddings.image.projection.bias", IMAGE_BIAS, (width,))
    temporal = f"{IMAGE}.embeddings_st_pos.temporal_pos_embed.weight"
    yield _plain("embeddings.image.temporal.weight", temporal, (shape.frames, width))
    for layer in range(shape.depth):
        yield from _layer(shape, layer)
    yield from _affine("ln_post", f"{HEAD}.ln_post", (width,))
    yield from _affine("proj", f"{HEAD}.proj", (width, width))
    for family in TEMPERATURES:
        yield Entry(f"log_scales.{family}", (f"{HEAD}.logit_scale_{family}",), (), (1,))
    yield from _prompts(shape)


def aside(shape: Shape) -> dict[str, Size]:
    """Official tensors that the model does not use or computes itself."""
    found: dict[str, Size] = {IMAGE_TYPE: (1, shape.width), SPATIAL: (shape.places, shape.width)}
    found |= {f"{ALIAS}.{part}": (shape.width,) for part in ("weight", "bias")}
    for layer in shape.expert_layers:
        for linear in shape.linears:
            if linear in DEAD:
                found |= {name: size for name, (_, size) in gate(shape, layer, linear).items()}
    return found


def _prompts(shape: Shape) -> Iterator[Entry]:
    """What prompt tuning adds."""
    tables = {"embedding": "input", "target_embedding": "candidate"}
    for layer in range(shape.depth if shape.prompts else 0):
        for table, ours in list(tables.items())[: 1 + shape.candidate_prompts]:
            official = f"{LAYERS}.{layer}.deep_prompt_embedding.{table}.weight"
            yield _plain(f"encoder.blocks.{layer}.prompts.{ours}.weight", official, (shape.prompts, shape.width))
    if shape.token_bias:
        yield Entry("embeddings.text.bias", ("s_token_bias",), (1, shape.width), (shape.width,))
    if shape.classes is not None:
        yield from _affine("classifier.linear", "fc_prompt", (shape.classes, shape.width))
        yield Entry("classifier.similarity", ("similarity_weight",), (), (1,))


def official_shapes(shape: Shape) -> dict[str, Size]:
    """The names and shapes of all tensors of an official file."""
    used = {name: entry.shape for entry in entries(shape) for name in entry.official}
    return used | aside(shape)


def module(layer: int, linear: str) -> str:
    """The official module of a linear of a layer."""
    inside = {"qkv": "self_attn.qkv_proj", "out": "self_attn.dense", "up": "linear1", "down": "linear2"}
    return f"{LAYERS}.{layer}.{inside[linear]}"


def gate(shape: Shape, layer: int, linear: str) -> dict[str, tuple[str, Size]]:
    """The tensors of the gate of a linear with experts: official name -> (name in our router, shape)."""
    sizes: dict[str, Size] = {
        "tag_transform.0.weight": (shape.width, shape.bits),
        "wg.weight": (shape.experts, shape.width),
    }
    return {
        f"{module(layer, linear)}.gate.{name}": (ours, sizes.get(name, (shape.width,))) for name, ours in GATE.items()
    }


def expert(layer: int, linear: str, number: int) -> str:
    """The official module of one expert."""
    return f"{module(layer, linear)}.experts.deepspeed_experts.{number}"


def _layer(shape: Shape, layer: int) -> Iterator[Entry]:
    official, ours = f"{LAYERS}.{layer}", f"encoder.blocks.{layer}"
    for number in (1, 2):
        yield from _affine(f"{ours}.norm{number}", f"{official}.norm{number}", (shape.width,))
        yield _plain(f"{ours}.scale{number}", f"{official}.gamma_{number}", (shape.width,))
    conditional = shape.linears if layer in shape.expert_layers else ()
    for linear, inside in LINEARS.items():
        weight = matrix(shape, linear)
        sizes: dict[str, Size] = {"weight": weight, "bias": weight[:1]}
        for part, size in sizes.items():
            name = f"{ours}.{inside}.{part}"
            if linear in conditional:
                each = tuple(f"{expert(layer, linear, n)}.{part}" for n in range(shape.experts))
                yield Entry(name, each, size, (shape.experts, *size))
            else:
                yield _plain(name, _dense(shape, layer, linear, part), size)
        if linear in conditional and linear in ROUTERS:
            for name, (inner, size) in gate(shape, layer, linear).items():
                yield _plain(f"{ours}.routers.{ROUTERS[linear]}.{inner}", name, size)


def matrix(shape: Shape, linear: str) -> tuple[int, int]:
    """Rows and columns of a linear's weight."""
    width, hidden = shape.width, shape.hidden
    sizes = {"qkv": (3 * width, width), "out": (width, width), "up": (hidden, width), "down": (width, hidden)}
    return sizes[linear]


def _dense(shape: Shape, layer: int, linear: str, part: str) -> str:
    """The official name of a weight or bias without experts."""
    if shape.attention == "in_proj" and linear == "qkv":
        return f"{LAYERS}.{layer}.self_attn.in_proj_{part}"
    if shape.attention == "in_proj" and linear == "out":
        return f"{LAYERS}.{layer}.self_attn.out_proj.{part}"
    return f"{module(layer, linear)}.{part}"


def _plain(ours: str, official: str, size: Size) -> Entry:
    return Entry(ours, (official,), size, size)


def _affine(ours: str, official: str, weight: Size) -> Iterator[Entry]:
    yield _plain(f"{ours}.weight", f"{official}.weight", weight)
    yield _plain(f"{ours}.bias", f"{official}.bias", weight[:1])

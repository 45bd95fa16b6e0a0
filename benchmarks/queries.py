"""The query decoder against the decoders of `transformers`' DETR and MaskFormer, equal in size, on the same features.

Equal: depth, width, heads, feed-forward width, post-norm, ReLU, queries, features and batch, no dropout, a state after
each layer for deep supervision. Timed are forward and backward, to the features and all parameters. MaskFormer's side
also projects an encoder's features and encodes their positions, as ours does then; theirs are fixed sines, ours pass
an MLP.

And what tasks cost that are asked about one picture: all of them, from the encoder to answers in pixels, in passes over
the encoder alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import DetrConfig, MaskFormerConfig, ResNetConfig, SwinConfig
from transformers.models.detr.modeling_detr import DetrDecoder
from transformers.models.maskformer.modeling_maskformer import MaskFormerTransformerModule

from benchmarks.measure import Row, best_seconds
from unified.answers.table import answers, make_spec
from unified.config.model import ModelSettings
from unified.core import seed
from unified.modalities import load_tokenizers
from unified.modalities.sequence import Attributes
from unified.model.config import UnifiedConfig
from unified.model.pretrained import UnifiedModel
from unified.nn.queries.decoder import QueryDecoder
from unified.nn.queries.modules import Memory, PointEmbedding, grid_points
from unified.nn.queries.settings import QuerySettings


@dataclass(frozen=True)
class Shape:
    """What both sides have in common."""

    depth: int = 6
    width: int = 256
    heads: int = 8
    hidden: int = 2048
    queries: int = 100
    encoder: int = 384  # width of the features that MaskFormer and ours project
    side: int = 32  # of the grid of features
    batch: int = 4


def detr_config(shape: Shape) -> DetrConfig:
    """A DETR of this shape, without a backbone that would be loaded."""
    sizes = {"d_model": shape.width, "decoder_layers": shape.depth, "decoder_attention_heads": shape.heads}
    return DetrConfig(
        **sizes, decoder_ffn_dim=shape.hidden, num_queries=shape.queries, dropout=0.0, auxiliary_loss=True,
        activation_function="relu", use_timm_backbone=False, backbone_config=ResNetConfig(),
        attn_implementation="sdpa",
    )  # fmt: skip


def step(states: Callable[[], tuple[Tensor, ...]], parameters: list[nn.Parameter], precision: torch.dtype) -> None:
    """Forward and backward of the sum of all states."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        loss = torch.stack([state.float().square().mean() for state in states()]).sum()
    loss.backward()
    for parameter in parameters:
        parameter.grad = None


def bare(shape: Shape, precision: torch.dtype) -> dict[str, Callable[[], None]]:
    """Decoders alone, on memory and positions that are given."""
    generator = seed.torch_generator(0, "benchmark features")

    def drawn(count: int, batch: int = 1) -> Tensor:
        return torch.randn(batch, count, shape.width, generator=generator)

    memory = nn.Parameter(drawn(shape.side**2, shape.batch))
    where, place = drawn(shape.side**2), nn.Parameter(drawn(shape.queries))
    queries = torch.zeros(shape.batch, shape.queries, shape.width)
    with seed.seeded(0, "benchmark"):
        ours = QueryDecoder(shape.depth, shape.width, shape.heads, shape.hidden).train()
        theirs = DetrDecoder(detr_config(shape)).train()

    def detr() -> tuple[Tensor, ...]:
        found = theirs(
            inputs_embeds=queries,
            encoder_hidden_states=memory,
            spatial_position_embeddings=where.expand_as(memory),
            object_queries_position_embeddings=place.expand_as(queries),
        )
        return tuple(found.intermediate_hidden_states)

    return {
        "ours": lambda: step(
            lambda: ours(queries, place, memory, where), [memory, place, *ours.parameters()], precision
        ),
        "theirs": lambda: step(detr, [memory, place, *theirs.parameters()], precision),
    }


def projected(shape: Shape, precision: torch.dtype) -> dict[str, Callable[[], None]]:
    """From features of an encoder to states of queries."""
    generator = seed.torch_generator(0, "benchmark features")
    size = (shape.batch, shape.encoder, shape.side, shape.side)
    features = nn.Parameter(torch.randn(size, generator=generator))
    with seed.seeded(0, "benchmark"):
        project, point = Memory(shape.encoder, shape.width, levels=1), PointEmbedding(shape.width)
        place = nn.Embedding(shape.queries, shape.width)
        decoder = QueryDecoder(shape.depth, shape.width, shape.heads, shape.hidden)
        ours = nn.ModuleList([project, point, place, decoder]).train()
        config = MaskFormerConfig(backbone_config=SwinConfig(), decoder_config=detr_config(shape).to_dict())
        theirs = MaskFormerTransformerModule(shape.encoder, config).train()
    queries, points = torch.zeros(shape.batch, shape.queries, shape.width), grid_points(shape.side, shape.side)

    def query_states() -> tuple[Tensor, ...]:
        memory = project(features.flatten(2).transpose(1, 2))
        return decoder(queries, place.weight[None], memory, point(points)[None])

    return {
        "ours": lambda: step(query_states, [features, *ours.parameters()], precision),
        "theirs": lambda: step(
            lambda: tuple(theirs(features).intermediate_hidden_states), [features, *theirs.parameters()], precision
        ),
    }


ASKED = {
    "parts": make_spec("classes", 19, names=tuple(f"part {i}" for i in range(19))),
    "points": make_spec("points", 17, names=tuple(f"point {i}" for i in range(17))),
    "attributes": make_spec("presence", 40, names=tuple(f"attribute {i}" for i in range(40))),
    "objects": make_spec("boxes", 100, names=tuple(f"class {i}" for i in range(80))),
    "depth": make_spec("bins", 64, limits=(0.1, 10.0)),
    "normals": make_spec("directions", 3),
    "edges": make_spec("share", 1),
    "count": make_spec("density", 1),
}
"""Tasks with as many queries as such tasks have."""
SIDE = 224


@torch.no_grad()
def asking(counts: Sequence[int], rounds: int) -> dict[str, float]:
    """Best seconds of a pass over the encoder (base, 224 pixels), and of the first tasks from pixels to answers."""
    settings = ModelSettings(queries=QuerySettings())
    tokenizers = load_tokenizers(settings.modalities)
    config = UnifiedConfig.from_settings(settings, tokenizers, [*ASKED], {}, ASKED)
    with seed.seeded(0, "benchmark"):
        model = UnifiedModel(config).eval()
    tokens = tokenizers["image"].tokens([torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)])

    def answer(count: int) -> None:
        for found in model.ask({"image": tokens}, [*ASKED][:count]).values():
            answers(found, [(SIDE, SIDE)])

    sides: dict[str, Callable[[], object]] = {"encoder": lambda: model.encode([(Attributes("image"), tokens)])}
    return best_seconds(sides | {str(count): partial(answer, count) for count in counts}, rounds)


def rows(rounds: int = 7) -> list[Row]:
    """The ratios of times: ours / theirs in fp32 and bf16, and tasks / a pass over the encoder."""
    shape, found = Shape(), []
    for name, make in (("DETR's", bare), ("MaskFormer's, with projection and positions", projected)):
        for kind, precision in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            best = best_seconds(make(shape, precision), rounds)
            detail = f"{best['ours']:.2f} s, theirs {best['theirs']:.2f} s"
            found.append(Row(f"query decoder step / {name}, {kind}", best["ours"] / best["theirs"], "<= 1.15", detail))
    counts = (1, 4, len(ASKED))
    best = asking(counts, rounds)
    for count in counts:
        ratio, detail = best[str(count)] / best["encoder"], f"{best[str(count)]:.2f} s, encoder {best['encoder']:.2f} s"
        found.append(Row(f"{count} tasks asked / encoder", ratio, f"<= {1 + 0.15 * count:.2f}", detail))
    return found

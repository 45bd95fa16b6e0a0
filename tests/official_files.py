"""Synthetic official checkpoints: the full list of keys, written out from the published modules, with drawn values.

It shares no code with the package, so that the converter's own list is under test.
"""

import gzip
import math
from pathlib import Path

import torch
from torch import Tensor

from tests.official import spatial
from unified.core import seed

State = dict[str, Tensor]
FAMILIES = ["img_cls", "video_cls", "text_mlm", "text_caption", "caption", "mlm", "retrieve"]
FAMILIES += ["tqa_mlm", "tqa_caption", "tqa_retrieve", "downstream"]
WIDTH, DEPTH, HEADS, WORDS, PATCH, GRID = 64, 4, 4, 97, 16, 14
SPE, END = WORDS - 1, WORDS - 4
LINEARS = {"self_attn.qkv_proj": (3, 1), "self_attn.dense": (1, 1), "linear1": (4, 1), "linear2": (1, 4)}
"""Outputs and inputs of a layer's linears, in widths."""


def keys(
    width: int, depth: int, experts: int = 0, layers: tuple[int, ...] = (), *, own_attention: bool = False, words: int
) -> dict[str, tuple[int, ...]]:
    """Every key with its shape, in the order of the modules."""
    found: dict[str, tuple[int, ...]] = {
        "token_embed.embeddings.weight": (words, width),
        "token_embed.embeddings_norm.weight": (width,),
        "token_embed.embeddings_norm.bias": (width,),
        "token_embed.embeddings_pos.position_embeddings.weight": (512, width),
        "token_embed.embeddings_token_type.weight": (2, width),
        "video_embed.embeddings.weight": (width, 3, PATCH, PATCH),
        "video_embed.embeddings.bias": (width,),
        "video_embed.embeddings_st_pos.spatial_pos_embed.weight": (GRID * GRID, width),
        "video_embed.embeddings_st_pos.temporal_pos_embed.weight": (8, width),
        "video_embed.embeddings_type.weight": (1, width),
        "video_embed.embeddings_norm.weight": (width,),
        "video_embed.embeddings_norm.bias": (width,),
    }
    for layer in range(depth):
        base = f"fused_encoder.layers.{layer}"
        found |= {f"{base}.gamma_1": (width,), f"{base}.gamma_2": (width,)}
        for norm in ("norm1", "norm2"):
            found |= {f"{base}.{norm}.weight": (width,), f"{base}.{norm}.bias": (width,)}
        for name, (outputs, inputs) in LINEARS.items():
            weight, bias = (outputs * width, inputs * width), (outputs * width,)
            if layer in layers:
                for expert in range(experts):
                    inner = f"{base}.{name}.experts.deepspeed_experts.{expert}"
                    found |= {f"{inner}.weight": weight, f"{inner}.bias": bias}
                gate = f"{base}.{name}.gate"
                found |= {f"{gate}.tag_transform.0.weight": (width, 8), f"{gate}.tag_transform.0.bias": (width,)}
                found |= {f"{gate}.tag_transform.1.weight": (width,), f"{gate}.tag_transform.1.bias": (width,)}
                found |= {f"{gate}.wg.weight": (experts, width)}
            elif experts or own_attention or name.startswith("linear"):
                found |= {f"{base}.{name}.weight": weight, f"{base}.{name}.bias": bias}
            elif name == "self_attn.qkv_proj":
                found |= {f"{base}.self_attn.in_proj_weight": weight, f"{base}.self_attn.in_proj_bias": bias}
            else:
                found |= {f"{base}.self_attn.out_proj.weight": weight, f"{base}.self_attn.out_proj.bias": bias}
    found |= {f"loss_prepare.logit_scale_{family}": () for family in FAMILIES}
    found |= {"loss_prepare.ln_post.weight": (width,), "loss_prepare.ln_post.bias": (width,)}
    return found | {"loss_prepare.proj.weight": (width, width), "loss_prepare.proj.bias": (width,)}


def fill(shapes: dict[str, tuple[int, ...]], scale: float, name: str) -> State:
    """Drawn values: biases, layer scales and temperatures too, so that none of them hides behind its initial value."""
    generator = seed.torch_generator(7, name)
    state = {key: _draw(key, shape, generator) for key, shape in shapes.items()}
    for part in ("weight", "bias"):
        state[f"video_embed.embeddings_norm.{part}"] = state[f"token_embed.embeddings_norm.{part}"]
    width = state["loss_prepare.proj.weight"].shape[0]
    state["video_embed.embeddings_st_pos.spatial_pos_embed.weight"] = spatial(GRID, GRID, width, scale)
    return state


def _draw(key: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    draw = torch.randn(shape, generator=generator)
    if "logit_scale" in key:
        # One of them above the cap, which replaces it.
        return torch.tensor(5.0) if key.endswith("downstream") else math.log(1 / 0.07) + 0.3 * draw
    if len(shape) > 1:
        return draw / math.sqrt(math.prod(shape[1:]))
    is_norm = any(word in key for word in ("norm", "ln_post", "tag_transform.1")) and key.endswith("weight")
    return is_norm + 0.3 * draw


def dense(*, own_attention: bool = False, scale: float = 160 / 224, name: str = "dense") -> State:
    """A dense model of 4 layers."""
    return fill(keys(WIDTH, DEPTH, own_attention=own_attention, words=WORDS), scale, name)


def moe(*, scale: float = 160 / 224, name: str = "moe") -> State:
    """A model with 8 experts in its layers 0 and 2."""
    return fill(keys(WIDTH, DEPTH, 8, (0, 2), words=WORDS), scale, name)


def tuned(state: State, classes: int, *, candidates: bool) -> State:
    """The model after prompt tuning."""
    shapes: dict[str, tuple[int, ...]] = {"s_token_bias": (1, WIDTH)}
    for layer in range(DEPTH):
        base = f"fused_encoder.layers.{layer}.deep_prompt_embedding"
        shapes[f"{base}.embedding.weight"] = (10, WIDTH)
        if candidates:
            shapes[f"{base}.target_embedding.weight"] = (10, WIDTH)
    if classes:
        shapes |= {"fc_prompt.weight": (classes, WIDTH), "fc_prompt.bias": (classes,), "similarity_weight": ()}
    generator = seed.torch_generator(7, "prompts")
    return {**state, **{key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}}


def before_publication(state: State) -> State:
    """The same tensors as the code before the publication named them, in its layout of layer scales."""
    old: State = {"visual_embed.patch_embed.weight": torch.ones(3)}
    for key, value in state.items():
        name, tensor = key, value
        if key.startswith("fused_encoder."):
            name = key.removeprefix("fused_")
            name = name.replace("self_attn.in_proj_weight", "attention.self.qkv_proj.weight")
            name = name.replace("self_attn.in_proj_bias", "attention.self.qkv_proj.bias")
            name = name.replace("self_attn.out_proj", "attention.output.dense")
            name = name.replace("self_attn.qkv_proj", "attention.self.qkv_proj")
            name = name.replace("self_attn.dense", "attention.output.dense")
            name = name.replace(".gate.", ".deepspeed_moe.gate.").replace(".experts.", ".deepspeed_moe.experts.")
            name = name.replace("linear1.", "ffn.dense.").replace("linear2.", "ffn.dense2.")
            name = name.replace("norm1.", "LayerNormModules.0.").replace("norm2.", "LayerNormModules.1.")
            if "gamma" in name:
                name = name.replace("gamma_1", "attention_output.residual_scale")
                name = name.replace("gamma_2", "ffn_output.residual_scale")
                tensor = value[None, None]
        name = name.replace("loss_prepare.", "predictor.")
        old[name] = tensor
    return old


MERGES = ["c a", "ca t</w>", "d o", "do g</w>", "t h", "th e</w>"]
MERGED_WORDS = 512 + len(MERGES) + 5


def merges_file(folder: Path, *, packed: bool = True) -> Path:
    """Merges as OpenAI's CLIP has them, with further ones that its vocabulary does not use."""
    text = "\n".join(['"bpe_simple_vocab_16e6.txt#version: 0.2', *MERGES, "x y", "z</w> q", ""])
    file = folder / ("merges.txt.gz" if packed else "merges.txt")
    file.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return file

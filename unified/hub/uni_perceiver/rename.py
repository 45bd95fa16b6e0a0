"""Files from before the code was published, whose tensors have other names (tools/convert_checkpoint.py there)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from unified.hub.uni_perceiver.names import IMAGE_BIAS, IMAGE_TYPE

RULES = {
    "encoder.": "fused_encoder.",
    "attention.output.dense": "self_attn.out_proj",
    "attention_output.residual_scale": "gamma_1",
    "ffn.dense.": "linear1.",
    "ffn.dense2.": "linear2.",
    "ffn_output.residual_scale": "gamma_2",
    "LayerNormModules.0.": "norm1.",
    "LayerNormModules.1.": "norm2.",
    "predictor.": "loss_prepare.",
}
"""What is replaced in a name, in this order."""
DENSE = {
    "attention.self.qkv_proj.weight": "self_attn.in_proj_weight",
    "attention.self.qkv_proj.bias": "self_attn.in_proj_bias",
}
EXPERTS = {
    "attention.self.qkv_proj": "self_attn.qkv_proj",
    "deepspeed_moe.gate": "gate",
    "deepspeed_moe.experts": "experts",
    "attention.output.dense": "self_attn.dense",
}
DROPPED = "visual_embed."
"""A module that the published code does not have."""


@dataclass(frozen=True)
class Renamed:
    """The tensors under the names of the published code."""

    tensors: dict[str, Tensor]
    dropped: list[str] = field(default_factory=list)
    has_experts: bool = False


def is_old(names: Mapping[str, Tensor]) -> bool:
    """Whether these are names from before the publication."""
    return any(name.startswith(("encoder.", "predictor.")) for name in names)


def rename(tensors: Mapping[str, Tensor]) -> Renamed:
    """As the authors' tool: new names, layer scales without their axes of 1, everything in fp32."""
    has_experts = any("deepspeed_moe" in name for name in tensors)
    rules = {**EXPERTS, **{old: new for old, new in RULES.items() if old not in EXPERTS}} if has_experts else RULES
    rules = rules if has_experts else {**DENSE, **rules}
    dropped = [name for name in tensors if name.startswith(DROPPED)]
    found = {
        new: (tensor.reshape(-1) if name.endswith("residual_scale") else tensor).float()
        for name, new, tensor in _renamed(tensors, rules)
        if name not in dropped
    }
    return Renamed(found, dropped, has_experts)


def _renamed(tensors: Mapping[str, Tensor], rules: Mapping[str, str]) -> Iterator[tuple[str, str, Tensor]]:
    for name, tensor in tensors.items():
        new = name
        for old, replacement in rules.items():
            new = new.replace(old, replacement)
        yield name, new, tensor


def fold_type(tensors: dict[str, Tensor]) -> None:
    """Add the image's type embedding to the bias of its projection: the published code does not add it any more."""
    if IMAGE_BIAS in tensors and IMAGE_TYPE in tensors and tensors[IMAGE_TYPE].dim() == 2:
        tensors[IMAGE_BIAS] = tensors[IMAGE_BIAS] + tensors[IMAGE_TYPE][0].to(tensors[IMAGE_BIAS].dtype)

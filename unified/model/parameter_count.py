"""How many parameters a network has: stored, used for one token, and deployed after experts are folded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from unified.core.errors import UserError
from unified.model.config import UnifiedConfig
from unified.model.pretrained import UnifiedModel
from unified.nn.moe.experts import ConditionalLinear
from unified.nn.moe.routing import BY_TOKEN


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters by part."""

    embeddings: Mapping[str, int]  # of each modality
    encoder: int  # norms, scales, and the linears that have no experts
    experts: int
    routers: int
    queries: int  # rows of tasks, and the decoder and readings that they share
    head: int  # norms of embeddings and of read states, projection, temperatures, a classifier where there is one

    @property
    def by_part(self) -> dict[str, int]:
        """The parts by name, those of modalities first, and all of them as `total`."""
        parts = {name: getattr(self, name) for name in ("encoder", "experts", "routers", "queries", "head")}
        return {**self.embeddings, **parts, "total": self.total}

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.embeddings.values()) + self.encoder + self.experts + self.routers + self.queries + self.head


def stored(config: UnifiedConfig) -> Parameters:
    """All parameters of the network, as a checkpoint holds them."""
    return _count(config, lambda linear: linear.weight.shape[0])


def active(config: UnifiedConfig) -> Parameters:
    """Those that one token passes: of conditional linears one merged copy, or the experts that it is sent to."""
    experts = config.experts or {}
    copies = experts["top"] if experts.get("router") in BY_TOKEN else 1
    return _count(config, lambda _: copies)


def deployed(config: UnifiedConfig, rows: int) -> Parameters:
    """Those of the dense model for `rows` kinds of tokens: a copy of each conditional linear for a row, no routers.

    Two rows are a published deployment for images and text (Uni-Perceiver-MoE, NeurIPS 2022, "deployment" column).
    Raises `UserError` for routers that look at the data, which cannot be folded.
    """
    experts = config.experts or {}
    if experts.get("router") in BY_TOKEN:
        raise UserError(f"the {experts['router']} router looks at the data, so its experts cannot be folded")
    if rows < 1:
        raise ValueError(f"a model is deployed for at least 1 row, found {rows}")
    return _count(config, lambda _: rows, routers=False)


def skeleton(config: UnifiedConfig) -> UnifiedModel:
    """The network without storage for its weights: sizes are known, nothing can be computed."""
    with torch.device("meta"):
        return UnifiedModel(config)


def _count(config: UnifiedConfig, copies: Callable[[ConditionalLinear], int], *, routers: bool = True) -> Parameters:
    """Parameters by part, with so many copies of each conditional linear."""
    model = skeleton(config)
    linears = [module for module in model.encoder.modules() if isinstance(module, ConditionalLinear)]
    experts = sum(copies(linear) * _size(linear) // linear.weight.shape[0] for linear in linears)
    gates = sum(_size(layer) for layer in model.encoder.conditional_layers().values())
    head = (model.norm, model.ln_post, model.proj, model.log_scales, model.classifier)
    return Parameters(
        embeddings={name: _size(embedding) for name, embedding in model.embeddings.items()},
        encoder=_size(model.encoder) - sum(map(_size, linears)) - gates,
        experts=experts,
        queries=_size(model.queries) if model.queries is not None else 0,
        routers=gates if routers else 0,
        head=sum(_size(part) for part in head if part is not None),
    )


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

"""The first values of a network's parameters."""

from torch import nn

from unified.answers.match.similarity import Temperatures
from unified.model.routing_attributes import BITS
from unified.model.task_queries import TaskQueries, ZeroRows
from unified.nn.attention import QueryKeyValue
from unified.nn.block import Block
from unified.nn.moe.experts import ConditionalLinear
from unified.nn.moe.routing import AttributeTransform, ContextRouter, TokenRouter
from unified.nn.prompts import Classifier
from unified.nn.queries.adapters import LadderProjector
from unified.nn.queries.modules import SMALL, BoxLinear, ZeroLinear

FUSED = (QueryKeyValue, ConditionalLinear)  # linears of several matrices
LOG_SCALE = 2.6593  # ln(1 / 0.07), the usual start of a learned temperature (CLIP, ICML 2021)


def initialise(module: nn.Module, layer_scale: float | None) -> None:
    """Xavier for matrices (Q, K and V as blocks of their own), N(0, 0.02) for tables, as Uni-Perceiver does.

    Of one module's own parameters, without gradient; those that transformers has loaded stay.
    """
    if isinstance(module, nn.Linear | ConditionalLinear):
        # Transformers marks what it loaded, on the tensor: views of it would be drawn anew.
        if not getattr(module.weight, "_is_hf_initialized", False):
            for matrix in module.matrices() if isinstance(module, FUSED) else (module.weight,):
                nn.init.xavier_uniform_(matrix, gain=0.0 if isinstance(module, ZeroLinear) else 1.0)
            if isinstance(module, AttributeTransform):
                # What is appended to the published attributes changes no choice until it is learned.
                nn.init.zeros_(module.weight[:, len(BITS) :])
        if module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, BoxLinear) and not getattr(module.bias, "_is_hf_initialized", False):
            nn.init.constant_(module.bias[2:], SMALL)
    elif isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, TokenRouter):
        for parameter in (module.bias, module.query if isinstance(module, ContextRouter) else None):
            if parameter is not None:
                nn.init.zeros_(parameter)
    elif isinstance(module, Block) and module.scale1 is not None and module.scale2 is not None:
        assert layer_scale is not None
        nn.init.constant_(module.scale1, layer_scale)
        nn.init.constant_(module.scale2, layer_scale)
    elif isinstance(module, Classifier | LadderProjector | TaskQueries | ZeroRows):
        module.reset()
    elif isinstance(module, Temperatures):
        for log_scale in module.values():
            nn.init.constant_(log_scale, LOG_SCALE)

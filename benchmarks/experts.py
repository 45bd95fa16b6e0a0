"""A feed-forward layer whose tokens choose their experts, against a dense one and against the layers of peers.

Equal: tokens, width, experts, chosen experts, multiplications and additions. Our experts are two linears with biases,
as in the dense layer, whose hidden width is that of the chosen experts together. DeepSpeed's `MoE` has experts of the
same size at world size 1 and drops no token, as ours. The experts of `transformers`' Mixtral block are gated (three
matrices, no biases), so theirs are narrower: 2/3. Timed are the router (none in the dense layer), forward and backward,
with gradients of the input and all weights. All routers have the same weights, so all send the tokens the same way.

bf16 is autocast over fp32 weights, but for Mixtral's block with `grouped_mm`: under autocast it computes in fp32, so it
gets weights and input in bf16 and is spared the casts.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn

from benchmarks.measure import Row, best_seconds
from unified.core import seed
from unified.nn.moe.dispatch import choose, expert_mlp, plan

THREADS = 2
ROUNDS = 12


@dataclass(frozen=True)
class Shape:
    """What all sides have in common."""

    tokens: int = 4096
    width: int = 512
    experts: int = 8
    top: int = 2
    hidden: int = 1024  # of one expert

    @property
    def gated(self) -> int:
        """The hidden width of a gated expert that does the same work, in multiples of 8 as grouped products want."""
        return round(self.hidden * 2 / 3 / 8) * 8


class Routed(nn.Module):
    """Our layer: a gate in fp32 and experts with stacked weights."""

    def __init__(self, shape: Shape, gate: Tensor) -> None:
        super().__init__()
        count, width, hidden = shape.experts, shape.width, shape.hidden
        self.top = shape.top
        self.gate = nn.Parameter(gate.clone())
        self.up_weight = nn.Parameter(torch.randn(count, hidden, width) / width**0.5)
        self.up_bias = nn.Parameter(torch.zeros(count, hidden))
        self.down_weight = nn.Parameter(torch.randn(count, width, hidden) / hidden**0.5)
        self.down_bias = nn.Parameter(torch.zeros(count, width))

    def forward(self, x: Tensor) -> Tensor:
        """Choose and compute."""
        with torch.autocast("cpu", enabled=False):
            logits = x @ self.gate.t()
        weights, index = choose(logits, self.top)
        where = plan(index, len(self.gate))
        return expert_mlp(x, self.up_weight, self.up_bias, self.down_weight, self.down_bias, where, weights)


def dense(shape: Shape) -> nn.Module:
    """The dense layer of as many operations; with one expert's width, an expert."""
    hidden = shape.hidden * shape.top
    return nn.Sequential(nn.Linear(shape.width, hidden), nn.GELU(), nn.Linear(hidden, shape.width))


def mixtral(shape: Shape, gate: Tensor, implementation: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The sparse block of `transformers`."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=shape.width,
        intermediate_size=shape.gated,
        num_local_experts=shape.experts,
        num_experts_per_tok=shape.top,
        experts_implementation=implementation,
    )
    block = MixtralSparseMoeBlock(config)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=shape.width**-0.5)
        block.gate.weight.copy_(gate)
    return block.to(dtype)


@contextmanager
def deepspeed(shape: Shape, gate: Tensor) -> Iterator[nn.Module]:
    """DeepSpeed's layer at world size 1, over gloo, without its compiled operators."""
    os.environ["DS_ACCELERATOR"] = "cpu"  # read at import
    import deepspeed as engine
    import deepspeed.ops as operators
    from deepspeed.moe.layer import MoE

    operators.__compatible_ops__["deepspeed_shm_comm"] = False
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update(alone)
    engine.init_distributed("gloo", auto_mpi_discovery=False, timeout=timedelta(seconds=60))
    expert = dense(Shape(width=shape.width, hidden=shape.hidden, top=1))
    layer = MoE(
        shape.width,
        expert,
        shape.experts,
        k=shape.top,
        drop_tokens=False,
        use_rts=False,
        top2_2nd_expert_sampling=False,
    )
    layer.set_deepspeed_parallelism()
    with torch.no_grad():
        layer.deepspeed_moe.gate.wg.weight.copy_(gate)
    try:
        yield layer
    finally:
        torch.distributed.destroy_process_group()
        for name in alone:
            del os.environ[name]


def forward(layer: nn.Module, x: Tensor, precision: torch.dtype) -> Tensor:
    """The output for a batch of one sequence; autocast unless the layer's own weights are in that precision."""
    stored = next(layer.parameters()).dtype
    with torch.autocast("cpu", torch.bfloat16, enabled=stored != precision):
        found = layer(x.to(stored))
    return found[0] if isinstance(found, tuple) else found  # DeepSpeed's has its balance loss beside it


def step(layer: nn.Module, x: Tensor, precision: torch.dtype) -> Callable[[], object]:
    """Forward and backward of one layer."""
    gradient = torch.randn(x.shape, generator=seed.torch_generator(0, "benchmark gradient"))

    def run() -> None:
        y = forward(layer, x, precision)
        y.backward(gradient.to(y.dtype).view(y.shape))
        x.grad = None
        layer.zero_grad()

    return run


def saved_bytes(layer: nn.Module, x: Tensor, precision: torch.dtype) -> int:
    """Bytes that one forward pass keeps for the backward pass: all but the parameters, each storage once."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage().data_ptr()
        if storage not in parameters:
            kept[storage] = tensor  # held, so that no other storage gets the same address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward(layer, x, precision)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def precision_rows(name: str, precision: torch.dtype, layers: dict[str, nn.Module], x: Tensor) -> list[Row]:
    """The ratios of one precision."""
    best = best_seconds({side: step(layer, x, precision) for side, layer in layers.items()}, ROUNDS)
    bound = {"dense layer of equal work": "<= 1.25" if precision == torch.float32 else "<= 1.50"}
    found = []
    for side in layers:
        if side == "ours":
            continue
        detail = f"ours {1e3 * best['ours']:.0f} ms, theirs {1e3 * best[side]:.0f} ms, {THREADS} threads"
        found.append(
            Row(f"token-routed experts / {side}, {name}", best["ours"] / best[side], bound.get(side, "<= 1.00"), detail)
        )
    kept = {side: saved_bytes(layer, x, precision) for side, layer in layers.items()}
    base = kept["dense layer of equal work"]
    shares = ", ".join(f"{side} {number / base:.2f}" for side, number in kept.items() if number != base)
    detail = f"dense {base / 2**20:.0f} MiB; {shares}"
    found.append(Row(f"bytes kept for backward / dense layer, {name}", kept["ours"] / base, "<= 1.50", detail))
    return found


def rows() -> list[Row]:
    """Time and memory against the dense layer and the peers, in fp32 and bf16 (autocast)."""
    shape = Shape()
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with seed.seeded(0, "benchmark"):
            gate = torch.randn(shape.experts, shape.width) / shape.width**0.5
            x = torch.randn(1, shape.tokens, shape.width).requires_grad_()
            with deepspeed(shape, gate) as theirs:
                layers: dict[str, nn.Module] = {
                    "ours": nn.Sequential(nn.Flatten(0, 1), Routed(shape, gate)),
                    "dense layer of equal work": dense(shape),
                    "DeepSpeed's MoE": theirs,
                    "transformers' Mixtral, eager": mixtral(shape, gate, "eager"),
                }
                found = []
                for name, precision in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
                    grouped = {"transformers' Mixtral, grouped_mm": mixtral(shape, gate, "grouped_mm", precision)}
                    found += precision_rows(name, precision, {**layers, **grouped}, x)
                return found
    finally:
        torch.set_num_threads(before)

"""Floating-point operations of training steps, and what this machine can do at best."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from unified.answers.workload import Work
from unified.core import seed
from unified.core.types import Segment
from unified.modalities import MODALITIES
from unified.model.parameter_count import skeleton
from unified.model.pretrained import UnifiedModel
from unified.model.query_states import Trunk
from unified.nn.moe.experts import ConditionalLinear
from unified.nn.moe.routing import BY_TOKEN


class Cost:
    """Floating-point operations of a model's work, counted on a copy without values, once for each shape.

    A multiplication with an addition counts as two, as peak rates do; padding counts like any token. Recomputed
    activations are no progress, and experts are merged once for all tokens of a kind: neither is counted.
    """

    def __init__(self, model: UnifiedModel) -> None:
        experts = model.config.experts or {}
        routed = experts.get("router") in BY_TOKEN
        self._model = _evenly_loaded(skeleton(model.config), experts["top"] if routed else 1)
        routers = model.encoder.conditional_layers().values() if routed else ()
        self._routers = 2 * sum(p.numel() for layer in routers for p in layer.parameters() if p.dim() > 1)
        self._reads_parts = model.encoder.blocks[-1].reads_parts
        self._sequence, self._asked = cache(self._count_sequence), cache(self._count_asked)
        width = model.config.width
        self._head = _count(lambda: self._model.proj(_empty(1, width)))
        self._embeddings = {name: _products(module) for name, module in self._model.embeddings.items()}

    def forward(self, done: Work) -> int:
        """Operations of the forward pass; a training step has three times as many: two products for each in it."""
        found = sum(count * self._embeddings[name] for name, count in done.inputs.items())
        found += done.read * self._head + 2 * done.pairs * self._model.config.width
        sequences = done.sequences
        if done.asked is not None:
            queries: Any = self._model.queries
            found += self._asked(*done.asked)
            if queries.inside:
                (samples, length, _), *names = sequences
                whole = length + queries.specs[done.asked[0]].queries
                sequences = ((samples, whole, whole), *names)
        return found + sum(count * self._sequence(length, read) for count, length, read in sequences)

    def _count_sequence(self, length: int, read: int) -> int:
        """One sequence through the encoder, of which so many states are read."""
        states, segments = _empty(1, length, self._model.config.width), (Segment(0, length, 0),)
        part = slice(0, read) if self._reads_parts and read < length else None
        return _count(lambda: self._model.encoder(states, None, segments, read=part)) + length * self._routers

    def _count_asked(self, task: str, samples: int, patches: int) -> int:
        """Queries of a task asked about samples after the encoder, and all that can be read from them."""
        queries: Any = self._model.queries
        width, spec = self._model.config.width, queries.specs[task]
        states = _empty(samples, patches, width)
        projection: Any = self._model.embeddings[MODALITIES.spatial].projection
        trunk = Trunk(
            states, 1, patches, (states,) * (self._model.config.depth + 1),
            _empty(samples, spec.queries, width) if queries.inside else None,
            _empty(samples, patches, projection.in_features) if queries.detail else None,
        )  # fmt: skip
        names = _empty(spec.queries, width) if spec.from_names else None

        def ask() -> None:
            found = queries(task, trunk, queries.look(trunk, queries.group(task)), names)
            reader = found.interpreter
            if queries.heads:
                if reader.map_head is not None:
                    reader.maps(found.states[-1], found.features)
                return
            for of_layer in found.states:
                reader.maps(of_layer, found.features)
                reader.presence(of_layer)
                reader.class_query(of_layer)
                reader.boxes(of_layer, _empty(of_layer.shape[1], 2))

        return _count(ask)


class _EvenLoad(nn.Module):
    """A linear with experts as a token passes it: merged, or as many as it is sent to."""

    def __init__(self, linear: ConditionalLinear, copies: int) -> None:
        super().__init__()
        self.weight, self.copies = nn.Parameter(linear.weight[0]), copies

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([F.linear(x, self.weight) for _ in range(self.copies)]).sum(0)


def _evenly_loaded(model: UnifiedModel, copies: int) -> UnifiedModel:
    """The model without routers."""
    for name, module in list(model.encoder.named_modules()):
        if isinstance(module, ConditionalLinear):
            parent, _, place = name.rpartition(".")
            setattr(model.encoder.get_submodule(parent), place, _EvenLoad(module, copies))
    for block in model.encoder.blocks:
        block.routers = None  # type: ignore[assignment]
    return model


def _products(embedding: nn.Module) -> int:
    """Operations of a token in the linears of an embedding, each of which it passes once."""
    return 2 * sum(module.weight.numel() for module in embedding.modules() if isinstance(module, nn.Linear))


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _count(call: Callable[[], object]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@cache
def gemm_peak(dtype: torch.dtype, device: torch.device, threads: int, seconds: float = 0.3) -> float:
    """The highest rate of square matrix products measured here, in operations a second; once for each process.

    `threads`: what `torch.get_num_threads()` says; the measurement runs with them.
    """
    size = 8192 if device.type == "cuda" else 1024
    rng = seed.torch_generator("gemm", device=device)
    a, b = (torch.rand(size, size, generator=rng, device=device).to(dtype) for _ in range(2))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            return 2 * size**3 / _fastest(a, b, seconds)
    finally:
        torch.set_num_threads(before)


def _fastest(a: torch.Tensor, b: torch.Tensor, seconds: float) -> float:
    """The shortest time of a product, over as many as fit; at least three, of which the first warms up."""
    best, begin, count = float("inf"), time.perf_counter(), 0
    while count < 3 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        torch.mm(a, b)
        if a.is_cuda:
            torch.cuda.synchronize(a.device)
        if count:
            best = min(best, time.perf_counter() - start)
        count += 1
    return best

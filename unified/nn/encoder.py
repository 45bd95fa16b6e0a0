"""The task-agnostic transformer."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unified.core.types import Conditions, Segment
from unified.nn.attention import Cache
from unified.nn.block import Block
from unified.nn.moe.experts import ConditionalLayer, Experts
from unified.nn.moe.routing import Usage
from unified.nn.prompts import Prompts


@dataclass(frozen=True)
class Noise:
    """What training draws for one forward pass; drawn outside, so that the encoder itself is deterministic."""

    drop_path: Float[Tensor, "l 2 b"] | None = None  # factor of each residual branch: 0, or 1 / (1 - rate)
    gates: Float[Tensor, "m d r e"] | None = None  # standard normal, for each layer with experts, decision and row

    def rows(self, index: Int[Tensor, "r"]) -> "Noise":
        """The noise of some of the samples; gates are those of all samples."""
        return self if self.drop_path is None else replace(self, drop_path=self.drop_path[:, :, index])


@dataclass(frozen=True)
class EncoderOutput:
    """States of the tokens, what to continue from where it was asked for, and what the routers chose."""

    states: Float[Tensor, "b s w"]
    past: tuple[Cache, ...]
    routing: tuple[Usage, ...]  # of each layer with experts
    layers: tuple[Float[Tensor, "b n w"], ...] = ()  # what came in and what each block gave, where that was asked for


class Encoder(nn.Module):
    """A stack of blocks; it has no final norm, which belongs to whoever reads the states."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        layer_scale: float | None,
        experts: Experts | None = None,
        layers: Collection[int] = (),
        *,
        prompts: int = 0,
        candidate_prompts: bool = False,
    ) -> None:
        """`layers`: numbers of the blocks that have `experts`. `prompts`: learned ones of each block."""
        super().__init__()

        def learned() -> Prompts | None:
            return Prompts(prompts, width, candidates=candidate_prompts) if prompts else None

        self.prompts = prompts
        self.blocks = nn.ModuleList(
            Block(width, heads, hidden, layer_scale, experts if number in layers else None, number, learned())
            for number in range(depth)
        )
        self.gradient_checkpointing = False
        self._record: list[tuple[Usage, ...]] | None = None

    def conditional_layers(self) -> dict[int, ConditionalLayer]:
        """The routers of the blocks that have experts, by the block's number."""
        return {n: block.routers for n, block in enumerate(self.blocks) if block.routers is not None}  # type: ignore[union-attr, misc]

    def compile_blocks(self) -> None:
        """Compile each block where it stands; blocks of one shape share the code, names of weights stay."""
        for block in self.blocks:
            block.compile()

    @contextmanager
    def sharing(self, part: float = 1.0) -> Iterator[list[tuple[Usage, ...]]]:
        """Merge experts once for each set of rows in all passes inside, and collect what routers chose in each of them.

        Inside another one it shares with it, and adds to what it collects, as the `part` that it is of what all
        processes do. Weights must not change inside. Passes that recompute activations merge anew: a merged weight that
        is recomputed cannot also be shared.
        """
        if torch.compiler.is_compiling():  # merges once a pass by itself, and collects outside of its graph
            yield []
            return
        layers = list(self.conditional_layers().values())
        before, above = [layer.shared for layer in layers], self._record
        recomputed = self.gradient_checkpointing and torch.is_grad_enabled()
        passes: list[tuple[Usage, ...]] = []
        self._record = passes
        for layer in layers:
            layer.shared = None if recomputed else layer.shared if layer.shared is not None else {}
        try:
            yield passes
        finally:
            for layer, shared in zip(layers, before, strict=True):
                layer.shared = shared
            if above is not None:
                above.extend(passes if part == 1.0 else [tuple(u.scaled(part) for u in usages) for usages in passes])
            self._record = above

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        mask: Bool[Tensor, "b k"] | Bool[Tensor, "_ n k"] | None,
        segments: Sequence[Segment],
        *,
        conditions: Conditions | None = None,
        past: Sequence[Cache] | None = None,
        noise: Noise | None = None,
        candidate: bool = False,
        keep_past: bool = False,
        keep_layers: bool = False,
        read: slice | None = None,
    ) -> EncoderOutput:
        """`mask`: True = may attend, for keys alone or for each pair; None = all. `segments` tile the n tokens.

        `conditions`: the rows that the segments point into; blocks with experts need them. `candidate`: whether the
        sequence is one of a candidate, for learned prompts. Prompts are no keys of the mask. `keep_past`: return what
        further tokens need to continue; otherwise it would outlive what checkpointing of activations lets go.
        `keep_layers`: return the states of all layers. `read`: the tokens whose states are wanted, for which alone the
        last block computes what no other token needs; None: all n.
        """
        assert sum(len(segment) for segment in segments) == x.shape[1], "segments must tile the sequence"
        if mask is not None:
            mask = F.pad(mask, (self.prompts, 0), value=True)  # prompts come first, and are seen by all
            mask = mask[:, None, None] if mask.dim() == 2 else mask[:, None]
        caches: list[Cache] = []
        layers = [x]
        routing: list[Usage] = []
        for index, block in enumerate(self.blocks):
            before = None if past is None else past[index]
            drop = None if noise is None or noise.drop_path is None else noise.drop_path[index]
            gates = noise.gates[len(routing)] if noise and noise.gates is not None and block.routers else None
            part = read if index + 1 == len(self.blocks) and block.reads_parts and not keep_layers else None
            arguments = (x, mask, before, drop, segments, conditions, gates, candidate, part)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                # Nothing inside a block draws random numbers, so there is no generator state to keep.
                x, cache, usage = checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                x, cache, usage = block(*arguments)
            if keep_past:
                caches.append(cache)
            if keep_layers:
                layers.append(x)
            if usage is not None:
                routing.append(usage)
        if self._record is not None and not torch.compiler.is_compiling():
            self._record.append(tuple(routing))
        if read is not None and x.shape[1] != read.stop - read.start:
            x = x[:, read]
        return EncoderOutput(x, tuple(caches), tuple(routing), tuple(layers) if keep_layers else ())

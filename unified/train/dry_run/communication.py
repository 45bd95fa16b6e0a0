"""What processes send to each other in a step, and how long that takes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from unified.model.config import UnifiedConfig
from unified.nn.moe.routing import BY_TOKEN
from unified.train.dry_run.activation_memory import FLOAT
from unified.train.dry_run.model_states import LIVE, Sizes

LINKS = {
    "100 Gb/s": 12.5e9,
    "400 Gb/s": 50e9,
    "NVLink 4": 450e9,
}
"""Bytes a second that one process can send at best, where every GPU has such a link of its own:
Ethernet, InfiniBand NDR, and within a machine of H100s."""


@dataclass(frozen=True)
class Collective:
    """An exchange between all processes, or those that share experts."""

    what: str
    part: Literal["gradients", "weights", "features", "tokens"]
    kind: Literal["all-reduce", "reduce-scatter", "all-gather", "all-to-all"]
    size: float
    """Bytes of the whole tensor; of all-to-all: those that one process has for all."""
    processes: int

    @property
    def sent(self) -> float:
        """Bytes that each process sends, as many as it gets: by rings, which no algorithm undercuts."""
        factor = 2 if self.kind == "all-reduce" else 1
        return factor * self.size * (self.processes - 1) / self.processes


def of_states(
    sizes: Sizes,
    zero: Mapping[str, Any] | None,
    processes: int,
    *,
    passes: float,
    recomputed: bool = False,
    expert_parallel: int = 1,
) -> list[Collective]:
    """Gradients and weights of a step that uses all parameters; `zero` as `states` takes it.

    DeepSpeed 0.19.8 all-reduces gradients in stages 1 and 2 too (`use_multi_rank_bucket_allreduce`), and keeps a part.
    Stage 3 fetches all weights once where they may all stay until the step ends; otherwise for each of the `passes`
    of a step through the encoder, forward and backward, at most: a pass uses what the one before left.
    """
    if processes == 1:
        return []
    shared = sizes.experts if expert_parallel > 1 else 0
    size = FLOAT * (sizes.total - shared)
    replicas = processes // expert_parallel
    own = Collective("gradients of experts", "gradients", "all-reduce", FLOAT * shared / expert_parallel, replicas)
    return [*_of_rest(size, sizes, zero, processes, passes * (3 if recomputed else 2)), *([own] if shared else [])]


def _of_rest(
    size: float, sizes: Sizes, zero: Mapping[str, Any] | None, processes: int, passes: float
) -> list[Collective]:
    """Of what all processes have together; `passes`: of a step through the encoder, forward and backward."""
    stage = 0 if zero is None else zero["stage"]
    if zero is None or stage == 0:
        return [Collective("gradients", "gradients", "all-reduce", size, processes)]
    if stage < 3:
        weights = Collective("changed weights", "weights", "all-gather", size, processes)
        return [Collective("gradients", "gradients", "all-reduce", size, processes), weights]
    stay = zero.get("stage3_max_live_parameters", LIVE) >= sizes.total
    weights = Collective("weights", "weights", "all-gather", size * (1.0 if stay else passes), processes)
    return [weights, Collective("gradients", "gradients", "reduce-scatter", size, processes)]


def of_candidates(rows: float, width: int, processes: int) -> list[Collective]:
    """So many features, over all processes, that every process needs: both sides of batches that are each other's
    candidates, and label sets, of which each encodes a part."""
    if processes == 1 or not rows:
        return []
    size = rows * width * FLOAT
    forward = Collective("features", "features", "all-gather", size, processes)
    return [forward, Collective("gradients of features", "features", "all-reduce", size, processes)]


def of_experts(config: UnifiedConfig, tokens: float, processes: int, number: int) -> list[Collective]:
    """Rows that go to the experts of other processes and back, forward and backward.

    `tokens`: through the encoder of one process; `processes`: those that share experts; `number`: bytes of one.
    """
    experts = config.experts or {}
    if processes == 1 or experts.get("router") not in BY_TOKEN:
        return []
    width, hidden = config.width, experts["hidden"] or config.hidden
    there_and_back = {"qkv": 4 * width, "out": 2 * width, "up": width + hidden, "down": hidden + width}
    linears = list(experts["linears"])
    if experts["shared_decisions"] and {"up", "down"} <= set(linears):  # sent once, through both
        linears.remove("down")
        there_and_back["up"] = 2 * width
    numbers = sum(there_and_back[linear] for linear in linears) * len(experts["layers"]) * experts["top"]
    return [Collective("tokens", "tokens", "all-to-all", 2 * tokens * numbers * number, processes)]


def seconds(collectives: Iterable[Collective], link: float) -> float:
    """At so many bytes a second, with nothing hidden behind the computation."""
    return sum(one.sent for one in collectives) / link

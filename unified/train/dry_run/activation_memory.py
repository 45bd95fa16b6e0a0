"""What activations need of a process's memory: an estimate, from what the backward pass keeps."""

from collections.abc import Iterable

from unified.answers.workload import Work
from unified.modalities.sequence import Attributes
from unified.model.config import UnifiedConfig
from unified.model.parameter_count import active
from unified.model.routing_attributes import key
from unified.nn.moe.routing import BY_TOKEN

FLOAT, HALF = 4, 2
"""Bytes of a number in fp32 and in bf16 or fp16."""


class Activations:
    """Bytes that the forward pass of a slot leaves for the backward pass."""

    def __init__(self, config: UnifiedConfig, *, half: bool, recomputed: bool) -> None:
        """`recomputed`: activation checkpointing, which keeps the input of each block only."""
        self._config, self._recomputed = config, recomputed
        self._number = HALF if half else FLOAT
        self._merged = (FLOAT + (HALF if half else 0)) * active(config).experts

    def of(self, done: Work, kinds: Iterable[Attributes]) -> int:
        """Those of a slot with these kinds of token."""
        width, depth = self._config.width, self._config.depth
        encoder = depth * (width * FLOAT if self._recomputed else self._of_block()) + self._of_tokens_sent()
        # Around the encoder: embeddings before and after their norm; states that are read, their norm, projection and
        # unit length; products and log-probabilities of all pairs.
        around = 2 * done.tokens * width + 5 * done.read * width + 2 * done.pairs
        return done.tokens * encoder - self._not_read(done) + FLOAT * around + self._of_rows(kinds)

    def backward(self, done: Work) -> int:
        """What the backward pass adds while it is at one block: gradients, and what is computed again."""
        return done.tokens * self._of_block() * (2 if self._recomputed else 1)

    def _of_block(self) -> int:
        """For a token: inputs of both norms in fp32; what the linears, attention and GELU read."""
        width, hidden = self._config.width, self._config.hidden
        scaled = 0 if self._config.layer_scale is None else 2
        return 2 * width * FLOAT + ((6 + scaled) * width + 2 * hidden) * self._number

    def _not_read(self, done: Work) -> int:
        """What the last block leaves out for tokens whose states nobody reads."""
        experts, width = self._config.experts or {}, self._config.width
        sent = experts.get("router") in BY_TOKEN and self._config.depth - 1 in experts["layers"]
        if self._recomputed or sent:
            return 0
        scaled = 0 if self._config.layer_scale is None else 2
        each = width * FLOAT + ((2 + scaled) * width + 2 * self._config.hidden) * self._number
        return each * sum(count * (length - read) for count, length, read in done.sequences)

    def _of_tokens_sent(self) -> int:
        """For a token, in all layers: what an expert's MLP keeps beyond a dense one."""
        experts = self._config.experts or {}
        if self._recomputed or experts.get("router") not in BY_TOKEN or not {"up", "down"} & set(experts["linears"]):
            return 0
        hidden = experts["hidden"] or self._config.hidden
        extra = experts["top"] * (2 * self._config.width + 2 * hidden) - 2 * self._config.hidden
        return len(experts["layers"]) * extra * self._number

    def _of_rows(self, kinds: Iterable[Attributes]) -> int:
        """Merged experts: a linear for each row among the kinds of token; merged anew where activations are."""
        experts = self._config.experts or {}
        if not experts or not experts["layers"] or experts["router"] in BY_TOKEN:
            return 0
        rows = {key(kind, experts, self._config.families) for kind in kinds}
        return len(rows) * self._merged // (len(experts["layers"]) if self._recomputed else 1)

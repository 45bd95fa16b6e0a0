"""What a task is: pure data, so that adding one is a few lines of YAML."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from unified.config import RecipeError


@dataclass(frozen=True)
class Match:
    """Pick among candidates by the similarity of representations: P(y|x) ∝ exp(cos(f(x), f(y)) / τ)."""

    candidates: str
    """`labels/NAME` (a file of recipes/labels, or a path to one), `batch` (retrieval) or `vocabulary` (words)."""
    read: Literal["prefix", "masked", "caption", "causal"] = "prefix"
    """Where the input is read: its [SPE] prefix, its masked words, one state a caption word, or every text state."""
    vocabulary: Literal["embedding", "encoder"] = "embedding"
    """How vocabulary entries become candidates: projected word embeddings, or each entry through the encoder."""
    label_smoothing: float = 0.0
    mask_fraction: float = 0.15
    """The share of words that a `masked` reading hides."""
    group: str | None = None
    """Column whose equal values are the same answer: in-batch candidates of one group are all positives."""


@dataclass(frozen=True)
class Task:
    """One task of a recipe: data in, question, kind of answer, metric, and its share of the training."""

    data: str | Sequence[str]
    """A folder of shards, a pattern such as `cc3m/{00000..00331}.tar`, or a URL of either; or several of them."""
    inputs: dict[str, str]
    """Sample column -> modality. `json.script` reads a value of a JSON column; `png;jpg` takes what is there."""
    target: str
    """The column that holds the answer: a class name or number, a text."""
    answer: Match
    metric: str
    batch: int
    """GLOBAL number of samples of one slot; the world size must divide it."""
    sample_weight: float = 1.0
    """Its quota in the schedule."""
    loss_weight: float = 1.0
    family: str | None = None
    """Names the shared temperature (and the attribute row); the task's own name when absent."""
    augment: Sequence[dict[str, Any]] = field(default_factory=tuple)
    """Transforms of the inputs, in order: `{kind: affine, degrees: 10}`; kinds are listed in data/augment.py."""
    data_weights: Sequence[float] = ()
    """A weight for each entry of `data`, which are then data sets of their own that are mixed: a small one is seen more
    often. Empty: all entries are one data set."""

    def __post_init__(self) -> None:
        entries = [self.data] if isinstance(self.data, str) else list(self.data)
        if not self.data_weights:
            return
        if len(self.data_weights) != len(entries) or len(set(entries)) != len(entries):
            raise RecipeError(
                f"data_weights: {len(self.data_weights)} weights for {len(set(entries))} different entries of data; "
                "expected one for each"
            )
        for weight in self.data_weights:
            if not 0 < weight < math.inf:
                raise RecipeError(f"data_weights: expected positive numbers, found {weight}; leave such an entry out")

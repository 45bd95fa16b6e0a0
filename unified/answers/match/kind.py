"""What the kinds that match have in common: P(y|x) ∝ exp(cos(f(x), f(y)) / τ) over candidates y."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from unified.answers.base import AnsweringNetwork, Drawn, Scores
from unified.answers.kind import AnswerKind
from unified.answers.match.similarity import loss_of_class
from unified.config.labels import Labels
from unified.config.task import Answer, Task
from unified.core.distributed import gather_parts, rows_of_rank, world_size
from unified.core.errors import RecipeError
from unified.core.types import Batch, Sample, Tokens
from unified.modalities import MODALITIES
from unified.nn.encoder import Noise


@dataclass(frozen=True, kw_only=True)
class MatchSettings(Answer):
    """Pick among candidates by the similarity of representations."""

    candidates: str
    label_smoothing: float = 0.0

    def check(self, where: str, task: Task) -> None:
        """Refuse smoothing that is no fraction."""
        check_fraction(f"{where}.answer.label_smoothing", self.label_smoothing)


def check_fraction(where: str, fraction: float) -> None:
    """Refuse what is not at least 0 and below 1."""
    if not 0 <= fraction < 1:
        raise RecipeError(f"{where}: expected at least 0 and below 1, found {fraction}")


class Example(NamedTuple):
    """One sample as its task sees it."""

    key: str
    inputs: dict[str, Any]  # by modality: a decoded value, the ids of a text
    target: Any = None  # a class number, or the ids of a text
    group: int = 0


@runtime_checkable
class SampleReader(Protocol):
    """What reads the samples of a task."""

    name: str
    task: Task
    tokenizers: Mapping[str, Any]
    seed: int

    def text(self, sample: Sample, column: str) -> Any:
        """Return the ids of a text."""

    def class_number(self, sample: Sample) -> int:
        """Return the number of the class that the target column names."""


class MatchKind(AnswerKind):
    """A kind of answer that compares representations."""

    reading = "prefix"
    """Where states are read, as configurations say it."""

    def check_target(self, where: str, task: Task, words: str) -> None:
        """Refuse a target column that does not fit; `words`: the modality of texts."""

    def columns(self, task: Task) -> tuple[str, ...]:
        """Return the columns that must be decoded beside inputs and target."""
        return ()

    def read(self, reader: SampleReader, sample: Sample) -> tuple[Any, int]:
        """Return the target of a sample, and the number of its group."""
        raise NotImplementedError

    def prepared(self, ids: Any) -> Any:
        """Return the prepared text of an input as this kind keeps it."""
        # Words cost a third of the tokens: they are found where some are hidden, and nowhere else.
        return list(ids)

    def target(
        self, reader: SampleReader, examples: Sequence[Example], indices: NDArray[np.int64], inputs: dict[str, Tokens]
    ) -> tuple[Any, dict[str, Tokens]]:
        """Return the target of a batch, and its inputs; `indices` key all that is random."""
        raise NotImplementedError

    def places(self, target: Any) -> Int[Tensor, "t"] | None:
        """Return the places of the tokens that are predicted, which a device need not be asked for then."""
        return None

    def score(
        self,
        model: AnsweringNetwork,
        task: Task,
        batch: Batch,
        labels: Tokens | None,
        noise: Drawn | None,
        family: str,
    ) -> Scores:
        """Return losses and hits of a batch."""
        raise NotImplementedError

    def kept(self, task: Task, labels: Labels | None) -> dict[str, Any]:
        """Return what a model keeps of a task, so that it can answer without the recipe and its files."""
        return {"inputs": list(task.inputs.values()), "read": self.reading}

    def assumed_target(self, task: Task, blank: Callable[[int], Tokens], size: int, length: int) -> Any:
        """Return class numbers."""
        return torch.zeros(size, dtype=torch.long)


def class_scores(logits: Tensor, target: Tensor, label_smoothing: float) -> Scores:
    """Return cross entropy, and whether the right class is first.

    Args:
        logits: (n, c).
        target: (n,) class numbers.
        label_smoothing: Fraction of the target that all classes share.
    """
    hits = (logits.argmax(dim=1) == target).long()
    return Scores(loss_of_class(logits, target, label_smoothing), torch.ones_like(hits), hits)


def label_features(model: AnsweringNetwork, labels: Tokens, noise: Noise | None, batch: Batch, family: str) -> Tensor:
    """Return the representations of a label set, of which each rank encodes a part; `noise` is of that part."""
    own = rows_of_rank(len(labels))
    part = 1.0 if len(own) < len(labels) else 1 / world_size()
    with model.encoder.sharing(part):
        mine = {MODALITIES.language: labels.rows(slice(own.start, own.stop))}
        found = model.represent(mine, "candidate", noise, given=batch.inputs, family=family)
    return gather_parts(found, len(labels))

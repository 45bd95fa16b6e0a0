"""Find the text of an input among those of the batch, and the input of a text (CLIP's loss)."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from unified.answers.base import AnsweringNetwork, Drawn, Scores
from unified.answers.kind import read_inputs
from unified.answers.match.kind import Example, MatchKind, MatchSettings, SampleReader
from unified.answers.match.similarity import correct, loss_of_set, similarity
from unified.answers.workload import Setting, Work, represented
from unified.config.task import Task
from unified.core.distributed import gather_rows, rank, reduce_sum, world_size
from unified.core.seed import key
from unified.core.types import Batch, Sample, Tokens
from unified.data.samples.decode import column
from unified.modalities import MODALITIES
from unified.modalities.sequence import Attributes
from unified.nn.encoder import Noise


@dataclass(frozen=True, kw_only=True)
class RetrievalSettings(MatchSettings):
    """Pick among the texts of the batch."""

    kind: ClassVar[str] = "batch"
    candidates: Literal["batch"] = "batch"
    group: str | None = None
    """Column whose equal values are the same answer: candidates of one group are all positives."""


class Retrieval(MatchKind):
    """Pick among the texts of the batch."""

    name = RetrievalSettings.kind
    Settings = RetrievalSettings
    passes = 2

    def claims(self, content: Mapping[str, Any]) -> bool:
        """Tell whether candidates are those of the batch."""
        return bool(content.get("candidates") == self.name)

    def token_kinds(self, task: Task, family: str, *, inside: bool) -> tuple[Attributes, ...]:
        """Return the inputs and the texts."""
        inputs, candidate = read_inputs(task, family)
        return (*inputs, candidate)

    def columns(self, task: Task) -> tuple[str, ...]:
        """Return the column of groups."""
        answer: Any = task.answer
        return (answer.group,) if answer.group else ()

    def read(self, reader: SampleReader, sample: Sample) -> tuple[Any, int]:
        """Return the ids of the text, and the group of a sample."""
        task, answer = reader.task, _settings(reader.task)
        return reader.text(sample, task.target), _group(column(sample, answer.group or task.target))

    def target(
        self, reader: SampleReader, examples: Sequence[Example], indices: NDArray[np.int64], inputs: dict[str, Tokens]
    ) -> tuple[Any, dict[str, Tokens]]:
        """Return tokens of texts, and groups (b,), where equal numbers are the same answer."""
        group = torch.tensor([example.group for example in examples])
        tokens = reader.tokenizers[MODALITIES.language].tokens([example.target for example in examples])
        return {"tokens": tokens, "group": group}, inputs

    def candidate_noise(self, drawn: Callable[[Any, str], Noise], rows: NDArray[np.int64], labels: int) -> Noise | None:
        """Return noise for the texts of this rank's samples."""
        return drawn(rows, "candidates")

    def score(
        self,
        model: AnsweringNetwork,
        task: Task,
        batch: Batch,
        labels: Tokens | None,
        noise: Drawn | None,
        family: str,
    ) -> Scores:
        """Compare in both directions: this rank's rows against the candidates of all ranks."""
        scale, smoothing = model.scale(family), _settings(task).label_smoothing
        of_inputs, of_candidates = (noise.inputs, noise.candidates) if noise else (None, None)
        features = model.represent(batch.inputs, noise=of_inputs, family=family)
        texts = model.represent(
            {MODALITIES.language: batch.target["tokens"]}, "candidate", of_candidates, given=batch.inputs, family=family
        )
        all_features, all_texts = gather_rows(features), gather_rows(texts)
        right = batch.target["group"][:, None] == _all_groups(batch.target["group"])[None, :]
        forward, backward = similarity(features, all_texts, scale), similarity(texts, all_features, scale)
        loss = (loss_of_set(forward, right, smoothing) + loss_of_set(backward, right, smoothing)) / 2
        hits = correct(forward, right).long()
        return Scores(loss, torch.ones_like(hits), hits)

    def workload(self, task: Task, batch: Batch, inputs: Mapping[str, int], setting: Setting) -> Work:
        """Return the work of samples and texts, and of both directions."""
        sequences = represented(batch.inputs, bucketed=setting.bucketed)
        texts = represented({MODALITIES.language: batch.target["tokens"]}, bucketed=setting.bucketed)
        return Work((*sequences, *texts), inputs, 2 * len(batch), 2 * len(batch) * len(batch) * setting.ranks)

    def assumed_target(self, task: Task, blank: Callable[[int], Tokens], size: int, length: int) -> Any:
        """Return texts of full length."""
        return {"tokens": blank(length)}

    def shared_rows(self, task: Task, labels: int, ranks: int) -> int:
        """Return the representations of inputs and texts."""
        return 2 * task.batch


def _settings(task: Task) -> RetrievalSettings:
    assert isinstance(task.answer, RetrievalSettings)
    return task.answer


def _all_groups(group: Int[Tensor, "b"]) -> Int[Tensor, "a"]:
    """The groups of all ranks; whole numbers have no gradient, so a sum of slices at their places gathers them."""
    if world_size() == 1:
        return group
    placed = group.new_zeros(world_size() * len(group))
    placed[rank() * len(group) : (rank() + 1) * len(group)] = group
    return reduce_sum(placed)


def _group(value: Any) -> int:
    """A whole number of 63 bits that stands for a value: equal values, equal numbers."""
    part = value if isinstance(value, str | int) else json.dumps(value, sort_keys=True)
    return key("group", part) >> 1


RETRIEVAL = Retrieval()

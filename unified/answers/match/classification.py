"""Pick a class: candidates are the names of a label set, encoded as texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from unified.answers.base import AnsweringNetwork, Drawn, Scores
from unified.answers.kind import read_inputs
from unified.answers.match.kind import Example, MatchKind, MatchSettings, SampleReader, class_scores, label_features
from unified.answers.match.similarity import similarity
from unified.answers.workload import Setting, Work, label_sequences, represented
from unified.config.labels import Labels
from unified.config.task import Task
from unified.core.errors import RecipeError
from unified.core.types import Batch, Sample, Tokens
from unified.modalities.sequence import Attributes


@dataclass(frozen=True, kw_only=True)
class ClassificationSettings(MatchSettings):
    """Pick among the names of a label set."""

    kind: ClassVar[str] = "labels"
    candidates: str
    """`labels/NAME` (a file of recipes/labels), or a path to a file of names."""

    def check(self, where: str, task: Task) -> None:
        """Refuse the vocabulary, of which tokens of a text are picked."""
        super().check(where, task)
        if self.candidates == "vocabulary":
            raise RecipeError(f"{where}.answer.read: expected masked, caption or causal, got none")

    def label_set(self) -> str:
        """Return the label set."""
        return self.candidates


class Classification(MatchKind):
    """Pick among the names of a label set."""

    name = ClassificationSettings.kind
    Settings = ClassificationSettings
    passes = 2

    def claims(self, content: Mapping[str, Any]) -> bool:
        """Tell whether there are candidates: other kinds claim some of them."""
        return "candidates" in content

    def token_kinds(self, task: Task, family: str, *, inside: bool) -> tuple[Attributes, ...]:
        """Return the inputs and the names."""
        inputs, candidate = read_inputs(task, family)
        return (*inputs, candidate)

    def read(self, reader: SampleReader, sample: Sample) -> tuple[Any, int]:
        """Return the class number of a sample."""
        return reader.class_number(sample), 0

    def target(
        self, reader: SampleReader, examples: Sequence[Example], indices: NDArray[np.int64], inputs: dict[str, Tokens]
    ) -> tuple[Any, dict[str, Tokens]]:
        """Return class numbers (b,)."""
        return torch.tensor([example.target for example in examples]), inputs

    def score(
        self,
        model: AnsweringNetwork,
        task: Task,
        batch: Batch,
        labels: Tokens | None,
        noise: Drawn | None,
        family: str,
    ) -> Scores:
        """Compare each sample with all names."""
        answer: Any = task.answer
        scale = model.scale(family)
        features = model.represent(batch.inputs, noise=noise.inputs if noise else None, family=family)
        assert labels is not None, "a task with a label set needs the tokens of its labels"
        names = label_features(model, labels, noise.candidates if noise else None, batch, family)
        return class_scores(similarity(features, names, scale), batch.target, answer.label_smoothing)

    def kept(self, task: Task, labels: Labels | None) -> dict[str, Any]:
        """Return the names of the classes too."""
        kept = super().kept(task, labels)
        if labels is None:
            return kept
        return kept | {"id2label": dict(enumerate(labels.names)), "templates": list(labels.templates)}

    def workload(self, task: Task, batch: Batch, inputs: Mapping[str, int], setting: Setting) -> Work:
        """Return the work of samples and of the names of one rank."""
        assert setting.labels is not None
        own = label_sequences(setting)
        sequences = (*represented(batch.inputs, bucketed=setting.bucketed), *own)
        encoded = sum(count for count, _, _ in own)
        return Work(sequences, inputs, len(batch) + encoded, len(batch) * len(setting.labels))


CLASSIFICATION = Classification()

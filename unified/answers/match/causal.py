"""Causal language modelling: predict each token of a text from those before it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unified.answers.base import AnsweringNetwork
from unified.answers.match.kind import Example, SampleReader
from unified.answers.match.words import InputWordKind, WordSettings, check_text_input
from unified.config.task import Task
from unified.core.errors import RecipeError
from unified.core.types import IGNORE, Batch, Tokens
from unified.modalities import MODALITIES
from unified.modalities.sequence import Attributes
from unified.nn.encoder import Noise


@dataclass(frozen=True, kw_only=True)
class CausalSettings(WordSettings):
    """Predict each token from those before it."""

    kind: ClassVar[str] = "causal"
    read: Literal["causal"] = "causal"

    def check(self, where: str, task: Task) -> None:
        """Refuse other inputs than one text."""
        check_text_input(where, self.kind, task)
        if len(task.inputs) > 1:
            raise RecipeError(
                f"{where}.inputs: reading 'causal' takes text alone; 'caption' reads text about other inputs"
            )
        super().check(where, task)


class Causal(InputWordKind):
    """Predict each token from those before it."""

    name = reading = CausalSettings.kind
    Settings = CausalSettings

    def token_kinds(self, task: Task, family: str, *, inside: bool) -> tuple[Attributes, ...]:
        """Return the text, and vocabulary entries where they pass the encoder."""
        text = Attributes(MODALITIES.language, causal=True, given=(MODALITIES.language,), family=family)
        return (text, *self.encoded(task, family))

    def target(
        self, reader: SampleReader, examples: Sequence[Example], indices: NDArray[np.int64], inputs: dict[str, Tokens]
    ) -> tuple[Any, dict[str, Tokens]]:
        """Return the ids (b, n), IGNORE at padding."""
        text = inputs[MODALITIES.language]
        return text.values.masked_fill(~text.mask, IGNORE), inputs

    def reads_as(self, kinds: Sequence[Attributes]) -> bool:
        """Tell whether tokens see those before them alone, and there are no queries."""
        return any(kind.causal for kind in kinds) and not any(kind.role == "query" for kind in kinds)

    def states(self, model: AnsweringNetwork, batch: Batch, family: str, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Return the state before each token."""
        part = (Attributes(MODALITIES.language, causal=True, family=family), batch.inputs[MODALITIES.language])
        return model.encode([part], noise=noise).states[:, :-1], batch.target

    def assumed_target(self, task: Task, blank: Callable[[int], Tokens], size: int, length: int) -> Any:
        """Return a text of full length, all of it predicted."""
        return torch.zeros(size, length, dtype=torch.long)


CAUSAL = Causal()

"""Masked language modelling: predict the tokens of hidden words from what is left (BERT, Devlin et al., 2019)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from unified.answers.base import AnsweringNetwork
from unified.answers.kind import read_inputs
from unified.answers.match.kind import Example, SampleReader, check_fraction
from unified.answers.match.words import InputWordKind, WordSettings, check_text_input
from unified.config.task import Task
from unified.core.errors import DataError
from unified.core.seed import uniform
from unified.core.types import IGNORE, Batch, Tokens
from unified.modalities import MODALITIES
from unified.modalities.sequence import Attributes
from unified.modalities.text.tokenizer import TextTokenizer
from unified.nn.encoder import Noise

HIDDEN, REPLACED = 0.8, 0.1
"""Of the masked words, the share that becomes `<|spe|>` and the share of random ids; the rest stays (BERT's)."""


@dataclass(frozen=True, kw_only=True)
class MaskedSettings(WordSettings):
    """Predict hidden words."""

    kind: ClassVar[str] = "masked"
    read: Literal["masked"] = "masked"
    mask_fraction: float = 0.15
    """The fraction of words that are hidden."""

    def check(self, where: str, task: Task) -> None:
        """Refuse inputs without a text, and fractions that are none."""
        check_text_input(where, self.kind, task)
        super().check(where, task)
        check_fraction(f"{where}.answer.mask_fraction", self.mask_fraction)


class Masked(InputWordKind):
    """Predict hidden words."""

    name = reading = MaskedSettings.kind
    Settings = MaskedSettings

    def token_kinds(self, task: Task, family: str, *, inside: bool) -> tuple[Attributes, ...]:
        """Return the inputs, and vocabulary entries where they pass the encoder."""
        return (*read_inputs(task, family)[0], *self.encoded(task, family))

    def prepared(self, ids: Any) -> Any:
        """Return the text with its words."""
        return ids

    def target(
        self, reader: SampleReader, examples: Sequence[Example], indices: NDArray[np.int64], inputs: dict[str, Tokens]
    ) -> tuple[Any, dict[str, Tokens]]:
        """Return the hidden ids (b, n), IGNORE elsewhere, and inputs with the corrupted text."""
        tokenizer, answer = reader.tokenizers[MODALITIES.language], reader.task.answer
        assert isinstance(tokenizer, TextTokenizer)
        assert isinstance(answer, MaskedSettings)
        target, corrupted = mask_words(
            inputs[MODALITIES.language], tokenizer, answer.mask_fraction, indices, reader.seed, reader.name
        )
        return target, inputs | {MODALITIES.language: corrupted}

    def reads_as(self, kinds: Sequence[Attributes]) -> bool:
        """Tell whether tokens see all others."""
        return not any(kind.causal or kind.role == "query" for kind in kinds)

    def states(self, model: AnsweringNetwork, batch: Batch, family: str, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Return the state of each token of the text."""
        parts = [(Attributes(t.modality, family=family), t) for t in batch.inputs.values()]
        encoded = model.encode(parts, noise=noise)
        segment = encoded.layout.find(MODALITIES.language)
        return encoded.states[:, segment.stop - batch.target.shape[1] : segment.stop], batch.target

    def assumed_target(self, task: Task, blank: Callable[[int], Tokens], size: int, length: int) -> Any:
        """Return as many predicted tokens as are hidden in the mean."""
        assert isinstance(task.answer, MaskedSettings)
        target = torch.full((size, length), IGNORE)
        target[:, : round(task.answer.mask_fraction * length)] = 0
        return target


def mask_words(
    text: Tokens, tokenizer: TextTokenizer, fraction: float, indices: NDArray[np.int64], seed: int, task: str
) -> tuple[Int[Tensor, "b n"], Tokens]:
    """Hide a share of the whole words of each text, at least one (whole-word masking of BERT, Devlin et al., 2019).

    Args:
        text: tokens that know their words: made by `TextTokenizer.tokens` of what its `prepare` returns.
        tokenizer: the tokenizer that made them, for the mask and random ids.
        fraction: the part of the words that is hidden, between 0 and 1; what is left over is rounded at random.
        indices: (b,) global sample indices, which key all that is random.
        seed: the seed of the run.
        task: the name of the task, which keys too.

    Returns:
        The hidden ids, (b, n) int64, IGNORE elsewhere, and the corrupted text, whose tokens know no words.

    Raises:
        DataError: the tokens do not know their words.
    """
    if text.words is None:
        raise DataError(
            "mask_words: expected tokens that know their words, got ids alone, which cannot tell '1921' from "
            "'1 9 2 1'. Hint: tokenizer.tokens([tokenizer.prepare(text), …])"
        )
    ids, words = text.values.numpy(), text.words.numpy()
    counts = words.max(1, initial=-1) + 1
    most = max(int(counts.max()), 1)
    chance = uniform(indices, most, seed, task, "hidden words")
    rank = np.where(np.arange(most) < counts[:, None], chance, 2.0).argsort(1).argsort(1)
    rounding = uniform(indices, 1, seed, task, "number of hidden words")[:, 0]
    hidden_words = rank < np.minimum(np.maximum(np.floor(fraction * counts + rounding), 1), counts)[:, None]
    fate = uniform(indices, most, seed, task, "fate of hidden words")
    random_ids = (uniform(indices, ids.shape[1], seed, task, "random words") * tokenizer.size).astype(ids.dtype)
    place_of = np.maximum(words, 0)
    hidden = np.take_along_axis(hidden_words, place_of, 1) & (words >= 0)
    fate = np.take_along_axis(fate, place_of, 1)
    written = np.where(fate < HIDDEN, tokenizer.spe, np.where(fate < HIDDEN + REPLACED, random_ids, ids))
    target = torch.from_numpy(np.where(hidden, ids, IGNORE))
    return target, replace(text, values=torch.from_numpy(np.where(hidden, written, ids)), words=None)


MASKED = Masked()

"""Captioning: predict each token of a text about other inputs, from these and the tokens before it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from unified.answers.base import AnsweringNetwork
from unified.answers.kind import read_inputs
from unified.answers.match.kind import Example, SampleReader
from unified.answers.match.words import WordKind, WordSettings
from unified.config.labels import Labels
from unified.config.task import Task
from unified.core.types import IGNORE, Batch, Sample, Tokens
from unified.modalities import MODALITIES
from unified.modalities.sequence import Attributes
from unified.modalities.text.length_buckets import trimmed
from unified.modalities.text.tokenizer import text_tokens
from unified.nn.encoder import Noise


@dataclass(frozen=True, kw_only=True)
class CaptionSettings(WordSettings):
    """Predict each token of a caption."""

    kind: ClassVar[str] = "caption"
    read: Literal["caption"] = "caption"


class Caption(WordKind):
    """Predict each token of a caption."""

    name = reading = CaptionSettings.kind
    Settings = CaptionSettings

    def token_kinds(self, task: Task, family: str, *, inside: bool) -> tuple[Attributes, ...]:
        """Return the inputs, the caption, a query for each of its tokens, and encoded vocabulary entries."""
        inputs, candidate = read_inputs(task, family)
        both = tuple(sorted({*candidate.given, MODALITIES.language}))
        words = Attributes(MODALITIES.language, causal=True, given=both, family=family)
        own = (*(replace(part, given=both) for part in inputs), words, replace(words, role="query"))
        return (*own, *self.encoded(task, family))

    def read(self, reader: SampleReader, sample: Sample) -> tuple[Any, int]:
        """Return the ids of the caption."""
        return reader.text(sample, reader.task.target), 0

    def target(
        self, reader: SampleReader, examples: Sequence[Example], indices: NDArray[np.int64], inputs: dict[str, Tokens]
    ) -> tuple[Any, dict[str, Tokens]]:
        """Return tokens of captions."""
        return reader.tokenizers[MODALITIES.language].tokens([example.target for example in examples]), inputs

    def text(self, batch: Batch) -> Tokens:
        """Return the captions."""
        found: Tokens = batch.target
        return found

    def beside(self, batch: Batch) -> list[Tokens]:
        """Return all inputs."""
        return list(batch.inputs.values())

    def times(self) -> int:
        """Return 2: a caption, and a query for each of its tokens."""
        return 2

    def ids(self, target: Any) -> Int[Tensor, "b n"]:
        """Return the ids of captions, IGNORE at padding."""
        found: Tensor = target.values.masked_fill(~target.mask, IGNORE)
        return found

    def rows(self, batch: Batch, rows: Tensor) -> Batch:
        """Return some rows of a batch, their captions cut to their longest."""
        inputs = {name: tokens.rows(rows) for name, tokens in batch.inputs.items()}
        return replace(batch, inputs=inputs, target=trimmed(batch.target, rows), asked=None)

    def reads_as(self, kinds: Sequence[Attributes]) -> bool:
        """Tell whether there is a query for each token."""
        return any(kind.role == "query" for kind in kinds)

    def labelled(
        self, task: str, inputs: dict[str, Tokens], ids: Int[Tensor, "b n"], asked: Bool[Tensor, "b n"]
    ) -> tuple[dict[str, Tokens], Any, Bool[Tensor, "b n"]]:
        """Return the other inputs, and the caption: the text among the inputs, or the labels."""
        others = dict(inputs)
        caption = others.pop(MODALITIES.language, None) or text_tokens(ids.masked_fill(~asked, 0), asked)
        if not others:
            raise ValueError(f"task {task!r}: expected pixel_values, got a text alone. Hint: it captions images")
        return others, caption, caption.mask

    def states(self, model: AnsweringNetwork, batch: Batch, family: str, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Return the state of the query of each token."""
        parts = [(Attributes(tokens.modality), tokens) for tokens in batch.inputs.values()]
        return read_caption(model, parts, batch.target, noise, family=family)

    def read_states(self, extra: int, length: int) -> int:
        """Return the queries."""
        return length

    def kept(self, task: Task, labels: Labels | None) -> dict[str, Any]:
        """Return how vocabulary entries become candidates too."""
        assert isinstance(task.answer, CaptionSettings)
        return super().kept(task, labels) | {"vocabulary": task.answer.vocabulary}

    def assumed_target(self, task: Task, blank: Callable[[int], Tokens], size: int, length: int) -> Any:
        """Return captions of full length."""
        return blank(length)


def read_caption(
    model: AnsweringNetwork,
    parts: list[tuple[Attributes, Tokens]],
    text: Tokens,
    noise: Noise | None = None,
    *,
    family: str = "",
) -> tuple[Tensor, Tensor]:
    """The state of each [SPE] query of a caption (b, n, w), and the ids that they should find (b, n).

    One pass over `[SPE] image | text | queries`: the query at place i sees the image and the words before i.
    """
    queries = text_tokens(torch.full_like(text.values, model.config.spe_token_id), text.mask)
    halves = [
        (Attributes(MODALITIES.language, causal=True), text),
        (Attributes(MODALITIES.language, "query", causal=True), queries),
    ]
    whole = [(replace(attributes, family=family), tokens) for attributes, tokens in [*parts, *halves]]
    encoded = model.encode(whole, noise=noise, read=slice(-queries.values.shape[1], None))
    return encoded.states, text.values.masked_fill(~text.mask, IGNORE)


CAPTION = Caption()

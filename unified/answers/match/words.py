"""Predict tokens of a text: what masked, causal and captioning tasks have in common."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unified.answers.base import AnsweringNetwork, Drawn, Scores
from unified.answers.kind import read_inputs
from unified.answers.match.kind import MatchKind, MatchSettings, class_scores
from unified.answers.match.similarity import similarity
from unified.answers.workload import Setting, Work, text_sequences
from unified.config.task import Task
from unified.core.distributed import world_size
from unified.core.errors import RecipeError, quoted
from unified.core.types import IGNORE, Batch, Tokens
from unified.modalities import MODALITIES
from unified.modalities.sequence import Attributes
from unified.modalities.text.length_buckets import by_length, trimmed
from unified.nn.encoder import Noise


@dataclass(frozen=True, kw_only=True)
class WordSettings(MatchSettings):
    """Pick among the entries of the vocabulary."""

    candidates: Literal["vocabulary"] = "vocabulary"
    vocabulary: Literal["embedding", "encoder"] = "embedding"
    """How vocabulary entries become candidates: projected token embeddings, or each entry through the encoder."""


class WordKind(MatchKind):
    """A kind that predicts tokens of a text."""

    Settings: type[WordSettings]

    def claims(self, content: Mapping[str, Any]) -> bool:
        """Tell whether candidates are the vocabulary, read as this kind does."""
        return content.get("candidates") == "vocabulary" and content.get("read") == self.name

    def places(self, target: Any) -> Int[Tensor, "t"] | None:
        """Return the places of the tokens that are predicted."""
        return words_asked(self.ids(target))

    def text(self, batch: Batch) -> Tokens:
        """Return the text whose tokens are predicted."""
        return batch.inputs[MODALITIES.language]

    def beside(self, batch: Batch) -> list[Tokens]:
        """Return the inputs that stand beside that text in the sequence."""
        return [tokens for name, tokens in batch.inputs.items() if name != MODALITIES.language]

    def times(self) -> int:
        """Return how often the text is in the sequence."""
        return 1

    def ids(self, target: Any) -> Int[Tensor, "b n"]:
        """Return the ids that are predicted, IGNORE where none is."""
        found: Tensor = target
        return found

    def rows(self, batch: Batch, rows: Tensor) -> Batch:
        """Return some rows of a batch, their texts cut to their longest."""
        short = trimmed(self.text(batch), rows)
        inputs = {name: tokens.rows(rows) for name, tokens in batch.inputs.items()} | {MODALITIES.language: short}
        return replace(batch, inputs=inputs, target=batch.target[rows, : short.values.shape[1]], asked=None)

    def reads_as(self, kinds: Sequence[Attributes]) -> bool:
        """Tell whether a task whose tokens are of these kinds reads as this kind does."""
        raise NotImplementedError

    def labelled(
        self, task: str, inputs: dict[str, Tokens], ids: Int[Tensor, "b n"], asked: Bool[Tensor, "b n"]
    ) -> tuple[dict[str, Tokens], Any, Bool[Tensor, "b n"]]:
        """Return inputs and target of labels that are token ids, and where they may be predicted at all.

        Args:
            task: Its name, for errors.
            inputs: By modality.
            ids: The labels.
            asked: Where they ask for a token.

        Raises:
            ValueError: An input is missing.
        """
        raise NotImplementedError

    def states(self, model: AnsweringNetwork, batch: Batch, family: str, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Return the states that answer for tokens (b, n, w), and the ids (b, n), IGNORE where none is predicted."""
        raise NotImplementedError

    def score(
        self,
        model: AnsweringNetwork,
        task: Task,
        batch: Batch,
        labels: Tokens | None,
        noise: Drawn | None,
        family: str,
    ) -> Scores:
        """Compare the states of all predicted tokens with the vocabulary; sums over the tokens of each sample."""
        answer: Any = task.answer
        scale = model.scale(family)
        of_inputs = noise.inputs if noise else None
        states, target, row = [], [], []
        for rows, part in self._buckets(batch):
            drawn = of_inputs if of_inputs is None or rows is None else of_inputs.rows(rows)
            read, ids = self.states(model, part, family, drawn)
            # Predicted tokens are known to the host, unless texts are cut into buckets, which a CPU alone does.
            places = words_asked(ids) if part.asked is None else part.asked
            states.append(read.flatten(0, 1).index_select(0, places))
            target.append(ids.flatten().index_select(0, places))
            number = places // ids.shape[1]
            row.append(number if rows is None else rows[number])
        given = {*task.inputs.values(), MODALITIES.language}  # a caption is asked for by its words so far
        with model.encoder.sharing(1 / world_size()):
            vocabulary = model.vocabulary(answer.vocabulary, given=given, family=family)
        logits = similarity(model.project(torch.cat(states)), vocabulary, scale)
        return _by_sample(class_scores(logits, torch.cat(target), answer.label_smoothing), torch.cat(row), len(batch))

    def _buckets(self, batch: Batch) -> Iterator[tuple[Tensor | None, Batch]]:
        """The batch in buckets of texts of like length, each with its rows; or the batch itself."""
        extra = 1 + sum(tokens.values.shape[1] for tokens in self.beside(batch))
        buckets = by_length(self.text(batch), extra // self.times())
        if buckets is None:
            yield None, batch
            return
        for rows in buckets:
            yield rows, self.rows(batch, rows)

    def workload(self, task: Task, batch: Batch, inputs: Mapping[str, int], setting: Setting) -> Work:
        """Return the work of texts, and of the vocabulary where it passes the encoder."""
        answer: Any = task.answer
        predicted = int((self.ids(batch.target) != IGNORE).sum())
        extra = 1 + sum(tokens.values.shape[1] for tokens in self.beside(batch))
        texts = text_sequences(self.text(batch), extra // self.times(), bucketed=setting.bucketed)
        sequences = tuple((n, extra + self.times() * length, self.read_states(extra, length)) for n, length in texts)
        if answer.vocabulary == "encoder":
            sequences = (*sequences, (setting.vocabulary, 3, 1))
        return Work(sequences, inputs, predicted + setting.vocabulary, predicted * setting.vocabulary)

    def read_states(self, extra: int, length: int) -> int:
        """Return how many states of a sequence are read."""
        return extra + length

    def encoded(self, task: Task, family: str) -> tuple[Attributes, ...]:
        """Return the kind of token of vocabulary entries, where they pass the encoder."""
        _, candidate = read_inputs(task, family)
        answer: Any = task.answer
        both = tuple(sorted({*candidate.given, MODALITIES.language}))
        return (replace(candidate, given=both),) if answer.vocabulary == "encoder" else ()


class InputWordKind(WordKind):
    """A kind that predicts tokens of a text that is an input."""

    def check_target(self, where: str, task: Task, words: str) -> None:
        """Refuse a target that is not the text input."""
        if task.inputs.get(task.target) != words:
            raise RecipeError(
                f"{where}.target: reading {quoted(self.name)} asks for the words of a text input; name that "
                f"column, found {quoted(task.target)}"
            )

    def labelled(
        self, task: str, inputs: dict[str, Tokens], ids: Int[Tensor, "b n"], asked: Bool[Tensor, "b n"]
    ) -> tuple[dict[str, Tokens], Any, Bool[Tensor, "b n"]]:
        """Return the ids that are asked for within the text."""
        if MODALITIES.language not in inputs:
            raise ValueError(f"task {task!r}: expected input_ids beside labels, got none. Hint: it reads texts")
        known = inputs[MODALITIES.language].mask
        return inputs, ids.masked_fill(~(asked & known), IGNORE), known

    def read(self, reader: Any, sample: Any) -> tuple[Any, int]:
        """Return nothing: the target is an input."""
        return None, 0


def check_text_input(where: str, kind: str, task: Task) -> None:
    """Refuse inputs without a text."""
    if MODALITIES.language not in task.inputs.values():
        raise RecipeError(f"{where}.inputs: reading {kind!r} needs a text column among the inputs")


def words_asked(ids: Int[Tensor, "b n"]) -> Int[Tensor, "t"]:
    """Return the places of the tokens that are predicted, in all rows as one; to be called on the host."""
    return (ids != IGNORE).flatten().nonzero()[:, 0]


def _by_sample(found: Scores, row: Int[Tensor, "t"], samples: int) -> Scores:
    """Scores of terms, summed over the terms of each sample."""
    zero = found.loss.new_zeros(samples)
    return Scores(
        zero.index_add(0, row, found.loss),
        zero.long().index_add(0, row, found.terms),
        zero.long().index_add(0, row, found.correct),
    )

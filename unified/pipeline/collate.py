"""From decoded samples of one task to a batch: columns to modalities, augmentation, tokens, the answer's target."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from unified.config.labels import Labels
from unified.config.task import Match, Task
from unified.core.printed import quoted
from unified.core.schema import RecipeError, nearest
from unified.core.seed import key, uniform
from unified.core.types import IGNORE, Batch, DataError, Sample, Tokens
from unified.data.augment.augment import augment, build_transforms
from unified.data.class_lists import ClassNumbers
from unified.data.samples.decode import column, place, read_image, read_string
from unified.modalities.base import Tokenizer
from unified.modalities.image.patches import PatchRows
from unified.modalities.image.prepare import prepare_images
from unified.modalities.image.tokenizer import ImageTokenizer
from unified.modalities.text.tokenizer import TextTokenizer

HIDDEN, REPLACED = 0.8, 0.1
"""Of the masked words, the share that becomes `<|spe|>` and the share of random ids; the rest stays (BERT's)."""
CACHED_TEXTS = 65536
CACHED_LENGTH = 256
CACHE_BYTES = 2**20
"""A batch of images up to this size stays in a processor's cache until it is complete."""


class Example(NamedTuple):
    """One sample as its task sees it."""

    key: str
    inputs: dict[str, Any]  # by modality: a decoded image or video, the ids of a text
    target: Any = None  # a class number, or the ids of a text
    group: int = 0


class Collator:
    """Makes the batches of one task; a pure function of the samples and their global indices.

    `Batch.target` is, by what the task's answer asks for:
    labels: class numbers, Int (b,) ·
    "batch": {"tokens": Tokens, "group": Int (b,)}, where equal numbers are the same answer ·
    "masked": the hidden ids, Int (b, n), IGNORE elsewhere, and the corrupted text among the inputs ·
    "caption": Tokens · "causal": the ids, Int (b, n), IGNORE at padding.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        tokenizers: Mapping[str, Tokenizer],
        labels: Labels | None,
        seed: int,
        lists: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`lists`: the class names that shards, by their path, count in `cls`; others count as `labels` does."""
        self.name, self.task, self.tokenizers, self.labels, self.seed = name, task, tokenizers, labels, seed
        assert isinstance(task.answer, Match)
        self.answer: Match = task.answer
        self.transforms = build_transforms(task.augment, f"tasks.{name}.augment")
        self.classes = ClassNumbers(labels, lists) if labels else None
        group = task.answer.group if task.answer.candidates == "batch" else None
        self.columns = tuple(dict.fromkeys([*task.inputs, task.target, *([group] if group else [])]))
        """Of a sample, those that must be decoded."""
        self._texts: dict[str, list[int]] = {}
        self._frames = frames_read_by(tokenizers)
        self._check()

    def _check(self) -> None:
        where = f"tasks.{self.name}"
        modalities = list(self.task.inputs.values())
        for modality in modalities:
            if modality not in self.tokenizers:
                raise RecipeError(
                    f"{where}.inputs: no tokenizer for {quoted(modality)}{nearest(modality, [*self.tokenizers])}"
                )
        if len(set(modalities)) < len(modalities):
            raise RecipeError(f"{where}.inputs: two columns of one modality; a task takes one column of each")
        if self.answer.read in ("masked", "causal") and self.task.inputs.get(self.task.target) != "text":
            raise RecipeError(
                f"{where}.target: reading {quoted(self.answer.read)} asks for the words of a text input; name that "
                f"column, found {quoted(self.task.target)}"
            )

    def rows(self, count: int) -> PatchRows | None:
        """A batch into which `example` cuts large images at once, while they lie in the processor's cache.

        None where there are none, or where they are first changed at random, which is done for many together.
        """
        tokenizer = self.tokenizers["image"] if "image" in self.task.inputs.values() else None
        if self.transforms or not isinstance(tokenizer, ImageTokenizer):
            return None
        return tokenizer.rows(count) if 3 * count * tokenizer.height * tokenizer.width > CACHE_BYTES else None

    def example(self, sample: Sample, rows: PatchRows | None = None, row: int = 0) -> Example:
        """What the task needs of one decoded sample, without its image if that goes into a row of `rows`.

        Raises `DataError` naming shard, key and column.
        """
        inputs: dict[str, Any] = {}
        for name, modality in self.task.inputs.items():
            if modality == "text":
                inputs[modality] = self._text(sample, name)
            elif rows is None:
                inputs[modality] = read_image(sample, name, self._frames)
            else:
                rows.put(row, self.tokenizers[modality].prepare(read_image(sample, name, self._frames)))
        answer = self.answer
        if answer.candidates == "batch":
            target = self._text(sample, self.task.target)
            return Example(sample["__key__"], inputs, target, _group(column(sample, answer.group or self.task.target)))
        if answer.candidates != "vocabulary":
            return Example(sample["__key__"], inputs, self._class(sample))
        return Example(
            sample["__key__"], inputs, self._text(sample, self.task.target) if answer.read == "caption" else None
        )

    def batch(self, examples: Sequence[Example], indices: NDArray[np.int64], rows: PatchRows | None = None) -> Batch:
        """The examples as one batch; `indices` are their global sample indices, which key all that is random.

        `rows` holds their images where `example` was given it.
        """
        inputs = {
            modality: rows.tokens() if rows and modality == "image" else self._tokens(modality, examples, indices)
            for modality in self.task.inputs.values()
        }
        target, corrupted = self._target(examples, indices, inputs.get("text"))
        if corrupted is not None:
            inputs["text"] = corrupted
        return Batch(self.name, inputs, target, [example.key for example in examples], self._asked(target))

    def _asked(self, target: Any) -> Tensor | None:
        """The places of the words that are predicted, which a device need not be asked for then."""
        if self.answer.candidates != "vocabulary":
            return None
        asked = target.mask if isinstance(target, Tokens) else target != IGNORE
        return asked.flatten().nonzero()[:, 0]

    def _tokens(self, modality: str, examples: Sequence[Example], indices: NDArray[np.int64]) -> Tokens:
        values = [example.inputs[modality] for example in examples]
        if modality == "image":
            if self.transforms:
                values = augment(values, self.transforms, indices, self.seed, self.name)
            values = prepare_images(values, self.tokenizers["image"])
        return self.tokenizers[modality].tokens(values)

    def _target(
        self, examples: Sequence[Example], indices: NDArray[np.int64], text: Tokens | None
    ) -> tuple[Any, Tokens | None]:
        answer = self.answer
        if answer.candidates == "batch":
            group = torch.tensor([example.group for example in examples])
            return {
                "tokens": self.tokenizers["text"].tokens([example.target for example in examples]),
                "group": group,
            }, None
        if answer.candidates != "vocabulary":
            return torch.tensor([example.target for example in examples]), None
        if answer.read == "caption":
            return self.tokenizers["text"].tokens([example.target for example in examples]), None
        assert text is not None, "_check asks for a text input"
        if answer.read == "causal":
            return text.values.masked_fill(~text.mask, IGNORE), None
        tokenizer = self.tokenizers["text"]
        assert isinstance(tokenizer, TextTokenizer)
        return mask_words(text, tokenizer, answer.mask_fraction, indices, self.seed, self.name)

    def _text(self, sample: Sample, name: str) -> list[int]:
        value = read_string(sample, name)
        ids = self._texts.get(value)
        if ids is None:
            ids = self.tokenizers["text"].prepare(value)
            # Words cost a third of the tokens: they are found where some are hidden, and nowhere else.
            ids = ids if self.answer.read == "masked" else list(ids)
            if len(self._texts) >= CACHED_TEXTS:
                self._texts.clear()
            if len(value) <= CACHED_LENGTH:
                self._texts[value] = ids
        return ids

    def _class(self, sample: Sample) -> int:
        value, name = column(sample, self.task.target), self.task.target
        assert self.classes is not None
        try:
            return self.classes.number(value, sample.get("__shard__") if name == "cls" else None)
        except DataError as error:
            raise DataError(f"{place(sample)}: column {name!r}: {error}") from error


def collate(
    task_name: str,
    task: Task,
    samples: Sequence[Sample],
    indices: Sequence[int] | NDArray[np.int64],
    tokenizers: Mapping[str, Tokenizer],
    labels: Labels | None,
    seed: int,
) -> Batch:
    """A batch of decoded samples; a `Collator` does the same for many batches."""
    collator = Collator(task_name, task, tokenizers, labels, seed)
    return collator.batch([collator.example(sample) for sample in samples], np.asarray(indices, dtype=np.int64))


def frames_read_by(tokenizers: Mapping[str, Tokenizer]) -> int | None:
    """The most frames of an image that a model with these tokenizers reads; None where it is not known."""
    tokenizer = tokenizers.get("image")
    return tokenizer.frames if isinstance(tokenizer, ImageTokenizer) else None


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


def _group(value: Any) -> int:
    """A whole number of 63 bits that stands for a value: equal values, equal numbers."""
    part = value if isinstance(value, str | int) else json.dumps(value, sort_keys=True)
    return key("group", part) >> 1

"""From decoded samples of one task to a batch: columns to modalities, augmentation, tokens, the answer's target."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified.answers.match.kind import Example
from unified.answers.table import match_kind
from unified.config.labels import Labels
from unified.config.task import Task
from unified.core.errors import DataError, RecipeError, nearest, quoted
from unified.core.types import Batch, Sample, Tokens
from unified.data.augment.augment import augment, augment_values, build_transforms
from unified.data.class_lists import ClassNumbers
from unified.data.samples.decode import column, place, read_image, read_string
from unified.modalities import MODALITIES
from unified.modalities.base import Tokenizer
from unified.modalities.image.patches import PatchRows
from unified.modalities.image.prepare import prepare_images
from unified.modalities.image.tokenizer import ImageTokenizer

CACHED_TEXTS = 65536
CACHED_LENGTH = 256
CACHE_BYTES = 2**20
"""A batch of images up to this size stays in a processor's cache until it is complete."""


class Collator:
    """Makes the batches of one task that matches; a pure function of the samples and their global indices."""

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
        self.kind = match_kind(task)
        self.classes = ClassNumbers(labels, lists) if labels else None
        self.columns = tuple(dict.fromkeys([*task.inputs, task.target, *self.kind.columns(task)]))
        """Of a sample, those that must be decoded."""
        self._texts: dict[str, list[int]] = {}
        self._frames = frames_read_by(tokenizers)
        self._check()
        self.transforms = build_transforms(task.augment, f"tasks.{name}.augment", task.inputs.values())

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
        self.kind.check_target(where, self.task, MODALITIES.language)

    def rows(self, count: int) -> PatchRows | None:
        """A batch into which `example` cuts large images at once, while they lie in the processor's cache.

        None where there are none, or where they are first changed at random, which is done for many together.
        """
        tokenizer = self.tokenizers[MODALITIES.spatial] if MODALITIES.spatial in self.task.inputs.values() else None
        if self.transforms or not isinstance(tokenizer, ImageTokenizer):
            return None
        return tokenizer.rows(count) if 3 * count * tokenizer.height * tokenizer.width > CACHE_BYTES else None

    def example(self, sample: Sample, rows: PatchRows | None = None, row: int = 0) -> Example:
        """What the task needs of one decoded sample, without its image if that goes into a row of `rows`.

        Raises `DataError` naming shard, key and column.
        """
        inputs: dict[str, Any] = {}
        for name, modality in self.task.inputs.items():
            if modality == MODALITIES.language:
                inputs[modality] = self.text(sample, name)
            elif modality != MODALITIES.spatial:
                inputs[modality] = prepare_value(sample, name, self.tokenizers[modality])
            elif rows is None:
                inputs[modality] = read_image(sample, name, self._frames)
            else:
                rows.put(row, self.tokenizers[modality].prepare(read_image(sample, name, self._frames)))
        target, group = self.kind.read(self, sample)
        return Example(sample["__key__"], inputs, target, group)

    def batch(self, examples: Sequence[Example], indices: NDArray[np.int64], rows: PatchRows | None = None) -> Batch:
        """The examples as one batch; `indices` are their global sample indices, which key all that is random.

        `rows` holds their images where `example` was given it.
        """
        inputs = {
            modality: rows.tokens()
            if rows and modality == MODALITIES.spatial
            else self._tokens(modality, examples, indices)
            for modality in self.task.inputs.values()
        }
        target, inputs = self.kind.target(self, examples, indices, inputs)
        return Batch(self.name, inputs, target, [example.key for example in examples], self.kind.places(target))

    def _tokens(self, modality: str, examples: Sequence[Example], indices: NDArray[np.int64]) -> Tokens:
        values = [example.inputs[modality] for example in examples]
        transforms = self.transforms.get(modality, ())
        if modality == MODALITIES.spatial:
            if transforms:
                values = augment(values, transforms, indices, self.seed, self.name)
            values = prepare_images(values, self.tokenizers[modality])
        elif transforms:
            values = augment_values(values, transforms, indices, self.seed, self.name)
        return self.tokenizers[modality].tokens(values)

    def text(self, sample: Sample, column: str) -> list[int]:
        """Return the ids of a text, which are kept for the next sample that has it."""
        value = read_string(sample, column)
        ids = self._texts.get(value)
        if ids is None:
            ids = self.kind.prepared(self.tokenizers[MODALITIES.language].prepare(value))
            if len(self._texts) >= CACHED_TEXTS:
                self._texts.clear()
            if len(value) <= CACHED_LENGTH:
                self._texts[value] = ids
        return ids

    def class_number(self, sample: Sample) -> int:
        """Return the number of the class that the target column names."""
        value, name = column(sample, self.task.target), self.task.target
        assert self.classes is not None
        try:
            return self.classes.number(value, sample.get("__shard__") if name == "cls" else None)
        except DataError as error:
            raise DataError(f"{place(sample)}: column {name!r}: {error}") from error


def prepare_value(sample: Sample, name: str, tokenizer: Tokenizer) -> Any:
    """Return a value as its tokenizer prepares it, of a modality that has no reader of its own.

    Args:
        sample: As `decode` makes it.
        name: The column.
        tokenizer: That of the modality.

    Raises:
        DataError: The value does not fit; the message names shard, key and column.
    """
    value = column(sample, name)
    try:
        return tokenizer.prepare(value)
    except DataError as error:
        raise DataError(f"{place(sample)}: column {quoted(name)}: {error}") from error


def frames_read_by(tokenizers: Mapping[str, Tokenizer]) -> int | None:
    """The most frames of an image that a model with these tokenizers reads; None where it is not known."""
    tokenizer = tokenizers.get(MODALITIES.spatial)
    return tokenizer.frames if isinstance(tokenizer, ImageTokenizer) else None

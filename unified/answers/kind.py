"""What every kind of answer offers, and what the kinds of task queries have in common."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from unified.answers.base import Begun, QueryStates, SceneExample, SceneTask, Size, Target
from unified.answers.baselines import Slots
from unified.answers.spec import QuerySpec
from unified.answers.workload import Setting, Work, label_sequences, represented
from unified.config.task import Answer, Task
from unified.core.distributed import rows_of_rank
from unified.core.errors import DataError, RecipeError
from unified.core.types import Batch, Sample, Tokens
from unified.data.samples import annotations as said
from unified.data.samples.decode import place, read_image
from unified.modalities import MODALITIES
from unified.modalities.sequence import Attributes
from unified.nn.encoder import Noise

IGNORED_ELSEWHERE = -100
"""The label of what has none, in torch's losses and in transformers."""


class AnswerKind:
    """One kind of answer, whole: its settings, target, loss, prediction; one module each."""

    name: str
    """In recipes, configurations and results."""
    Settings: type[Answer]
    """Its keys in a recipe."""

    evaluation: Any = None
    """Of a kind of another package: its `DenseEvaluation`, or "package.module:NAME" where that lies."""
    drawing: Any = None
    """Likewise its `Drawing`."""

    passes = 1
    """Passes over the encoder: one for the inputs, and one for candidates that are encoded by themselves."""

    def claims(self, content: Mapping[str, Any]) -> bool:
        """Tell whether the keys of an `answer:` name this kind."""
        raise NotImplementedError

    def candidate_noise(self, drawn: Callable[[Any, str], Noise], rows: NDArray[np.int64], labels: int) -> Noise | None:
        """Return the noise of candidates, which is drawn for rows of the global batch or of a label set.

        Args:
            drawn: Draws for rows, by a purpose.
            rows: Of this rank.
            labels: Of the task's label set.
        """
        return drawn(np.array(rows_of_rank(labels)), "labels") if labels else None

    def shared_rows(self, task: Task, labels: int, ranks: int) -> int:
        """Return the rows of a slot that every rank needs and none has whole."""
        return labels if labels >= ranks else 0

    def workload(self, task: Task, batch: Batch, inputs: Mapping[str, int], setting: Setting) -> Work:
        """Return the work of a batch; `inputs`: its tokens by modality."""
        raise NotImplementedError

    def assumed_target(self, task: Task, blank: Callable[[int], Tokens], size: int, length: int) -> Any:
        """Return a target of the largest size that the recipe allows.

        Args:
            task: The task.
            blank: Makes texts without content of a length.
            size: Samples.
            length: Of the longest text.
        """
        raise NotImplementedError

    def token_kinds(self, task: Task, family: str, *, inside: bool) -> tuple[Attributes, ...]:
        """Return every kind of token that a task runs through the encoder: the rows that its routing has.

        Args:
            task: The task.
            family: Its family.
            inside: Whether queries pass the encoder.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class FieldOps:
    """How answers are averaged over mirrored images and sliding windows: as fields of numbers.

    A field is (c, h, w) at the size of an image, or of other shape where it has no single pixels.
    """

    fields: Callable[[QueryStates, Sequence[Size]], list[Float[Tensor, "..."]]]
    """The fields of all samples, at their sizes."""
    answer: Callable[[Tensor, Size], dict[str, Any]]
    """The answer that a field stands for."""
    unmirrored: Callable[[Tensor, Sequence[str], int], Tensor]
    """The field of a mirrored image, as one of the image: field, names of the queries, width in pixels."""
    windows: bool = True
    """Whether it has a value for each pixel, so that sliding windows can share them."""


def mirrored(field: Float[Tensor, "*c h w"], names: Sequence[str], width: int) -> Float[Tensor, "*c h w"]:
    """Return a field with left and right exchanged."""
    return field.flip(-1)


@dataclass(frozen=True, kw_only=True)
class QuerySettings(Answer):
    """Settings of an answer that task queries give."""

    queried: ClassVar[bool] = True

    def query_names(self) -> str | None:
        """Return the label set that names the queries."""
        return getattr(self, "names", None)

    def encodes_names(self) -> bool:
        """Tell whether the text encoder makes the queries from their names."""
        return bool(getattr(self, "from_names", False))

    def check(self, where: str, task: Task) -> None:
        """Refuse inputs that are not one image, and queries from names that are not given."""
        if set(task.inputs.values()) != {MODALITIES.spatial}:
            raise RecipeError(f"{where}.inputs: queries are asked about one image, found {task.inputs}")
        if self.encodes_names() and self.query_names() is None:
            raise RecipeError(f"{where}.answer.from_names: {self.kind!r} has no names to make queries from")


class QueryKind(AnswerKind):
    """A kind of answer that task queries give: a map, or numbers, for each of them."""

    key: str
    """The key of a recipe that names it: `map` or `regress`."""
    Spec: type[QuerySpec] = QuerySpec
    """What a model keeps of a task."""
    mapped = False
    """Whether each query has a map."""
    objects = False
    """Whether queries stand for objects, which are matched to them as a set."""

    def claims(self, content: Mapping[str, Any]) -> bool:
        """Tell whether the keys of an `answer:` name this kind."""
        return bool(content.get(self.key) == self.name)

    def token_kinds(self, task: Task, family: str, *, inside: bool) -> tuple[Attributes, ...]:
        """Return the inputs, the queries where they pass the encoder, and the names that queries are made of."""
        inputs, candidate = read_inputs(task, family)
        asked = [Attributes(inputs[0].modality, "query", given=inputs[0].given, family=family)] if inside else []
        return (*inputs, *asked, *([candidate] if task.answer.encodes_names() else []))

    def workload(self, task: Task, batch: Batch, inputs: Mapping[str, int], setting: Setting) -> Work:
        """Return the work of samples, whose states are all read, of encoded names, and of queries."""
        names = label_sequences(setting)
        ((samples, length, _),) = represented(batch.inputs, bucketed=setting.bucketed)
        asked = (batch.task, len(batch), sum(inputs.values()) // len(batch))
        read = sum(count for count, _, _ in names)
        return Work(((samples, length, length), *names), inputs, read, 0, asked)

    def assumed_target(self, task: Task, blank: Callable[[int], Tokens], size: int, length: int) -> Any:
        """Return nothing: work does not depend on it."""
        return {}

    # what a model keeps

    def spec(self, task: Task, names: Sequence[str], identities: int, cell: int, **common: Any) -> QuerySpec:
        """Return what a model keeps of a task.

        Args:
            task: The task.
            names: Of its label set; empty where it has none.
            identities: How many its training data have.
            cell: Pixels of the input that a place of the maps stands for, along each axis.
            common: The size of its images, and its family.
        """
        made = self.made(task, names, cell) | ({"identities": identities} if identities else {})
        from_names = task.answer.encodes_names()
        return self.Spec(read=self.name, names=tuple(names), from_names=from_names, **common, **made)

    def made(self, task: Task, names: Sequence[str], cell: int) -> dict[str, Any]:
        """Return the fields of the spec that are of this kind, `queries` among them: one for each name."""
        return {"queries": len(names)}

    def settings_for(self, spec: Any, **changes: Any) -> Answer:
        """Return settings by which annotations are read as for a task of a spec; `changes` where they have the key."""
        known = {field.name for field in fields(self.Settings)}
        kept = {**vars(spec), "names": "", "identities": "", **changes}
        return self.Settings(**{key: value for key, value in kept.items() if key in known})

    def row_shapes(self, spec: Any, width: int) -> dict[str, tuple[int, int]]:
        """Return the shapes of the rows that a task owns, by their purpose."""
        # A new name has no place of its own, so those that are known have none either.
        rows = {"place": (1 if spec.from_names else spec.queries, width)}
        if not spec.from_names:
            rows["content"] = (spec.queries, width)
            if self.mapped:
                rows["filters"] = (spec.queries, width)
        return rows

    def query_points(self, spec: Any, device: torch.device) -> Float[Tensor, "q 2"] | None:
        """Return the points of the image that queries stand at and begin with; None: at none."""
        return None

    def plain_head(self, spec: Any) -> tuple[bool, bool]:
        """Tell whether a head without queries, to compare with, gives maps, and whether it gives presence.

        `spec`: a spec or settings of this kind.
        """
        return self.mapped, False

    def adds_to_input(self, spec: Any) -> bool:
        """Tell whether the answer is added to the input image."""
        return False

    def check_in_encoder(self, where: str, answer: Answer) -> None:
        """Refuse settings that queries cannot have which pass the encoder."""

    # before anything is learned

    def baseline_shapes(self, spec: Any) -> dict[str, tuple[int, ...]]:
        """Return the slots of a task's baseline, and their shapes."""
        return {}

    def baseline(self, spec: Any, targets: Iterable[Target], places: int) -> Slots:
        """Measure the slots on training targets; `places`: of the maps in training."""
        return {}

    # targets

    def columns(self, task: Task, image: str) -> tuple[str, ...]:
        """Return the columns of a sample that must be decoded."""
        target = "json" if task.target.startswith("json") else task.target
        return tuple(dict.fromkeys([image, "json", target]))

    def read(self, asked: SceneTask, sample: Sample) -> SceneExample:
        """Return the image of a sample and what is known of it.

        Raises:
            DataError: The image is a video, or has another size than its annotations say.
        """
        image = single_image(asked, sample)
        height, width = said.image_size(sample)
        if tuple(image.shape[1:]) != (height, width):
            raise DataError(
                f"{place(sample)}: column {asked.image!r}: {image.shape[2]}×{image.shape[1]} pixels, its facts say "
                f"{width}×{height}"
            )
        return self.annotated(asked, sample, image)

    def annotated(self, asked: SceneTask, sample: Sample, image: Tensor) -> SceneExample:
        """Return what is known of an image."""
        raise NotImplementedError

    def flip_pairs(self, names: Sequence[str]) -> list[int]:
        """Return for each named point the one that a mirror puts in its place; nothing where none changes sides."""
        return []

    def larger(self, task: Task) -> int:
        """Return how many times as high and wide as the input targets are."""
        return 1

    def pairs(
        self, asked: SceneTask, images: list[Tensor], examples: Sequence[SceneExample], indices: NDArray[np.int64]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the inputs of a batch and its target; `indices` key all that is random."""
        return images, self.target(asked, examples)

    def target(self, asked: SceneTask, examples: Sequence[SceneExample]) -> dict[str, Tensor]:
        """Return the target of a batch; `examples`: changed and resized."""
        raise NotImplementedError

    def labelled(self, spec: Any, labels: Tensor, samples: int) -> dict[str, Tensor]:
        """Return the target that labels of one tensor stand for.

        Raises:
            ValueError: They have another shape, or one tensor cannot say it.
        """
        raise ValueError(
            f"labels: expected a mapping of `labels` and `boxes` for objects, got a tensor of {tuple(labels.shape)}"
        )

    # losses and answers

    def begin(self, found: QueryStates, target: Target) -> Begun[tuple[Tensor, Tensor]]:
        """Return `loss` up to the assignment of queries to objects, of which most kinds have none."""
        result = self.loss(found, target)
        return Begun(lambda _: result)

    def loss(self, found: QueryStates, target: Target) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """Return the loss of each sample, the mean over the layers that learn, and its score from 0 to 1."""
        raise NotImplementedError

    def predict(self, found: QueryStates, sizes: Sequence[Size]) -> list[dict[str, Any]]:
        """Return the answer for each sample, in pixels of an image of its (height, width)."""
        raise NotImplementedError

    def merge(self) -> FieldOps | None:
        """Return how answers are averaged; None: they are a set, which has no mean."""
        return None

    def object_queries(self, found: QueryStates, states: Tensor) -> Any:
        """Return what queries say of objects in the states of one layer; None where they stand for none."""
        return None

    def logits(self, found: QueryStates, target: Target | None) -> Tensor | None:
        """Return what answers are made of in the last layer; None where it is no logits of something named."""
        return found.maps(found.states[-1]) if self.mapped else None


def read_inputs(task: Task, family: str) -> tuple[list[Attributes], Attributes]:
    """Return the kinds of token of a task's inputs, and that of its candidates."""
    given = tuple(sorted(set(task.inputs.values())))
    return [Attributes(one, given=given, family=family) for one in given], Attributes(
        MODALITIES.language, "candidate", given=given, family=family
    )


def single_image(asked: SceneTask, sample: Sample) -> Tensor:
    """Return the image of a sample, (3, h, w) uint8; raise `DataError` for a video."""
    image = read_image(sample, asked.image)
    if image.dim() == 4:
        raise DataError(
            f"{place(sample)}: column {asked.image!r}: expected one image, as task queries read it, got "
            f"{len(image)} frames. Hint: store the annotated frame by itself"
        )
    return image


def shaped(kind: QueryKind, labels: Tensor, expected: tuple[int | str, ...]) -> Tensor:
    """Return labels that have the expected shape, in which "…" is any length.

    Raises:
        ValueError: They have another shape.
    """
    fits = labels.dim() == len(expected) and all(
        right in ("…", side) for side, right in zip(labels.shape, expected, strict=True)
    )
    if not fits:
        raise ValueError(f"labels: expected shape {expected} for {kind.name}, got {tuple(labels.shape)}")
    return labels


def map_target(kind: QueryKind, labels: Float[Tensor, "b c h w"], samples: int) -> dict[str, Tensor]:
    """Return the target of a map that is known at every pixel."""
    labels = shaped(kind, labels, (samples, "…", "…", "…"))
    return {"map": labels, "valid": torch.ones_like(labels[:, 0], dtype=torch.bool)}


def map_of(examples: Sequence[SceneExample]) -> dict[str, Tensor]:
    """Return the target of the values of images, and where they are known."""
    return {
        "map": torch.stack([e.scene.values for e in examples if e.scene.values is not None]),
        "valid": torch.stack([e.scene.valid for e in examples if e.scene.valid is not None]),
    }


def ignored(labels: Int[Tensor, "*n"], ignore: int) -> Int[Tensor, "*n"]:
    """Return labels in which what torch's losses ignore is what ours do."""
    return labels.long().masked_fill(labels == IGNORED_ELSEWHERE, ignore)

"""What all kinds of answers share: annotated samples, the states that answers are made from, scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unified.answers.baselines import NEUTRAL, Baseline
from unified.answers.map.maps import resized
from unified.config.task import Task
from unified.core.types import Tokens
from unified.data.augment.geometric import Scene
from unified.modalities.sequence import Attributes
from unified.nn.encoder import Noise

Target = Mapping[str, Tensor]
Size = tuple[int, int]
NEAR = 0.1
"""Of the image's sides: how near a point must be to count as found."""
T = TypeVar("T")


@dataclass(frozen=True)
class Scores:
    """How a model did on each sample of a batch."""

    loss: Float[Tensor, "b"]  # sum over the sample's terms
    terms: Int[Tensor, "b"]  # 1, or the number of words that were asked for
    correct: Int[Tensor, "b"] | Float[Tensor, "b"]  # terms whose most similar candidate is right; a score of queries


@dataclass(frozen=True)
class Drawn:
    """The noise of a slot: of its inputs and of its candidates."""

    inputs: Noise
    candidates: Noise | None = None


@dataclass(frozen=True)
class Begun(Generic[T]):
    """A result for which queries may have to be assigned to objects first: for all slots of a step at once."""

    finish: Callable[[Sequence[Int[Tensor, "b m"]]], T]
    """The result, given the assignment of each of `costs`."""
    costs: tuple[Float[Tensor, "b q m"], ...] = ()


@dataclass(frozen=True)
class SceneTask:
    """A task with queries, as the targets of its samples need it."""

    name: str
    task: Task
    names: tuple[str, ...]  # of classes, points or attributes
    identities: tuple[str, ...]  # all that the training data have
    height: int  # of its images
    width: int
    seed: int

    @property
    def image(self) -> str:
        """The column of its images."""
        return next(iter(self.task.inputs))

    @cached_property
    def classes(self) -> dict[str, int]:
        """The number of each name."""
        return {label: number for number, label in enumerate(self.names)}

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each identity."""
        return {label: number for number, label in enumerate(self.identities)}


@dataclass(frozen=True)
class SceneExample:
    """One sample as its task sees it."""

    key: str
    scene: Scene
    target: Tensor | None = None  # of the whole image: presence, identity


@dataclass(frozen=True)
class QueryStates:
    """What the queries of one task found in a batch; `unified/answers/table.py` makes it a loss or an answer."""

    spec: Any  # a `QuerySpec` of its kind of answer
    states: tuple[Float[Tensor, "b q d"], ...]  # of the layers that learn, the last one last
    features: Float[Tensor, "b h w d"]  # of every place
    interpreter: Any  # an `Interpreter`, or the task's own `TaskHead`
    anchors: Float[Tensor, "q 2"] | None = None  # x, y in 0..1
    classes: Float[Tensor, "c d"] | None = None  # rows of the classes of objects
    identities: Float[Tensor, "i e"] | None = None  # rows of those that were seen in training
    picture: Float[Tensor, "b 3 H W"] | None = None  # what was looked at, 0..1, where answers are added to it
    filters: Float[Tensor, "q d"] | None = None  # of maps, of the task alone
    baseline: Baseline = NEUTRAL  # what an answer is before anything is learned

    def maps(self, states: Float[Tensor, "b q d"]) -> Float[Tensor, "b m h w"]:
        """A value of each map at each place, in the states of one layer."""
        found: Tensor = self.interpreter.maps(states, self.features, *(() if self.filters is None else (self.filters,)))
        if self.baseline.maps is not None:
            found = found + resized(self.baseline.maps[None], (found.shape[2], found.shape[3])).to(found.dtype)
        return found

    def presence(self, states: Float[Tensor, "b q d"]) -> Float[Tensor, "b n"]:
        """Logits of whether there is what each query asks for."""
        return _plus(self.interpreter.presence(states), self.baseline.logits)

    def class_logits(self, states: Float[Tensor, "b q d"]) -> Float[Tensor, "b q c"]:
        """Logits of each query of an object for each class."""
        return _plus(self.interpreter.classes(states, self.classes), self.baseline.logits)

    def boxes(self, states: Float[Tensor, "b q d"], anchors: Float[Tensor, "q 2"]) -> Float[Tensor, "b q 4"]:
        """Boxes (cx, cy, w, h) in 0..1; of points their centres alone count."""
        centres, sides = self.baseline.centres, self.baseline.sides
        if centres is None:
            return self.interpreter.boxes(states, anchors)  # type: ignore[no-any-return]
        shift = F.pad(centres, (0, 2)) if sides is None else torch.cat([centres, sides], dim=1)
        return self.interpreter.boxes(states, anchors, shift)  # type: ignore[no-any-return]

    def row(self, number: int) -> "QueryStates":
        """The states of one sample, to be read at its own size."""
        only = slice(number, number + 1)
        states = tuple(states[only] for states in self.states)
        picture = None if self.picture is None else self.picture[only]
        return replace(self, states=states, features=self.features[only], picture=picture)

    def exact(self) -> "QueryStates":
        """All in the type of the interpreter's weights: readings are computed without autocast."""
        kind = next(self.interpreter.parameters()).dtype
        classes = None if self.classes is None else self.classes.to(kind)
        states = tuple(states.to(kind) for states in self.states)
        return replace(self, states=states, features=self.features.to(kind), classes=classes)


def _plus(value: Tensor, base: Tensor | None) -> Tensor:
    return value if base is None else value + base


@runtime_checkable
class AnsweringNetwork(Protocol):
    """What answers need of a network, which is built on them."""

    config: Any
    encoder: Any
    queries: Any

    def encode(self, parts: Sequence[tuple[Attributes, Tokens]], **options: Any) -> Any:
        """Run the parts through the encoder as one sequence."""

    def represent(self, inputs: Mapping[str, Tokens], role: Any = "input", noise: Any = None, **options: Any) -> Tensor:
        """Return the representation of each sample."""

    def project(self, states: Tensor, unit: bool = True) -> Tensor:
        """Return representations of states."""

    def vocabulary(self, how: str = "embedding", **options: Any) -> Tensor:
        """Return the representations of all vocabulary entries."""

    def scale(self, family: str | None = None) -> Tensor:
        """Return the factor of the similarities of a task family."""

    def ask(self, inputs: Mapping[str, Any], tasks: Sequence[str], **options: Any) -> dict[str, QueryStates]:
        """Return what the queries of tasks find."""


def near(found: Float[Tensor, "b j _"], points: Float[Tensor, "b j 3"]) -> Float[Tensor, "b"]:
    """Return the fraction of the known points that are found near their place."""
    known = points[..., 2] > 0
    close = (found[..., :2] - points[..., :2]).norm(dim=-1) < NEAR
    return (close & known).sum(1) / known.sum(1).clamp(min=1)


def in_pixels(points: Float[Tensor, "b j 3"], sizes: Sequence[Size]) -> list[dict[str, Any]]:
    """Return the answers that points (x and y in 0..1, how sure) are, in pixels of each image."""
    return [
        {"points": torch.stack([of[:, 0] * width, of[:, 1] * height], -1), "scores": of[:, 2]}
        for of, (height, width) in zip(points, sizes, strict=True)
    ]


def layer_mean(values: Sequence[Tensor]) -> Tensor:
    """Return the mean of the losses of all layers that learn."""
    return torch.stack(list(values)).mean(0)

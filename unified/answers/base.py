"""What all kinds of answers share: the states that they are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unified.answers.baselines import NEUTRAL, Baseline
from unified.answers.map.maps import resized
from unified.answers.spec import QuerySpec
from unified.core.types import Tokens
from unified.modalities.sequence import Attributes


@dataclass(frozen=True)
class QueryStates:
    """What the queries of one task found in a batch; `unified/answers/table.py` makes it a loss or an answer."""

    spec: QuerySpec
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

"""How answers of one kind are drawn and told, and what is predicted about one image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from unified.answers.kind import AnswerKind
from unified.config.labels import Labels
from unified.reports.prediction.panels import Line, Panel


@dataclass(frozen=True)
class Prediction:
    """The answer of one task about one image, as `predict` of its kind gives it, on the CPU."""

    task: str
    kind: AnswerKind
    answer: dict[str, Any]
    names: Sequence[str] = ()
    """Of classes, points, attributes or labels."""
    spec: Any = None
    """The `QuerySpec` of the queries that answered."""

    def sure(self, threshold: float) -> list[int]:
        """The places of objects or points with a score of at least `threshold`, the best first."""
        scores: Tensor = self.answer["scores"]
        return [number for number in scores.argsort(descending=True).tolist() if scores[number] >= threshold]


@dataclass(frozen=True)
class Matched:
    """A task that is answered about an image by comparing representations."""

    kind: AnswerKind
    family: str | None
    """Names the temperature, and what routers look at."""
    labels: Labels | None
    """Those that are picked from."""
    vocabulary: str = "embedding"
    """How captions take the entries of the vocabulary, as in recipes."""


@dataclass(frozen=True)
class Canvas:
    """The image that is asked about, as large as it is drawn."""

    image: Image.Image
    scale: tuple[float, float]
    """Pixels that are drawn for each of its own, across and down."""
    threshold: float
    """Lowest score of objects and points that are drawn."""


@dataclass(frozen=True)
class Known:
    """What COCO annotations that results are compared with say of images and categories."""

    images: Mapping[str, int]
    """Numbers by file name."""
    categories: Mapping[str, int]
    """Numbers by name."""
    joints: Mapping[str, Sequence[str]]
    """Names of keypoints in their order, by category."""


class Coco(NamedTuple):
    """How answers become COCO results."""

    rows: Callable[[Prediction, Known | None, float], list[dict[str, Any]]]
    """Of objects with at least a score; without the number of the image."""
    categories: Callable[[Prediction], list[dict[str, Any]]]
    """Numbered from 1, where nothing is known."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """The drawing of one kind of answer."""

    kind: AnswerKind
    facts: Callable[[Prediction, float], dict[str, Any]]
    """For JSON: plain numbers and names; of objects those with at least a score."""
    draw: Callable[[Prediction, Canvas], Panel | list[Line]] | None = None
    """A panel beside the image, or lines below it; None: facts are all that is told."""
    predict: Callable[[Any, Any, Matched], dict[str, Any]] | None = None
    """The answer of a model about one processed image, where no queries answer."""
    coco: Coco | None = None

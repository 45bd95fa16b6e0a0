"""What a task is: pure data, so that adding one is a few lines of YAML."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from unified.core.bounds import Batch
from unified.core.schema import RecipeError


@dataclass(frozen=True)
class Match:
    """Pick among candidates by the similarity of representations: P(y|x) ∝ exp(cos(f(x), f(y)) / τ)."""

    candidates: str
    """`labels/NAME` (a file of recipes/labels, or a path to one), `batch` (retrieval) or `vocabulary` (words)."""
    read: Literal["prefix", "masked", "caption", "causal"] = "prefix"
    """Where the input is read: its [SPE] prefix, its masked words, one state a caption word, or every text state."""
    vocabulary: Literal["embedding", "encoder"] = "embedding"
    """How vocabulary entries become candidates: projected word embeddings, or each entry through the encoder."""
    label_smoothing: float = 0.0
    mask_fraction: float = 0.15
    """The share of words that a `masked` reading hides."""
    group: str | None = None
    """Column whose equal values are the same answer: in-batch candidates of one group are all positives."""


@dataclass(frozen=True)
class Map:
    """A value for every position: task queries, each times the features of every place of the image."""

    map: Literal["classes", "points", "bins", "directions", "share", "pixels", "density"]
    """What the queries stand for. classes: one a class. points: a heat map for each named point. bins: distances, whose
    weighted mean is a number such as depth. directions: the axes of a unit vector. share: a number from 0 to 1.
    pixels: colours. density: one map whose sum is a count."""
    names: str | None = None
    """`labels/NAME` or a file of names, a query for each (classes, points); of density, the classes that
    are counted (null: all)."""
    softmax: bool = False
    """classes: they share out each place; otherwise each is there or not, with a presence (UniHCP). points: places
    share out each point, which learns in far fewer steps; otherwise squares of heat maps (UniHCP)."""
    bins: int = 32
    """Queries of `bins`."""
    limits: tuple[float, float] = (0.1, 10.0)
    """The nearest and the farthest bin, in the unit of the data."""
    scale: int = 1
    """How much larger than the input `pixels` are."""
    operator: str | None = None
    """How input and answer of `pixels` are made from an image; operators are listed in data/operators.py."""
    residual: bool = False
    """Whether `pixels` are added to the picture itself, at the size of the answer (VDSR, CVPR 2016)."""
    from_names: bool = False
    """Queries are made from their names by the text encoder, so that new names can be asked for later."""


@dataclass(frozen=True)
class Regress:
    """Numbers for each task query; objects are matched to queries as a set."""

    regress: Literal["boxes", "masks", "presence", "places", "identity"]
    """boxes: objects of named classes. masks: the same with a mask each. presence: whether each named attribute holds.
    places: where each named point is. identity: a vector that is alike for the same one."""
    names: str | None = None
    """`labels/NAME` or a file of names (boxes, masks: classes; presence; places)."""
    queries: int = 100
    """Queries of objects, or of an identity."""
    identities: str | None = None
    """The names of all identities of the training data."""
    parts: bool = False
    """Of an identity: each query begins with what lies at its point of a grid over the picture, so that the vector
    tells what is where (after PCB, ECCV 2018)."""
    from_names: bool = False
    """As in `Map`."""


@dataclass(frozen=True)
class Task:
    """One task of a recipe: data in, question, kind of answer, metric, and its share of the training."""

    data: str | Sequence[str]
    """A folder of shards, a pattern such as `cc3m/{00000..00331}.tar`, or a URL of either; or several of them."""
    inputs: dict[str, str]
    """Sample column -> modality. `json.script` reads a value of a JSON column; `png;jpg` takes what is there."""
    target: str
    """The column that holds the answer: a class name or number, a text."""
    answer: Match | Map | Regress
    metric: str
    batch: Batch
    """GLOBAL number of samples of one slot; the world size must divide it."""
    sample_weight: float = 1.0
    """Its quota in the schedule."""
    loss_weight: float = 1.0
    """Factor of its loss: a step's loss is the mean over its slots of weight × loss, whatever tasks share the step."""
    family: str | None = None
    """Names the shared temperature (and the attribute row); the task's own name when absent."""
    augment: Sequence[dict[str, Any]] = field(default_factory=tuple)
    """Transforms of the inputs, in order: `{kind: affine, degrees: 10}`; kinds are listed in data/augment.py."""
    size: tuple[int, int] | None = None
    """Height and width of the images of a task with queries, multiples of the patch; null: those of the tokenizer."""
    data_weights: Sequence[float] = ()
    """A weight for each entry of `data`, which are then data sets of their own that are mixed: a small one is seen more
    often. Empty: all entries are one data set."""
    together: int = 1
    """So many samples of one identity follow one another, as losses want it that compare those of a batch; the order is
    that of data/together.py. Shards must be on a disk; `data.window` does not apply."""

    def __post_init__(self) -> None:
        entries = [self.data] if isinstance(self.data, str) else list(self.data)
        if not self.data_weights:
            return
        if len(self.data_weights) != len(entries) or len(set(entries)) != len(entries):
            raise RecipeError(
                f"data_weights: {len(self.data_weights)} weights for {len(set(entries))} different entries of data; "
                "expected one for each"
            )
        for weight in self.data_weights:
            if not 0 < weight < math.inf:
                raise RecipeError(f"data_weights: expected positive numbers, found {weight}; leave such an entry out")

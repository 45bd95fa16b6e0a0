"""What a task is: pure data, so that adding one is a few lines of YAML."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from unified.core.bounds import Batch
from unified.core.errors import RecipeError
from unified.core.schema import build


@dataclass(frozen=True)
class Answer:
    """How a task is answered: the settings of one kind, which are the keys of `answer:` in a recipe.

    Each kind of `unified.answers` has a subclass of its own, so that a key of another kind is refused.
    """

    kind: ClassVar[str]
    """The name of the kind, a row of `unified.answers.ANSWERS`."""
    queried: ClassVar[bool] = False
    """Whether task queries give the answer."""
    settings_of: ClassVar[Callable[[Mapping[str, Any], str], type["Answer"]]]
    """The settings that the keys of an answer name. The package gives it: kinds are built on this module."""

    @classmethod
    def of(cls, **keys: Any) -> "Answer":
        """Return the settings that keys of a recipe give, such as `of(candidates="labels/digits")`.

        Raises:
            RecipeError: No kind has these keys, or a value is wrong.
        """
        return build(Answer, keys, "answer")

    @classmethod
    def chosen(cls, content: Mapping[str, Any], where: str) -> type["Answer"]:
        """Return the class that the keys of a mapping name; the schema builds that one."""
        return cls if cls is not Answer else Answer.settings_of(content, where)

    def label_set(self) -> str | None:
        """Return the label set that the task picks from."""
        return None

    def query_names(self) -> str | None:
        """Return the label set that names the queries, or the classes of objects."""
        return None

    def identity_names(self) -> str | None:
        """Return the label set of all identities of the training data."""
        return None

    def encodes_names(self) -> bool:
        """Tell whether the text encoder makes the queries from their names."""
        return False

    def check(self, where: str, task: "Task") -> None:
        """Refuse values that do not fit one another or the task, before any data is read.

        Raises:
            RecipeError: The message begins with `where`, the place of the task in the recipe.
        """


@dataclass(frozen=True)
class Task:
    """One task of a recipe: data in, question, kind of answer, metric, and its share of the training."""

    data: str | Sequence[str]
    """A folder of shards, a pattern such as `cc3m/{00000..00331}.tar`, or a URL of either; or several of them."""
    inputs: dict[str, str]
    """Sample column -> modality. `json.script` reads a value of a JSON column; `png;jpg` takes what is there."""
    target: str
    """The column that holds the answer: a class name or number, a text."""
    answer: Answer
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
    """Transforms of the inputs, in order: `{kind: affine, degrees: 10}`, of the kinds that their modalities know."""
    size: tuple[int, int] | None = None
    """Height and width of the images of a task with queries, multiples of the patch; null: those of the tokenizer."""
    data_weights: Sequence[float] = ()
    """A weight for each entry of `data`, which are then data sets of their own that are mixed: a small one is seen more
    often. Empty: all entries are one data set."""
    together: int = 1
    """So many samples of one identity follow one another, as losses want it that compare those of a batch; the order is
    that of pipeline/grouped.py. Shards must be on a disk; `data.window` does not apply."""

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

"""How answers of one kind are evaluated: the metric of what they say, and beside it baselines that learn nothing.

A number beside a baseline says what was learned: more than the most frequent class at each place, the mean depth, the
mean point, which need no look at the picture; and more than to remember the training picture that is most like it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from unified.answers.kind import AnswerKind
from unified.answers.spec import QuerySpec
from unified.answers.table import query_kind
from unified.config.task import Task
from unified.core.types import Sample
from unified.data.samples.annotations import FACTS
from unified.data.samples.decode import using
from unified.evaluate.dense.baseline_maps import Baselines, Fit, Nearest
from unified.evaluate.dense.nearest_neighbour import NEAREST, Copies, nearest_picture
from unified.evaluate.dense.scores import Scores
from unified.evaluate.dense.targets import ReadTruth, Truth, read_scene
from unified.evaluate.results import Metric
from unified.evaluate.spec import Dense
from unified.modalities import MODALITIES
from unified.modalities.image.tokenizer import ImageTokenizer
from unified.pipeline.dense_collate import SceneCollator

MANY = 10**6
"""Objects that a picture may have: more than there are queries are missed ones, and no error."""


@dataclass(frozen=True, kw_only=True)
class DenseEvaluation:
    """The evaluation of one kind of answer that queries give."""

    kind: AnswerKind
    scores: Callable[[Sequence[str]], Scores]
    """Made for the names of the queries."""
    metrics: tuple[Metric, ...]
    """The first one stands for the kind where there is room for one; those that are left out are fractions."""
    column: Callable[[Any], str] = lambda _: FACTS
    """The usual column of the target of a spec of this kind."""
    truth: ReadTruth = read_scene
    check: Callable[[Dense, Sequence[str]], None] | None = None
    """Refuses data that mean something else than the task's names."""
    untrained: Callable[[Any], Baselines] = lambda _: {}
    """Baselines that need no training data."""
    fit: Fit | None = None
    """Fits baselines to training data, the plainest one first."""
    nearest: Nearest | None = None
    """The nearest training picture as an answer, where there are fitted baselines."""

    def baselines(self, spec: QuerySpec, names: Sequence[str], training: Sequence[Truth] | None) -> Baselines:
        """Return the baselines of a task.

        Args:
            spec: Its queries.
            names: Of its queries.
            training: What is right of training pictures, each read when it is asked for: all once in their order, and
                those that are nearest to a picture again. None: only the baselines that need none.
        """
        found = dict(self.untrained(spec))
        if training is not None and self.fit is not None and self.nearest is not None:
            copies = Copies()
            fitted = self.fit(copies.of_all(training), spec, names)
            found |= fitted
            found[NEAREST] = nearest_picture(self.nearest, training, copies, next(iter(fitted.values())))
        return found


class Truths:
    """Reads samples for one task."""

    def __init__(
        self,
        name: str,
        evaluation: DenseEvaluation,
        spec: QuerySpec,
        names: Sequence[str],
        picture: str,
        target: str | None,
        tokenizer: ImageTokenizer,
    ) -> None:
        """`picture` and `target`: columns; `names`: of classes, points or attributes."""
        column, size = target or evaluation.column(spec), spec.size if min(spec.size) else None
        answer = query_kind(spec.read).settings_for(spec, queries=MANY)
        task = Task("", {picture: MODALITIES.spatial}, column, answer, "score", 1, size=size)
        self._truth, self._collator = evaluation.truth, SceneCollator(name, task, tokenizer, names, (), 0)
        self.columns = self._collator.columns
        """Of a sample, those that must be decoded."""

    def __call__(self, sample: Sample, number: int) -> Truth:
        """What a decoded sample says; `number` keys what an operator draws. Raises `DataError`."""
        with using(sample):
            return self._truth(self._collator, sample, self._collator.example(sample), number)

"""Scores of class maps, and the map of the commonest class."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unified.answers.map.semantic import SEMANTIC
from unified.answers.spec import QuerySpec
from unified.config.labels import load_labels
from unified.core.errors import RecipeError
from unified.core.locations import named
from unified.core.statistics import bootstrap
from unified.core.types import IGNORE
from unified.evaluate.dense.baseline_maps import GRID, Baselines, on_grid, size_of
from unified.evaluate.dense.evaluation import DenseEvaluation
from unified.evaluate.dense.scores import Answer, Clusters, Scores, share_measure
from unified.evaluate.dense.targets import Truth
from unified.evaluate.results import Measure, Metric
from unified.evaluate.sources import class_names
from unified.evaluate.spec import Dense


class ClassScores(Scores):
    """mIoU of the summed confusion matrix, and the share of pixels that are right."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.counts: list[NDArray[np.int64]] = []  # of each picture: right, said, true pixels of each class (3, c)

    def add(self, answer: Answer, truth: Truth) -> None:
        """Labels (h, w)."""
        assert truth.scene.labels is not None
        valid = truth.scene.labels != IGNORE
        said, true = answer["labels"].cpu()[valid].numpy(), truth.scene.labels[valid].numpy()
        parts = (said[said == true], said, true)
        self.counts.append(np.stack([np.bincount(part, minlength=len(self.names)) for part in parts]))

    def measures(self, key: str, clusters: Clusters) -> tuple[Measure, ...]:
        """Classes that neither answers nor truth have do not count in the mean."""
        counts = np.stack(self.counts)
        right, valid = counts[:, 0].sum(1), counts[:, 2].sum(1)
        if not valid.any():
            return ()
        miou = bootstrap(
            lambda picked: float(np.nanmean(_overlaps(counts[picked].sum(0)))), len(counts), key, "miou",
            clusters=clusters, bounds=(0.0, 1.0),
        )  # fmt: skip
        return Measure("miou", miou), share_measure("pixel_accuracy", right, clusters, valid)

    def per_class(self) -> dict[str, float | None]:
        """IoU of each class; None for those that are nowhere."""
        found = _overlaps(np.stack(self.counts).sum(0))
        return {name: None if np.isnan(one) else float(one) for name, one in zip(self.names, found, strict=True)}

    def notes(self) -> dict[str, Any]:
        """How many classes the mean leaves out."""
        absent = sum(one is None for one in self.per_class().values())
        return {"how": f"{absent} classes nowhere" if absent else "", "absent_classes": absent}


def _overlaps(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU from right, said and true pixels of each class; NaN where there is none."""
    right, union = counts[0], counts[1] + counts[2] - counts[0]
    if not union.any():
        return np.zeros(1)
    return np.divide(right, union, out=np.full(len(right), np.nan), where=union > 0)


def _majority(truths: Iterable[Truth], spec: QuerySpec, names: Sequence[str]) -> Baselines:  # noqa: ARG001
    counts = torch.zeros(len(names), *GRID)
    for truth in truths:
        assert truth.scene.labels is not None
        labels = on_grid(truth.scene.labels[None])[0]
        counts += F.one_hot(labels.masked_fill(labels == IGNORE, len(names)), len(names) + 1)[..., :-1].movedim(-1, 0)
    everywhere = counts.sum(dim=(1, 2), keepdim=True)
    best = (counts + 1e-6 * everywhere / everywhere.sum().clamp(min=1)).argmax(0)  # where nothing is known: overall

    def answer(picture: Tensor) -> Answer:
        return {"labels": F.interpolate(best[None, None].float(), size_of(picture), mode="nearest")[0, 0].long()}

    return {"most frequent at each place": answer}


def _known(truth: Truth, otherwise: Answer) -> Answer:
    labels = truth.scene.labels
    assert labels is not None
    return {"labels": torch.where(labels == IGNORE, otherwise["labels"], labels)}


def _check_classes(evaluation: Dense, names: Sequence[str]) -> None:
    """Numbers in a map of classes mean the same in the data as in the task."""
    if (found := class_names(evaluation.several)) is None:
        return
    of_data = load_labels(found).names if isinstance(found, str) else tuple(found)
    if of_data != tuple(names):
        first = next((i for i, (a, b) in enumerate(zip(of_data, names, strict=False)) if a != b), None)
        where = f"number {first} is {of_data[first]!r} and {names[first]!r}" if first is not None else "one has more"
        raise RecipeError(
            f"{named(evaluation.data)}: the data have {len(of_data)} classes and the task {evaluation.task!r} "
            f"{len(names)}; {where}. Build the data with the task's list of names"
        )


EVALUATION = DenseEvaluation(
    kind=SEMANTIC,
    scores=ClassScores,
    metrics=(Metric("miou", "mean IoU"),),
    column=lambda _: "classes.png",
    check=_check_classes,
    fit=_majority,
    nearest=_known,
)

"""k-shot: nested subsets that depend on data set and seed alone, and the closed-form probe on frozen features.

The probe is big_vision's (evaluators/fewshot_lsr.py): least squares on standardised features with a fixed penalty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from unified.core.errors import RecipeError
from unified.core.seed import generator

ALL = -1
"""A number of shots that means every item, as in CLIP_benchmark."""
PENALTY = 2.0**10
BIAS = 100.0  # the value of the constant feature: large, so that the penalty hardly touches the bias


@dataclass(frozen=True)
class Subset:
    """Items chosen for training, and the classes that had fewer than asked for."""

    index: Int[np.ndarray, " m"]
    short_classes: tuple[int, ...]


def subset(target: Int[np.ndarray, " n"], shots: int, seed: int, dataset: str) -> Subset:
    """`shots` items of each class; those of fewer shots are among those of more. A short class gives all it has.

    Raises `RecipeError` where no class has so many items: the number would then not be that of any class.
    """
    classes, counts = np.unique(target, return_counts=True)
    if shots != ALL and (shots < 1 or shots > counts.max()):
        raise RecipeError(
            f"{dataset}: {shots} shots asked for, the largest class of the training part has {counts.max()} items; "
            f"expected 1 to {counts.max()}, or {ALL} for all"
        )
    chosen = []
    for name in classes:
        members = np.flatnonzero(target == name)
        order = generator("few_shot", dataset, seed, int(name)).permutation(len(members))
        chosen.append(members[order[: len(members) if shots == ALL else shots]])
    short = () if shots == ALL else tuple(int(c) for c in classes[counts < shots])
    return Subset(np.sort(np.concatenate(chosen)), short)


def different(subsets: Sequence[Subset]) -> list[Subset]:
    """The subsets of all seeds; one where they are all the same, since nothing was drawn then."""
    same = all(np.array_equal(chosen.index, subsets[0].index) for chosen in subsets)
    return [*subsets[:1]] if same else [*subsets]


def labelled_share(target: Int[np.ndarray, " n"], share: float, dataset: str) -> Bool[np.ndarray, " n"]:
    """Which items are labelled for probes: a fraction of each class, at least one item (DINOv3's rule).

    One item of each class at least is left to test on; a class of one item is labelled and not tested.

    Args:
        target: Class of each item (n,).
        share: Fraction between 0 and 1.
        dataset: Name that keys the draw, with the class.

    Returns:
        True for labelled items (n,).

    Raises:
        RecipeError: Where no class has two items, so that none would be left.
    """
    taken = np.zeros(len(target), dtype=bool)
    for name in np.unique(target):
        members = np.flatnonzero(target == name)
        order = generator("train_share", dataset, int(name)).permutation(len(members))
        count = max(1, min(int(len(members) * share + 1e-9), len(members) - 1))  # 0.29 × 100 is 28.999…
        taken[members[order[:count]]] = True
    if taken.all():
        raise RecipeError(
            f"{dataset}: train_share: expected a class with two items, one to label and one to test on, got "
            f"{len(target)} items of {len(np.unique(target))} classes. Hint: name labelled data under `train`"
        )
    return taken


@dataclass(frozen=True)
class LeastSquares:
    """A fitted linear probe."""

    mean: Float[np.ndarray, " d"]
    deviation: Float[np.ndarray, " d"]
    weight: Float[np.ndarray, "d1 c"]  # one row more than features: the bias

    def scores(self, features: Float[np.ndarray, "n d"]) -> NDArray[np.float64]:
        """The score of each class (n, c)."""
        return _design(features, self.mean, self.deviation) @ self.weight


def fit_least_squares(
    features: Float[np.ndarray, "n d"], target: Int[np.ndarray, " n"], classes: int, penalty: float = PENALTY
) -> LeastSquares:
    """Least squares to ±1 targets in closed form, in fp64; solved on the smaller side of the data."""
    array = np.asarray(features, dtype=np.float64)
    mean, deviation = array.mean(0), array.std(0) + 1e-5
    design = _design(array, mean, deviation)
    wanted = np.where(np.arange(classes) == target[:, None], 1.0, -1.0)
    items, width = design.shape
    if items >= width:
        weight = np.linalg.solve(design.T @ design + penalty * np.eye(width), design.T @ wanted)
    else:
        weight = design.T @ np.linalg.solve(design @ design.T + penalty * np.eye(items), wanted)
    return LeastSquares(mean, deviation, weight)


def least_squares_answers(
    train: tuple[NDArray[np.float32], NDArray[np.int64]],
    test: NDArray[np.float32],
    subsets: Sequence[Subset],
    classes: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the class of each test item under the probe of each subset (s, n), and its score, near 1 where sure.

    Args:
        train: Features (m, d) and classes (m,) of the labelled items.
        test: Features (n, d) of the tested items.
        subsets: The labelled items of each seed.
        classes: Number of classes.
    """
    found, scores = [], []
    for chosen in subsets:
        probe = fit_least_squares(train[0][chosen.index], train[1][chosen.index], classes)
        values = probe.scores(test)
        found.append(values.argmax(1))
        scores.append(values.max(1))
    return np.stack(found), np.stack(scores)


def _design(
    features: NDArray[np.float64], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float64]:
    standard = (np.asarray(features, dtype=np.float64) - mean) / deviation
    return np.concatenate([standard, np.full((len(standard), 1), BIAS)], axis=1)

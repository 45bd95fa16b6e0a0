import numpy as np
import pytest

from unified.core.errors import RecipeError
from unified.core.seed import generator
from unified.evaluate.protocols.few_shot import (
    ALL,
    BIAS,
    different,
    fit_least_squares,
    labelled_share,
    least_squares_answers,
    subset,
)

TARGET = np.repeat(np.arange(3), [20, 20, 4])


def test_shots_are_nested_and_of_equal_number() -> None:
    few, many = (subset(TARGET, k, 0, "set") for k in (2, 10))
    assert set(few.index) < set(many.index)
    assert np.bincount(TARGET[few.index]).tolist() == [2, 2, 2]


def test_a_short_class_gives_all_it_has_and_is_named() -> None:
    found = subset(TARGET, 10, 0, "set")
    assert np.bincount(TARGET[found.index]).tolist() == [10, 10, 4]
    assert found.short_classes == (2,)
    assert subset(TARGET, ALL, 0, "set").short_classes == ()
    assert len(subset(TARGET, ALL, 0, "set").index) == 44


def test_more_shots_than_any_class_has_is_an_error() -> None:
    with pytest.raises(RecipeError, match="21 shots asked for, the largest class of the training part has 20"):
        subset(TARGET, 21, 0, "set")


def test_subsets_depend_on_seed_data_set_and_class_alone() -> None:
    first = subset(TARGET, 3, 0, "set")
    assert np.array_equal(first.index, subset(TARGET, 3, 0, "set").index)
    assert not np.array_equal(first.index, subset(TARGET, 3, 1, "set").index)
    assert not np.array_equal(first.index, subset(TARGET, 3, 0, "other").index)
    alone = subset(TARGET[:20], 3, 0, "set")  # other classes do not move the draw of a class
    assert np.array_equal(alone.index, first.index[first.index < 20])


def test_equal_subsets_of_all_seeds_are_one() -> None:
    whole = [subset(TARGET, 20, seed, "set") for seed in range(3)]
    part = [subset(TARGET, 3, seed, "set") for seed in range(3)]
    assert len(different(whole)) == 1
    assert different(part) == part


@pytest.mark.parametrize(("share", "expected"), [(0.01, [1, 1, 1]), (0.25, [5, 5, 1]), (0.99, [19, 19, 3])])
def test_a_share_of_each_class_leaves_both_parts_an_item(share: float, expected: list[int]) -> None:
    taken = labelled_share(TARGET, share, "set")
    assert np.bincount(TARGET[taken]).tolist() == expected
    assert np.array_equal(taken, labelled_share(TARGET, share, "set"))
    assert not np.array_equal(taken, labelled_share(TARGET, share, "other"))


def test_a_share_is_not_rounded_down_by_floating_point() -> None:
    assert labelled_share(np.zeros(100, dtype=np.int64), 0.29, "set").sum() == 29


def test_a_class_of_one_item_is_labelled() -> None:
    assert labelled_share(np.array([0, 1, 1]), 0.5, "set")[0]
    with pytest.raises(RecipeError, match="expected a class with two items"):
        labelled_share(np.arange(3), 0.5, "set")


@pytest.mark.parametrize("items", [5, 200])  # fewer and more items than features: the two branches
def test_both_branches_solve_the_ridge_equations(items: int) -> None:
    rng = generator("ridge", items)
    features, target = rng.normal(size=(items, 30)), rng.integers(3, size=items)
    probe = fit_least_squares(features, target, 3, penalty=7.0)
    standard = (features - features.mean(0)) / (features.std(0) + 1e-5)
    design = np.hstack([standard, np.full((items, 1), BIAS)])
    wanted = 2.0 * np.eye(3)[target] - 1
    gradient = design.T @ (design @ probe.weight - wanted) + 7.0 * probe.weight
    assert np.abs(gradient).max() < 1e-6


def test_an_endless_penalty_leaves_equal_scores_for_all_items() -> None:
    rng = generator("penalty")
    target = np.array([0] * 30 + [1] * 10)
    probe = fit_least_squares(rng.normal(size=(40, 6)), target, 2, penalty=1e9)
    scores = probe.scores(rng.normal(size=(50, 6)))
    assert (scores.argmax(1) == 0).all()


def test_the_sign_of_a_feature_does_not_matter() -> None:
    rng = generator("sign")
    features, target = rng.normal(size=(60, 8)), rng.integers(2, size=60)
    flipped = features * np.array([-1, 1] * 4)
    first, second = (fit_least_squares(x, target, 2).scores(x) for x in (features, flipped))
    assert np.allclose(first, second)


def test_probes_find_classes_that_can_be_told_apart() -> None:
    rng = generator("apart")
    target = np.arange(300) % 3
    features = (np.eye(3)[target] * 4 + rng.normal(size=(300, 3))).astype(np.float32)
    train, test = (features[:150], target[:150]), (features[150:], target[150:])
    subsets = [subset(train[1], 10, seed, "apart") for seed in range(2)]
    found, scores = least_squares_answers(train, test[0], subsets, 3)
    assert scores.shape == found.shape == (2, len(test[1]))
    correct = found == test[1]
    assert correct.shape == (2, 150)
    assert correct.mean() > 0.9

import math

import numpy as np
import pytest
import torch

from unified.core.metrics import (
    accuracy,
    class_recalls,
    exact_match,
    first_positive_rank,
    mean_per_class_recall,
    perplexity,
    predictions,
    recall_at_k,
    target_rank,
)
from unified.core.seed import torch_generator


def test_ties_go_to_the_lower_index() -> None:
    scores = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
    assert target_rank(scores, torch.tensor([0, 1, 2])).tolist() == [0, 1, 1]
    assert predictions(scores).tolist() == [0, 0, 1]
    assert accuracy(scores, torch.tensor([0, 1, 2])) == pytest.approx(1 / 3)


def test_rank_equals_a_stable_sort() -> None:
    scores = torch.randint(0, 4, (50, 9), generator=torch_generator("rank")).float()
    target = torch.arange(50) % 9
    order = scores.sort(dim=1, descending=True, stable=True).indices
    expected = (order == target[:, None]).int().argmax(1)
    assert torch.equal(target_rank(scores, target), expected)


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        target_rank(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0]))


def test_mean_per_class_recall_counts_classes_that_are_present() -> None:
    correct, target = np.array([True, True, False, True]), np.array([0, 0, 0, 2])
    assert mean_per_class_recall(correct, target) == pytest.approx((2 / 3 + 1) / 2)
    assert np.isnan(class_recalls(correct, target, 4)[[1, 3]]).all()


@pytest.mark.parametrize("block", [1, 7, 100])
def test_recall_with_several_positives_equals_the_full_sort(block: int) -> None:
    rng = torch_generator("recall")
    queries, gallery = torch.randn(30, 5, generator=rng), torch.randn(40, 5, generator=rng)
    query_group, gallery_group = torch.arange(30) % 12, torch.arange(40) % 11
    ranks = first_positive_rank(queries, gallery, query_group, gallery_group, block)
    order = (queries @ gallery.T).sort(dim=1, descending=True, stable=True).indices
    hits = gallery_group[order] == query_group[:, None]
    expected = torch.where(hits.any(1), hits.int().argmax(1), 40)
    assert torch.equal(ranks, expected)
    assert (ranks == 40).sum() == (query_group == 11).sum()  # no positive
    assert recall_at_k(ranks, 100, 40).sum() == (query_group != 11).sum()  # k is capped; no positive is never a hit


def test_recall_of_equal_items_prefers_the_lower_index() -> None:
    query, gallery = torch.ones(1, 2), torch.ones(3, 2)
    assert first_positive_rank(query, gallery, torch.tensor([7]), torch.tensor([1, 7, 7])).tolist() == [1]


def test_exact_match_takes_any_accepted_text() -> None:
    assert exact_match(["a  cat ", "dog"], [["a cat"], {"cat", "Dog"}]).tolist() == [True, False]


def test_perplexity() -> None:
    assert perplexity(6 * math.log(5), 6) == pytest.approx(5)
    assert perplexity(1e6, 1) == math.inf
    with pytest.raises(ValueError, match="at least one term"):
        perplexity(0, 0)

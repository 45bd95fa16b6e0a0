import math

import torch

from unified.answers.match.similarity import correct, loss_of_class, loss_of_set, similarity, similarity_scale


def test_similarity_is_the_scaled_cosine_in_fp32() -> None:
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.bfloat16)
    logits = similarity(features, torch.eye(2, dtype=torch.bfloat16), torch.tensor([10.0]))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, torch.tensor([[10.0, 0.0], [6.0, 8.0]]), atol=0.05, rtol=0)


def test_scale_is_exp_below_the_cap() -> None:
    assert similarity_scale(torch.tensor([math.log(20.0)])).item() == torch.tensor(20.0)
    assert similarity_scale(torch.tensor([9.0])).item() == 100.0


def test_one_right_candidate_gives_cross_entropy() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0]])
    right = torch.tensor([[False, False, True]])
    expected = math.log(math.exp(2) + 1 + math.exp(1)) - 1.0
    assert math.isclose(loss_of_set(logits, right).item(), expected, rel_tol=1e-6)
    assert math.isclose(loss_of_class(logits, torch.tensor([2])).item(), expected, rel_tol=1e-6)


def test_equal_candidates_that_are_all_right_cost_only_their_number() -> None:
    """Two texts that are equal have equal logits; the loss is at its floor ln 2 when they take all probability."""
    logits = torch.tensor([[50.0, 50.0, 0.0]])
    both = loss_of_set(logits, torch.tensor([[True, True, False]])).item()
    one = loss_of_class(logits, torch.tensor([0])).item()
    assert math.isclose(both, math.log(2), rel_tol=1e-5)
    assert math.isclose(one, both, rel_tol=1e-5)
    logits.requires_grad_(True)
    loss_of_set(logits, torch.tensor([[True, True, False]])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6, "nothing is left to learn"


def test_label_smoothing_agrees_between_the_two_losses() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 3, 2, 4])
    right = torch.nn.functional.one_hot(target, 5).bool()
    torch.testing.assert_close(loss_of_set(logits, right, 0.1), loss_of_class(logits, target, 0.1))


def test_any_right_candidate_counts_as_correct() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    right = torch.tensor([[True, True, False], [False, True, True]])
    assert correct(logits, right).tolist() == [True, False]


def test_autocast_does_not_round_similarities() -> None:
    features = torch.nn.functional.normalize(torch.randn(6, 64, generator=torch.Generator().manual_seed(1)), dim=1)
    scale = torch.tensor([100.0])
    expected = similarity(features, features, scale)
    with torch.autocast("cpu", torch.bfloat16):
        found = similarity(features, features, scale)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)

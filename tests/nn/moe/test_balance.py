"""Losses and figures of balance, by hand."""

import math

import pytest
import torch

from unified.core import seed
from unified.nn.moe.balance import (
    balance_loss,
    dead_experts,
    effective_experts,
    entropy,
    updated_bias,
    z_loss,
)


def test_balance_loss_of_even_and_of_one_sided_experts() -> None:
    even = balance_loss(torch.full((4,), 5), torch.full((4,), 2.5), 10, 4)
    torch.testing.assert_close(even, torch.tensor(1.0))
    one = balance_loss(torch.tensor([20, 0, 0, 0]), torch.tensor([10.0, 0, 0, 0]), 10, 4)
    torch.testing.assert_close(one, torch.tensor(4.0))
    # f = (3/4, 1/4), p = (0.6, 0.4): 2 · (0.45 + 0.1)
    torch.testing.assert_close(balance_loss(torch.tensor([3, 1]), torch.tensor([1.2, 0.8]), 2, 2), torch.tensor(1.1))


def test_balance_loss_of_parts_is_that_of_their_sums() -> None:
    draw = seed.torch_generator(0, "parts")
    logits = torch.randn(12, 4, generator=draw)
    load = torch.nn.functional.one_hot(logits.topk(2).indices, 4).sum(1)
    probability = logits.softmax(-1)
    whole = balance_loss(load.sum(0), probability.sum(0), 12, 4)
    f, p = load.sum(0) / 24, probability.mean(0)
    torch.testing.assert_close(whole, 4 * (f * p).sum())
    parts = [(load[rows].sum(0), probability[rows].sum(0)) for rows in (slice(0, 5), slice(5, 12))]
    torch.testing.assert_close(balance_loss(parts[0][0] + parts[1][0], parts[0][1] + parts[1][1], 12, 4), whole)


def test_the_gradient_of_the_balance_loss_goes_through_probabilities_alone() -> None:
    load = torch.tensor([3.0, 1.0], requires_grad=True)
    probability = torch.tensor([1.2, 0.8], requires_grad=True)
    balance_loss(load, probability, 2, 2).backward()
    assert load.grad is None
    torch.testing.assert_close(probability.grad, torch.tensor([0.75, 0.25]))  # E · f / tokens


def test_several_decisions_at_once() -> None:
    load, probability = torch.tensor([[3, 1], [2, 2]]), torch.tensor([[1.2, 0.8], [1.0, 1.0]])
    found = balance_loss(load, probability, torch.tensor([2.0, 2.0]), 2)
    torch.testing.assert_close(found, torch.tensor([1.1, 1.0]))


def test_z_loss() -> None:
    logits = torch.zeros(6, 4)
    squared = logits.logsumexp(-1).square()
    torch.testing.assert_close(z_loss(squared.sum(), 6), torch.tensor(math.log(4) ** 2))
    torch.testing.assert_close(z_loss(squared[:2].sum() + squared[2:].sum(), 6), torch.tensor(math.log(4) ** 2))


def test_no_tokens_cost_nothing() -> None:
    assert balance_loss(torch.zeros(4), torch.zeros(4), 0, 4) == 0
    assert z_loss(torch.zeros(()), 0) == 0
    assert entropy(torch.zeros(4)) == 0


def test_the_bias_moves_against_the_load() -> None:
    bias = updated_bias(torch.tensor([0.0, 0.5, -0.5, 0.0]), torch.tensor([8, 0, 3, 4]), 0.1)
    torch.testing.assert_close(bias, torch.tensor([-0.1, 0.6, -0.4, -0.1]))  # the mean is 3.75
    even = torch.tensor([0.3, -0.3])
    assert torch.equal(updated_bias(even, torch.tensor([7, 7]), 0.1), even)


def test_the_bias_balances_a_one_sided_router() -> None:
    """The rule of DeepSeek-V3 on fixed probabilities: expert 0 would get every token."""
    draw = seed.torch_generator(0, "router")
    probability = (torch.randn(512, 4, generator=draw) + torch.tensor([3.0, 0, 0, 0])).softmax(-1)
    bias = torch.zeros(4)
    for _ in range(200):
        load = torch.bincount((probability + bias).argmax(-1), minlength=4)
        bias = updated_bias(bias, load, 0.01)
    before = torch.bincount(probability.argmax(-1), minlength=4)
    assert effective_experts(before) < 2
    assert effective_experts(load) > 3.9


@pytest.mark.parametrize(
    ("load", "experts", "dead"), [([5, 5, 5, 5], 4.0, 0), ([7, 0, 0, 0], 1.0, 3), ([1, 1, 0, 0], 2.0, 2)]
)
def test_figures_of_a_load(load: list[int], experts: float, dead: int) -> None:
    torch.testing.assert_close(effective_experts(torch.tensor(load)), torch.tensor(experts))
    torch.testing.assert_close(entropy(torch.tensor(load)), torch.tensor(math.log(experts)))
    assert int(dead_experts(torch.tensor(load))) == dead

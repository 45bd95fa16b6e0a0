"""Dispatch of tokens against a plain restatement, by every way to multiply rows by the matrices of their experts."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unified.core import seed
from unified.nn.moe import dispatch
from unified.nn.moe.dispatch import Plan, choose, expert_linear, expert_mlp, plan

NAMES = ("x", "up_weight", "up_bias", "down_weight", "down_bias", "weights")


@pytest.fixture(params=["loop", "grouped_mm", "blocks"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All ways to multiply, each of which runs on a CPU as well; it takes the loop on its own."""
    monkeypatch.setattr(dispatch, "_way", lambda *_: request.param)
    return str(request.param)


def problem(
    tokens: int = 37,
    width: int = 16,
    hidden: int = 24,
    experts: int = 5,
    top: int = 2,
    dtype: torch.dtype = torch.float32,
) -> tuple[dict[str, Tensor], Tensor]:
    """Leaves with a gradient, named as in `NAMES`, and the chosen experts."""
    draw = seed.torch_generator(0, "dispatch", tokens, width)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    weights, index = choose(normal(tokens, experts), top)
    leaves = {
        "x": normal(tokens, width),
        "up_weight": normal(experts, hidden, width) / 4,
        "up_bias": normal(experts, hidden),
        "down_weight": normal(experts, width, hidden) / 5,
        "down_bias": normal(experts, width),
        "weights": weights,
    }
    return {name: leaf.requires_grad_() for name, leaf in leaves.items()}, index


def mlp(leaves: dict[str, Tensor], where: Plan) -> Tensor:
    return expert_mlp(*(leaves[name] for name in NAMES[:5]), where, leaves["weights"])


def linear(leaves: dict[str, Tensor], where: Plan) -> Tensor:
    return expert_linear(leaves["x"], leaves["up_weight"], leaves["up_bias"], where, leaves["weights"])


def plain_linear(leaves: dict[str, Tensor], index: Tensor) -> Tensor:
    x, weight, bias = leaves["x"], leaves["up_weight"], leaves["up_bias"]
    return torch.stack(
        [
            sum(w * (weight[e] @ x[t] + bias[e]) for w, e in zip(leaves["weights"][t], row, strict=True))
            for t, row in enumerate(index.tolist())
        ]
    )


def plain_mlp(leaves: dict[str, Tensor], index: Tensor) -> Tensor:
    x, up, b, down, c, weights = (leaves[name] for name in NAMES)
    return torch.stack(
        [
            sum(w * (down[e] @ F.gelu(up[e] @ x[t] + b[e]) + c[e]) for w, e in zip(weights[t], row, strict=True))
            for t, row in enumerate(index.tolist())
        ]
    )


def outcome(leaves: dict[str, Tensor], y: Tensor) -> dict[str, Tensor]:
    """The output and the gradients of a loss that weighs every number of it differently."""
    used = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    factor = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    found = torch.autograd.grad((y * factor).sum(), list(used.values()), allow_unused=True)
    return {"y": y.detach(), **{n: g for n, g in zip(used, found, strict=True) if g is not None}}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(
            found[name], value, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("top", [1, 2, 3])
@pytest.mark.parametrize(("run", "plain"), [(linear, plain_linear), (mlp, plain_mlp)])
def test_equals_a_plain_loop(way: str, run: Any, plain: Any, top: int) -> None:
    leaves, index = problem(top=top, dtype=torch.float32 if way == "grouped_mm" else torch.float64)
    assert_same(
        outcome(leaves, run(leaves, plan(index, 5))),
        outcome(leaves, plain(leaves, index)),
        5e-6 if way == "grouped_mm" else 1e-12,  # sums over tokens of magnitude 10
    )


@pytest.mark.parametrize(("run", "plain"), [(linear, plain_linear), (mlp, plain_mlp)])
def test_outputs_equal_a_plain_loop_in_fp32(way: str, run: Any, plain: Any) -> None:
    leaves, index = problem()
    torch.testing.assert_close(run(leaves, plan(index, 5)), plain(leaves, index), atol=1e-6, rtol=1e-6)


def test_one_expert_is_a_dense_layer(way: str) -> None:
    leaves, _ = problem(experts=1, top=1)
    weights, index = choose(torch.randn(37, 1, generator=seed.torch_generator(0, "one")), 1)
    assert torch.equal(weights, torch.ones(37, 1))
    leaves["weights"] = weights
    up, down = (leaves["up_weight"], leaves["up_bias"]), (leaves["down_weight"], leaves["down_bias"])
    dense = F.linear(F.gelu(F.linear(leaves["x"], up[0][0], up[1][0])), down[0][0], down[1][0])
    torch.testing.assert_close(mlp(leaves, plan(index, 1)), dense, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("way", ["loop", "blocks"], indirect=True)  # torch's grouped product takes no float64
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("run", [linear, mlp])
def test_gradients_by_finite_differences(way: str, run: Any, biases: bool) -> None:
    leaves, index = problem(tokens=7, width=3, hidden=4, experts=4, dtype=torch.float64)
    index[index == 2] = 3  # an empty expert, and tokens that chose one expert twice
    used = {name: leaf for name, leaf in leaves.items() if biases or "bias" not in name}
    missing = {name: None for name in leaves if name not in used}

    def function(*values: Tensor) -> Tensor:
        return run({**missing, **dict(zip(used, values, strict=True))}, plan(index, 4))

    assert torch.autograd.gradcheck(function, tuple(used.values()), fast_mode=False)


def test_rows_there_and_back() -> None:
    """The two gathers undo each other, and summing the gathered rows is the adjoint of copying."""
    leaves, index = problem(dtype=torch.float64)
    where, x = plan(index, 5), leaves["x"].detach()
    rows = x[where.tokens]
    assert torch.equal(rows[where.inverse].view(37, 2, -1), x[:, None].expand(-1, 2, -1))
    assert torch.equal(where.order[where.inverse], torch.arange(74))
    assert torch.equal(index.reshape(-1)[where.order], where.experts)
    assert torch.equal(where.offsets, torch.bincount(index.reshape(-1), minlength=5).cumsum(0).int())
    other = torch.randn(rows.shape, generator=seed.torch_generator(0, "adjoint"), dtype=torch.float64)
    back = dispatch.combine(other, torch.ones_like(leaves["weights"]), where)
    torch.testing.assert_close((rows * other).sum(), (x * back).sum())


@pytest.mark.parametrize("run", [linear, mlp])
def test_an_empty_expert_gets_exactly_no_gradient(way: str, run: Any) -> None:
    leaves, index = problem()
    index[index == 3] = 4
    found = outcome(leaves, run(leaves, plan(index, 5)))
    for name in set(found) - {"x", "y", "weights"}:
        assert not found[name][3].any(), name
        assert found[name][4].any(), name


@pytest.mark.parametrize("run", [linear, mlp])
def test_no_tokens(way: str, run: Any) -> None:
    leaves, index = problem(tokens=0)
    found = outcome(leaves, run(leaves, plan(index, 5, capacity=1.0, priority=torch.zeros(0))))
    assert found["y"].shape[0] == 0
    assert not found["up_weight"].any()
    assert found["up_weight"].shape == (5, 24, 16)


def test_all_tokens_to_one_expert(way: str) -> None:
    leaves, index = problem(top=1)
    index.fill_(2)
    assert_same(outcome(leaves, mlp(leaves, plan(index, 5))), outcome(leaves, plain_mlp(leaves, index)), 5e-6)


def test_permuted_tokens_give_permuted_outputs(way: str) -> None:
    leaves, index = problem()
    shuffle = torch.randperm(37, generator=seed.torch_generator(0, "shuffle"))
    moved = {**leaves, "x": leaves["x"][shuffle], "weights": leaves["weights"][shuffle]}
    torch.testing.assert_close(mlp(moved, plan(index[shuffle], 5)), mlp(leaves, plan(index, 5))[shuffle])


def test_a_gradient_without_strides(way: str) -> None:
    leaves, index = problem()
    mlp(leaves, plan(index, 5)).sum().backward()
    linear(leaves, plan(index, 5)).sum().backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves.values())


@pytest.mark.parametrize("run", [linear, mlp])
def test_bf16_autocast(way: str, run: Any) -> None:
    leaves, index = problem()
    with torch.autocast("cpu", torch.bfloat16):
        y = run(leaves, plan(index, 5))
    assert y.dtype == torch.bfloat16
    found, wanted = outcome(leaves, y), outcome(leaves, run(leaves, plan(index, 5)))
    for name, value in wanted.items():
        assert name == "y" or found[name].dtype == torch.float32
        error = (found[name].float() - value).norm() / value.norm()
        assert error < 0.02, f"{name}: {error}"


def test_frozen_experts_get_no_gradient_and_the_rest_does() -> None:
    leaves, index = problem()
    wanted = outcome(leaves, mlp(leaves, plan(index, 5)))
    for name in ("up_weight", "up_bias", "down_weight"):
        leaves[name].requires_grad_(False)
        del wanted[name]
    assert_same(outcome(leaves, mlp(leaves, plan(index, 5))), wanted, 0)


@pytest.mark.parametrize("run", [linear, mlp])
def test_every_run_gives_the_same_bits(way: str, run: Any) -> None:
    leaves, index = problem(tokens=301, top=3)
    first, second = (outcome(leaves, run(leaves, plan(index, 5))) for _ in range(2))
    assert_same(first, second, 0)


@pytest.mark.parametrize("run", [linear, mlp])
def test_the_backward_pass_leaves_what_was_kept_as_it_was(way: str, run: Any) -> None:
    leaves, index = problem()
    y = run(leaves, plan(index, 5))
    used = [leaf for name, leaf in leaves.items() if run is mlp or "down" not in name]
    first, second = (torch.autograd.grad(y.sum(), used, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("run", [linear, mlp])
def test_recomputed_in_the_backward_pass_it_is_the_same(way: str, run: Any) -> None:
    leaves, index = problem()
    again = checkpoint(run, leaves, plan(index, 5), use_reentrant=False, preserve_rng_state=False)
    assert_same(outcome(leaves, again), outcome(leaves, run(leaves, plan(index, 5))), 0)


def test_many_choices_are_summed_exactly_in_bf16() -> None:
    """Sixteen rows of one token: a sum in bf16 would lose what each of the later rows adds."""
    rows = torch.full((16, 8), 1.0, dtype=torch.bfloat16)
    rows[0] = 512
    where = plan(torch.arange(16)[None], 16)
    assert torch.equal(dispatch.combine(rows, torch.ones(1, 16), where), torch.full((1, 8), 528.0).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("run", [linear, mlp])
def test_nothing_asks_the_host_on_the_way_of_accelerators(run: Any, dtype: torch.dtype) -> None:
    """Tensors without data raise as soon as somebody wants to know a value."""
    leaves, _ = problem(dtype=dtype)
    leaves = {name: leaf.detach().to("meta").requires_grad_() for name, leaf in leaves.items()}
    logits = torch.empty(37, 5, device="meta", requires_grad=True)
    leaves["weights"], index = choose(logits, 2, torch.zeros(5, device="meta"))
    real = torch.empty(37, dtype=torch.bool, device="meta")
    where = plan(index, 5, real=real, capacity=1.25, priority=leaves["weights"][:, 0])
    run(leaves, where).sum().backward()
    assert logits.grad is not None
    with pytest.raises(RuntimeError, match="meta"):
        where.offsets.tolist()


def test_sizes_and_dtypes_that_a_grouped_product_refuses_take_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    def way(width: int, dtype: torch.dtype) -> str:
        return dispatch._way(torch.empty(5, 16, width, device="meta"), dtype)

    assert way(16, torch.bfloat16) == "grouped_mm"
    assert way(12, torch.bfloat16) == "blocks"
    for dtype in (torch.float64, torch.float32, torch.float16):
        assert way(16, dtype) == "blocks"
    x, w, offsets = torch.ones(2, 5), torch.ones(2, 5, 8), torch.tensor([1, 2], dtype=torch.int32)
    with pytest.raises(RuntimeError, match="multiple of 16"):  # the reason for the rule
        F.grouped_mm(x, w, offs=offsets)
    leaves, index = problem(width=5, hidden=7)
    monkeypatch.setattr(dispatch, "_way", lambda *_: "blocks")
    assert_same(outcome(leaves, mlp(leaves, plan(index, 5))), outcome(leaves, plain_mlp(leaves, index)), 5e-6)


def test_weights_are_the_softmax_renormalised_over_the_chosen() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0], [5.0, -1.0, 5.0, 5.0]])
    weights, index = choose(logits, 2)
    assert index.tolist() == [[1, 3], [0, 2]]  # ties: the first ones
    torch.testing.assert_close(weights, torch.stack([logits[0, [1, 3]].softmax(-1), torch.tensor([0.5, 0.5])]))
    low, _ = choose(logits.bfloat16(), 2)
    assert low.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(choose(logits, 2)[0], weights)


def test_a_bias_moves_the_choice_and_not_the_weights() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]], requires_grad=True)
    bias = torch.tensor([9.0, 0.0, 8.0, 0.0], requires_grad=True)
    weights, index = choose(logits, 2, bias)
    assert index.tolist() == [[0, 2]]
    torch.testing.assert_close(weights, logits[:, [0, 2]].softmax(-1))
    weights[:, 0].sum().backward()
    assert bias.grad is None
    assert logits.grad is not None
    assert logits.grad.any()


@pytest.mark.parametrize("run", [linear, mlp])
def test_nan_logits_reach_the_output(way: str, run: Any) -> None:
    leaves, _ = problem()
    logits = torch.randn(37, 5, generator=seed.torch_generator(0, "nan"))
    logits[7, 2], logits[8, 1] = float("nan"), float("inf")
    leaves["weights"], index = choose(logits, 2)
    y = run(leaves, plan(index, 5))
    assert y[7:9].isnan().all()
    assert y[:7].isfinite().all()
    assert y[9:].isfinite().all()


def test_capacity_keeps_real_first_choices_of_high_priority() -> None:
    # Six tokens, top 2 of 3 experts: at capacity 0.5 each takes ceil(0.5 · 12 / 3) = 2 rows.
    index = torch.tensor([[0, 1], [0, 1], [0, 2], [1, 0], [0, 2], [2, 0]])
    priority = torch.tensor([0.1, 0.9, 0.5, 0.2, 0.8, 0.3])
    kept = plan(index, 3, capacity=0.5, priority=priority).kept
    assert kept is not None
    # Expert 0: tokens 1 and 4. Expert 1: the first choice of 3, then the second choice of 1 before that of 0.
    # Expert 2: the first choice of 5, then the second choice of 4 before that of 2.
    assert kept.tolist() == [[False, False], [True, True], [False, False], [True, False], [True, True], [True, False]]
    real = torch.tensor([True, False, True, True, False, True])
    kept = plan(index, 3, capacity=0.5, priority=priority, real=real).kept
    assert kept is not None
    # Padding (1 and 4) comes last: expert 0 keeps tokens 2 and 0, expert 1 tokens 3 and 0, expert 2 tokens 5 and 2.
    assert kept.tolist() == [[True, True], [False, False], [True, True], [True, False], [False, False], [True, False]]
    kept = plan(index, 3, capacity=0.5).kept
    assert kept is not None
    assert kept[:, 0].tolist() == [True, True, False, True, False, True]  # without a priority: those that come first


def test_room_for_all_keeps_all() -> None:
    _, index = problem()
    assert plan(index, 5).kept is None
    kept = plan(index, 5, capacity=5.0).kept
    assert kept is not None
    assert kept.all()


@pytest.mark.parametrize(("run", "plain"), [(linear, plain_linear), (mlp, plain_mlp)])
def test_left_out_choices_contribute_nothing(way: str, run: Any, plain: Any) -> None:
    leaves, index = problem()
    where = plan(index, 5, capacity=0.6, priority=leaves["weights"][:, 0])
    assert where.kept is not None
    assert 0 < where.kept.sum() < 74
    found = outcome(leaves, run(leaves, where))
    masked = {**leaves, "weights": leaves["weights"] * where.kept}
    assert_same(found, outcome(leaves, plain(masked, index)), 5e-6)
    assert not found["weights"][~where.kept].any()
    nowhere = ~where.kept.any(1)
    assert nowhere.any()
    assert not found["y"][nowhere].any()


def test_the_backward_pass_keeps_no_more_than_a_dense_layer() -> None:
    """Numbers kept, parameters aside, against x and two hidden rows of a dense layer of width k · h."""
    leaves, index = problem(tokens=64, width=32, hidden=48)
    where, own, kept = plan(index, 5), {leaf.data_ptr() for leaf in leaves.values()}, []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own - {leaves["x"].data_ptr()}:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        mlp(leaves, where)
        assert sum(kept) == 64 * (32 + 2 * 2 * 48)
        kept.clear()
        linear(leaves, where)
        assert sum(kept) == 64 * 32

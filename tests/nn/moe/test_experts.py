"""Merged weights give what mixing the experts' outputs gives."""

import pytest
import torch
import torch.nn.functional as F
from conditional import BY_ROW, HIDDEN, IMAGE, TEXT, WIDTH, about, draw, encoder, normal, settings
from torch import Tensor

from unified.core.errors import UserError
from unified.modalities.sequence import Attributes
from unified.nn.block import Block
from unified.nn.moe.experts import LINEARS, ConditionalLinear
from unified.nn.moe.routing import mixture

OTHER = Attributes("text", causal=True, given=("text",), family="names")
LAYOUTS = {
    "one row": [(IMAGE, 4)],
    "two rows": [(IMAGE, 3), (TEXT, 2)],
    "three rows": [(IMAGE, 2), (TEXT, 1), (OTHER, 3)],
    "two segments of one row": [(IMAGE, 2), (TEXT, 3), (IMAGE, 1)],
    "neighbours of one row": [(IMAGE, 2), (TEXT, 1), (TEXT, 2), (IMAGE, 1)],
}


def mixed(linear: ConditionalLinear, x: Tensor, gates: Tensor, rows: list[int]) -> Tensor:
    """Σ gₑ (Wₑ x + bₑ), token by token."""
    return torch.stack(
        [
            sum(gates[row, e] * (x[:, place] @ linear.weight[e].T + linear.bias[e]) for e in range(len(linear.weight)))
            for place, row in enumerate(rows)
        ],
        dim=1,
    )


def places(parts: list[tuple[Attributes, int]]) -> list[int]:
    kinds = list(dict.fromkeys(kind for kind, _ in parts))
    return [kinds.index(kind) for kind, length in parts for _ in range(length)]


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_a_layer_mixes_the_outputs_of_its_experts(name: str) -> None:
    parts = LAYOUTS[name]
    rows = places(parts)
    real = torch.ones(2, len(rows), dtype=torch.bool)
    experts = settings("attribute")
    block = encoder(experts).blocks[0]
    assert isinstance(block, Block)
    assert block.routers is not None
    segments, conditions, _ = about(experts, parts, real)
    assert len(segments) == len([r for r, before in zip(rows, [-1, *rows], strict=False) if r != before])
    gates, _ = block.routers.gates(conditions)
    layer = block.routers.apply_to(block.linears(), segments, conditions, None, None)
    for number, linear_name in enumerate(LINEARS):
        linear = block.linears()[linear_name]
        assert isinstance(linear, ConditionalLinear)
        x = normal(2, len(rows), linear.weight.shape[2])
        of_row = gates[0 if number < 2 else 1]
        found = layer.linear(linear_name, linear, x)
        wanted = mixed(linear, x, of_row, rows)
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
        weigh = torch.linspace(-1, 1, wanted.numel()).view(wanted.shape)
        leaves = [linear.weight, linear.bias, *block.routers.parameters()]
        gradients = [
            torch.autograd.grad((y * weigh).sum(), leaves, allow_unused=True, retain_graph=True)
            for y in (found, wanted)
        ]
        for a, b in zip(*gradients, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_gradients_of_merged_linears(rows: int) -> None:
    linear = draw(ConditionalLinear(3, 4, 5)).double()
    x, logits = normal(2, rows, 4, dtype=torch.float64), normal(rows, 3, name="logits", dtype=torch.float64)

    def outputs(weight: Tensor, bias: Tensor, logits: Tensor, x: Tensor) -> Tensor:
        def merged() -> list[tuple[Tensor, Tensor]]:
            found: list[tuple[Tensor, Tensor]] = torch.func.functional_call(
                Merging(linear), {"linear.weight": weight, "linear.bias": bias}, (mixture(logits, 2),)
            )
            return found

        return torch.stack([F.linear(x[:, row], *each) for row, each in enumerate(merged())])

    leaves = [linear.weight.detach(), linear.bias.detach(), logits, x]
    assert torch.autograd.gradcheck(outputs, [leaf.requires_grad_() for leaf in leaves])


class Merging(torch.nn.Module):
    """`ConditionalLinear.merged` as the forward of a module."""

    def __init__(self, linear: ConditionalLinear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, gates: Tensor) -> list[tuple[Tensor, Tensor]]:
        return self.linear.merged(gates)


def test_an_expert_alone_is_an_ordinary_linear_and_others_get_no_gradient() -> None:
    linear, x = draw(ConditionalLinear(3, WIDTH, HIDDEN)), normal(4, WIDTH)
    ((weight, bias),) = linear.merged(torch.tensor([[0.0, 1.0, 0.0]]))
    assert torch.equal(F.linear(x, weight, bias), F.linear(x, linear.weight[1], linear.bias[1]))
    F.linear(x, weight, bias).square().sum().backward()
    assert linear.weight.grad is not None
    assert linear.weight.grad.flatten(1).abs().sum(1).gt(0).tolist() == [False, True, False]


def test_merging_is_exact_under_autocast() -> None:
    linear, gates = draw(ConditionalLinear(3, 4, 5)), torch.rand(2, 3)
    plain = linear.merged(gates)
    with torch.autocast("cpu", torch.bfloat16):
        cast = linear.merged(gates)
    for a, b in zip(plain, cast, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_matrices_of_experts_are_drawn_each_on_its_own() -> None:
    torch.manual_seed(0)
    linear = ConditionalLinear(4, 64, 192, parts=3)
    bound = (6 / (64 + 64)) ** 0.5
    assert len(linear.matrices()) == 12
    assert all(matrix.shape == (64, 64) for matrix in linear.matrices())
    assert all(float(matrix.abs().max()) == pytest.approx(bound, rel=0.02) for matrix in linear.matrices())
    assert not torch.equal(linear.weight[0], linear.weight[1])


@pytest.mark.parametrize("router", BY_ROW)
def test_usage_is_the_gates_times_the_real_tokens_of_each_row(router: str) -> None:
    experts = settings(router)
    real = torch.tensor([[True] * 5, [True, True, False, True, False]])
    made = encoder(experts)
    segments, conditions, _ = about(experts, LAYOUTS["two rows"], real)
    output = made(normal(2, 5, WIDTH), real, segments, conditions=conditions)
    assert len(output.routing) == 2
    for layer, usage in zip(made.conditional_layers().values(), output.routing, strict=True):
        gates, _ = layer.gates(conditions)
        torch.testing.assert_close(usage.load, gates[:, 0] * 5 + gates[:, 1] * 3)
        torch.testing.assert_close(usage.load.sum(1), torch.full((2,), 8.0))
        assert usage.tokens.tolist() == [8, 8]
        torch.testing.assert_close(usage.probability.sum(1), torch.full((2,), 8.0))


@pytest.mark.parametrize("router", ["token", "context"])
def test_usage_of_tokens_leaves_padding_out(router: str) -> None:
    experts = settings(router)
    real = torch.tensor([[True] * 5, [True, True, False, True, False]])
    made, x = encoder(experts), normal(2, 5, WIDTH)
    segments, conditions, _ = about(experts, LAYOUTS["two rows"], real)
    output = made(x, real, segments, conditions=conditions)
    for usage in output.routing:
        torch.testing.assert_close(usage.load.sum(1), torch.full((2,), 8.0))
        torch.testing.assert_close(usage.probability.sum(1), torch.full((2,), 8.0))
        assert usage.tokens.tolist() == [8, 8]
        assert usage.probability.requires_grad
    again = made(torch.where(real[..., None], x, 50.0), real, segments, conditions=conditions)
    for usage, other in zip(output.routing, again.routing, strict=True):
        torch.testing.assert_close(usage.load, other.load)
        torch.testing.assert_close(usage.probability, other.probability)


def test_the_capacity_leaves_out_the_least_certain_tokens_of_a_full_expert() -> None:
    """With room for all nothing changes; with little, some tokens are left unchanged by the branch."""
    real = torch.ones(2, 5, dtype=torch.bool)
    outputs = []
    for capacity in (None, 4.0, 0.25):
        experts = settings("token", capacity=capacity, linears=("up", "down"))
        segments, conditions, _ = about(experts, LAYOUTS["two rows"], real)
        outputs.append(encoder(experts)(normal(2, 5, WIDTH), real, segments, conditions=conditions).states)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_layers_with_experts_say_what_they_need() -> None:
    made = encoder(settings("attribute"))
    segments, _, _ = about(settings("attribute"), [(IMAGE, 4)], torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(AssertionError, match="needs to know what its tokens are"):
        made(normal(1, 4, WIDTH), None, segments)


def test_an_infinite_router_is_told_at_the_gate() -> None:
    experts = settings("attribute")
    made = encoder(experts)
    with torch.no_grad():
        made.get_parameter("blocks.1.routers.mlp.gate.weight").fill_(torch.inf)
    segments, conditions, _ = about(experts, [(IMAGE, 4)], torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(UserError, match=r"encoder\.blocks\.1\.routers: .*not finite"):
        made(normal(1, 4, WIDTH), None, segments, conditions=conditions)


@pytest.mark.parametrize("shared", [True, False])
def test_the_mlp_of_an_expert_may_have_a_width_of_its_own(shared: bool) -> None:
    """Only where tokens go through the whole MLP of an expert at once."""
    block = encoder(settings("token", hidden=8, shared_decisions=shared)).blocks[0]
    assert isinstance(block, Block)
    assert block.get_parameter("mlp.up.weight").shape == (4, 8 if shared else HIDDEN, WIDTH)
    assert block.get_parameter("mlp.down.weight").shape == (4, WIDTH, 8 if shared else HIDDEN)

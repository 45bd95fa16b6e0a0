"""Gates against a plain restatement of the published formula."""

import math
from dataclasses import replace

import pytest
import torch
from conditional import FAMILIES, IMAGE, ROUTERS, TEXT, WIDTH, about, draw, encoder, normal, settings
from torch import Tensor, nn

from unified.core.errors import UserError
from unified.core.types import Conditions
from unified.modalities.sequence import Attributes
from unified.model.routing_attributes import BITS, Conditioner, bits
from unified.nn.moe.experts import ConditionalLayer, Experts
from unified.nn.moe.routing import AttributeRouter, ContextRouter, HashRouter, TokenRouter, mixture

REAL = torch.ones(2, 5, dtype=torch.bool)
PARTS = [(IMAGE, 3), (TEXT, 2)]


def restated(logits: Tensor, top: int) -> Tensor:
    """§ softmax over all experts, renormalised over the largest; the denominator clamped at eps."""
    rows = []
    for row in logits.tolist():
        most = max(row)
        p = [math.exp(value - most) for value in row]
        p = [value / sum(p) for value in p]
        chosen = sorted(range(len(p)), key=lambda e: -row[e])[:top]
        total = max(sum(p[e] for e in chosen), torch.finfo(torch.float32).eps)
        rows.append([p[e] / total if e in chosen else 0.0 for e in range(len(p))])
    return torch.tensor(rows)


def conditions(router: str) -> Conditions:
    return about(settings(router), PARTS, REAL)[1]


def routers(router: str, **changes: object) -> ConditionalLayer:
    return encoder(settings(router, **changes)).conditional_layers()[0]


@pytest.mark.parametrize("top", [1, 2, 3, 5])
def test_gates_are_the_softmax_over_all_experts_renormalised_over_the_chosen(top: int) -> None:
    logits = 2 * normal(7, 5)
    found = mixture(logits, top)
    torch.testing.assert_close(found, restated(logits, top), atol=1e-6, rtol=0)
    assert (found > 0).sum(dim=1).tolist() == [top] * 7
    torch.testing.assert_close(found.sum(dim=1), torch.ones(7))


def test_all_experts_are_a_plain_softmax_and_one_has_all_the_weight() -> None:
    logits = normal(3, 4)
    torch.testing.assert_close(mixture(logits, 4), logits.softmax(dim=1))
    assert mixture(logits, 1).max(dim=1).values.tolist() == [1.0, 1.0, 1.0]


def test_logits_far_apart_stay_finite_with_their_gradients() -> None:
    logits = torch.tensor([[0.0, -1e4, -2e4], [1e30, -1e30, 0.0]], requires_grad=True)
    gates = mixture(logits, 2)
    gates.square().sum().backward()
    assert gates.detach().tolist() == [[1, 0, 0], [1, 0, 0]]
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(UserError, match=r"not finite.*lower optim\.lr"):
        mixture(torch.tensor([[0.0, value]]), 1)


def test_gates_have_a_shape_on_devices_without_values() -> None:
    assert mixture(torch.empty(3, 4, device="meta"), 2).shape == (3, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top": 5}, "top 5 of 4 experts: expected 1 to 4"),
        ({"top": 0}, "top 0 of 4"),
        ({"linears": ()}, "no linear is conditional; expected some of: qkv, out, up, down"),
        ({"linears": ("qkv", "ffn")}, r"no linear is called \['ffn'\]; there are: qkv, out, up, down"),
    ],
)
def test_numbers_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Experts(**{"count": 4, "top": 2, "router": "token", **changes})  # type: ignore[arg-type]


def test_an_unknown_router_is_answered_with_those_there_are() -> None:
    with pytest.raises(UserError, match="'tokens' does not exist; there are: attribute, context, hash, modality"):
        ConditionalLayer(Experts(4, 2, "tokens"), WIDTH, WIDTH, 0)


def test_noise_moves_both_the_choice_and_the_weights() -> None:
    layer, asked = routers("attribute", noise=0.5), conditions("attribute")
    noise = 40 * normal(2, 3, 4)  # one row more than there are: the sequence of another pass may have it
    quiet, logits = layer.gates(asked)
    found, noisy = layer.gates(asked, noise)
    torch.testing.assert_close(noisy, logits + noise[:, :2] * 0.5 / 4)
    torch.testing.assert_close(found.flatten(0, 1), restated(noisy.detach().flatten(0, 1), 2), atol=1e-6, rtol=0)
    assert not torch.equal(found > 0, quiet > 0)


def test_a_hash_router_has_no_noise() -> None:
    layer, asked = routers("hash"), conditions("hash")
    assert torch.equal(layer.gates(asked, normal(2, 2, 4))[0], layer.gates(asked)[0])


def test_attribute_routers_are_the_published_gate() -> None:
    router = draw(AttributeRouter(8, WIDTH, 4))
    asked = conditions("attribute")
    h = asked.values @ router.transform.weight.T + router.transform.bias
    mean, spread = h.mean(1, keepdim=True), h.var(1, unbiased=False, keepdim=True)
    h = (h - mean) / (spread + router.norm.eps).sqrt() * router.norm.weight + router.norm.bias
    torch.testing.assert_close(router(asked), h @ router.gate.weight.T)


@pytest.mark.parametrize("router", ["attribute", "task", "modality", "hash"])
def test_gates_are_the_same_bit_for_bit_under_autocast(router: str) -> None:
    layer, asked = routers(router), conditions(router)
    exact, logits = layer.gates(asked)
    with torch.autocast("cpu", torch.bfloat16):
        found, noisy = layer.gates(asked)
    assert exact.dtype == found.dtype == noisy.dtype == torch.float32
    assert torch.equal(found, exact)
    assert torch.equal(noisy, logits)


@pytest.mark.parametrize("kind", [TokenRouter, ContextRouter])
def test_token_choices_are_the_same_bit_for_bit_under_autocast(kind: type[TokenRouter]) -> None:
    router, x = draw(kind(WIDTH, 4, 2, True)), normal(2, 5, WIDTH)
    exact = router(x, REAL)
    with torch.autocast("cpu", torch.bfloat16):
        found = router(x, REAL)
    assert all(torch.equal(a, b) for a, b in zip(found, exact, strict=True) if a is not None)
    assert found.logits.dtype == torch.float32
    half = router.bfloat16()(x.bfloat16(), REAL)
    assert half.logits.dtype == half.weights.dtype == torch.float32


def test_the_context_is_the_pool_of_common_tokens_alone() -> None:
    router, x = draw(ContextRouter(WIDTH, 4, 2, False)), normal(2, 5, WIDTH)
    common = torch.tensor([[True, True, True, False, False], [True, False, True, True, False]])
    found = router(x, common).context
    for sample in range(2):
        seen = x[sample][common[sample]]
        share = (seen @ router.query / WIDTH**0.5).softmax(0)
        torch.testing.assert_close(found[sample], share @ seen)
    changed = torch.where(common[..., None], x, 1e6)
    assert torch.equal(router(changed, common).context, found)
    logits = torch.cat([x, found[:, None].expand_as(x)], dim=-1) @ router.gate.weight.T
    torch.testing.assert_close(router(x, common).logits, logits.flatten(0, 1))
    again = router(x[:, :1], common[:, :1], found)
    torch.testing.assert_close(again.logits, logits[:, 0])


def test_the_bias_moves_the_choice_and_not_the_weights_and_has_no_gradient() -> None:
    router, x = draw(TokenRouter(WIDTH, 4, 1, True)), normal(1, 6, WIDTH)
    assert not any("bias" in name for name, _ in router.named_parameters())
    assert "bias" in router.state_dict()
    assert router.bias is not None
    router.bias.copy_(torch.tensor([0.0, 0.0, 5.0, 0.0]))
    choice = router(x, REAL[:1, :1].expand(1, 6))
    assert choice.experts.unique().tolist() == [2]
    assert TokenRouter(WIDTH, 4, 1, False).bias is None


def test_a_hash_router_is_a_fixed_draw_of_equal_weights_that_differs_between_layers() -> None:
    asked = Conditioner(settings("hash"), FAMILIES).conditions([f"{n:08b}" for n in range(32)], torch.device("cpu"))
    first, again, other = (HashRouter(8, 2, name) for name in ("0 mlp", "0 mlp", "1 mlp"))
    gates = mixture(first(asked), 2)
    assert gates.unique().tolist() == [0.0, 0.5]
    assert torch.equal(gates, mixture(again(asked), 2))
    assert not torch.equal(gates, mixture(other(asked), 2))
    assert (gates.sum(dim=0) > 0).all()
    assert not list(first.parameters())


@pytest.mark.parametrize("router", ROUTERS)
def test_routers_have_the_parameters_that_files_name(router: str) -> None:
    own = {
        "attribute": {"transform.weight", "transform.bias", "norm.weight", "norm.bias", "gate.weight"},
        "task": {"embedding.weight", "norm.weight", "norm.bias", "gate.weight"},
        "modality": {"embedding.weight", "norm.weight", "norm.bias", "gate.weight"},
        "token": {"gate.weight", "bias"},
        "context": {"gate.weight", "query", "bias"},
        "hash": set(),
    }[router]
    for shared, names in ((True, ("attention", "mlp")), (False, ("qkv", "out", "up", "down"))):
        layer = routers(router, shared_decisions=shared, bias_rate=0.01 if router in ("token", "context") else 0.0)
        assert set(layer.state_dict()) == {f"{name}.{part}" for name in names for part in own}


def test_appended_bits_start_without_effect() -> None:
    published = Conditioner(settings("attribute"), FAMILIES)
    longer = Conditioner(settings("attribute", bits=("query", "modality:text")), FAMILIES)
    kinds = [Attributes("text", "query", causal=True, given=("image", "text")), replace(TEXT, role="query"), IMAGE]
    keys = [[bits(kind, extra) for kind in kinds] for extra in ((), ("query", "modality:text"))]
    assert [len(word) for row in keys for word in row] == [8] * 3 + [10] * 3
    assert [word[8:] for word in keys[1]] == ["11", "11", "00"]
    router, wider = draw(AttributeRouter(len(BITS), WIDTH, 4)), AttributeRouter(len(BITS) + 2, WIDTH, 4)
    with torch.no_grad():
        weights = router.state_dict()
        weights["transform.weight"] = nn.functional.pad(weights["transform.weight"], (0, 2))
    wider.load_state_dict(weights)
    cpu = torch.device("cpu")
    torch.testing.assert_close(
        router(published.conditions(keys[0], cpu)), wider(longer.conditions(keys[1], cpu)), atol=1e-6, rtol=0
    )

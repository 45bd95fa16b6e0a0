"""Encoders with experts in every place and by every router."""

import itertools
from typing import Any

import pytest
import torch
from conditional import (
    BY_ROW,
    BY_TOKEN,
    DEPTH,
    FAMILIES,
    HEADS,
    HIDDEN,
    IMAGE,
    ROUTERS,
    TEXT,
    WIDTH,
    about,
    encoder,
    normal,
    settings,
)
from torch import Tensor

from unified.modalities.sequence import Attributes, visibility
from unified.model.routing_attributes import layers
from unified.nn.block import Block
from unified.nn.encoder import Encoder, EncoderOutput, Noise
from unified.nn.moe.experts import LINEARS, ConditionalLinear

PARTS = [(IMAGE, 3), (TEXT, 4)]
REAL = torch.tensor([[True] * 7, [True, False, True, True, True, False, False]])
SUBSETS = [names for count in range(1, 5) for names in itertools.combinations(LINEARS, count)]


def run(made: Encoder, experts: dict[str, Any], x: Tensor | None = None, noise: Noise | None = None) -> EncoderOutput:
    segments, conditions, _ = about(experts, PARTS, REAL)
    x = normal(2, 7, WIDTH) if x is None else x
    return made(x, REAL, segments, conditions=conditions, noise=noise)


def learned(made: Encoder, output: EncoderOutput) -> dict[str, Tensor]:
    """The gradients of a loss that weighs every state of a real token differently."""
    made.zero_grad()
    weigh = torch.linspace(-1, 1, output.states.numel()).view(output.states.shape)
    (output.states * weigh)[REAL].sum().backward()
    return {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("router", ROUTERS)
def test_every_choice_of_linears_learns_and_reloads(router: str, shared: bool) -> None:
    for linears in SUBSETS:
        experts = settings(router, linears=linears, shared_decisions=shared, layers=[0])
        made = encoder(experts, depth=1)
        output = run(made, experts)
        gradients = learned(made, output)
        for number, (block, usage) in enumerate(zip(made.blocks, output.routing, strict=True)):
            assert isinstance(block, Block)
            assert block.routers is not None
            conditional = {n: m for n, m in block.linears().items() if isinstance(m, ConditionalLinear)}
            assert tuple(conditional) == linears
            for name, linear in conditional.items():
                decision = list(block.routers).index(block.routers.experts.decision(name))
                assert linear.weight.grad is not None
                reached = linear.weight.grad.flatten(1).abs().sum(1) > 0
                assert torch.equal(reached, usage.load[decision] > 0), f"{linears}, layer {number}, {name}"
            for name, parameter in block.routers.named_parameters():
                assert parameter.grad is not None, name
                # A bias that every row's logits share has no effect on a softmax: only its sum may vanish.
                assert parameter.grad.abs().sum() > 0, name
        assert set(gradients) == {name for name, _ in made.named_parameters()}
        other = Encoder(WIDTH, 1, HEADS, HIDDEN, None, made.conditional_layers()[0].experts, experts["layers"])
        other.load_state_dict(made.state_dict())
        assert torch.equal(run(other, experts).states, output.states)


def test_routers_by_name_learn_the_rows_that_are_used() -> None:
    experts = settings("task")
    made = encoder(experts)
    segments, conditions, _ = about(experts, [(TEXT, 7)], REAL)
    learned(made, made(normal(2, 7, WIDTH), REAL, segments, conditions=conditions))
    table = made.get_parameter("blocks.0.routers.attention.embedding.weight").grad
    assert table is not None
    assert (table.abs().sum(1) > 0).tolist() == [name == TEXT.family for name in FAMILIES]


@pytest.mark.parametrize(
    ("where", "numbers"),
    [("even", [0, 2, 4]), ("odd", [1, 3]), ("all", [0, 1, 2, 3, 4]), ((4, 1, 1), [1, 4])],
)
def test_layers_with_experts_are_those_that_are_named(where: Any, numbers: list[int]) -> None:
    assert layers(where, 5) == numbers
    made = encoder({**settings("attribute"), "layers": layers(where, 5)}, depth=5)
    assert list(made.conditional_layers()) == numbers
    assert len(run(made, settings("attribute")).routing) == len(numbers)


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the rows that are merged."""
    counted: list[int] = []
    merged = ConditionalLinear.merged

    def spy(self: ConditionalLinear, gates: Tensor) -> Any:
        counted.append(len(gates))
        return merged(self, gates)

    monkeypatch.setattr(ConditionalLinear, "merged", spy)
    return counted


@pytest.mark.parametrize("router", BY_ROW)
def test_sharing_changes_neither_outputs_nor_gradients_and_merges_once(router: str, merges: list[int]) -> None:
    experts = settings(router)
    made = encoder(experts)
    first, second = normal(2, 7, WIDTH), normal(2, 7, WIDTH, name="second")
    alone = [run(made, experts, x).states for x in (first, second)]
    rows = 1 if router == "hash" and len(set(about(experts, PARTS, REAL)[1].keys)) == 1 else 2
    assert merges == [rows] * (2 * 4 * DEPTH)
    made.zero_grad()
    (alone[0].square().sum() + alone[1].square().sum()).backward()
    wanted = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    merges.clear()
    with made.sharing() as passes:
        together = [run(made, experts, x).states for x in (first, second)]
    assert merges == [rows] * (4 * DEPTH)
    assert len(passes) == 2
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    made.zero_grad()
    (together[0].square().sum() + together[1].square().sum()).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, wanted[name], atol=2e-4, rtol=1e-4)


def test_nested_sharing_is_one_sharing_and_collects_all_passes(merges: list[int]) -> None:
    experts = settings("attribute")
    made = encoder(experts)
    with made.sharing() as outer:
        run(made, experts)
        with made.sharing() as inner:
            run(made, experts)
            run(made, experts)
        run(made, experts)
    assert len(merges) == 4 * DEPTH
    assert (len(outer), len(inner)) == (4, 2)
    assert all(len(usages) == DEPTH for usages in outer)


def test_nothing_is_kept_after_sharing_and_changed_weights_are_seen(merges: list[int]) -> None:
    experts = settings("attribute")
    made = encoder(experts)
    with made.sharing():
        before = run(made, experts).states
    assert all(layer.shared is None for layer in made.conditional_layers().values())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.1)
    with made.sharing():
        after = run(made, experts).states
    assert not torch.equal(before, after)
    assert len(merges) == 2 * 4 * DEPTH
    with pytest.raises(ZeroDivisionError), made.sharing():
        raise ZeroDivisionError
    assert all(layer.shared is None for layer in made.conditional_layers().values())


def test_what_was_merged_without_a_graph_is_not_learned_from() -> None:
    experts = settings("attribute")
    made = encoder(experts)
    with made.sharing():
        with torch.no_grad():
            run(made, experts)
        gradients = learned(made, run(made, experts))
    assert gradients["blocks.0.mlp.up.weight"].abs().sum() > 0


def test_rows_are_shared_where_the_noise_is_the_same(merges: list[int]) -> None:
    experts = settings("attribute")
    made = encoder(experts)
    noise, other = (Noise(gates=9 * normal(DEPTH, 2, 3, 4, name=name)) for name in ("one", "two"))
    with made.sharing():
        states = [run(made, experts, noise=each).states for each in (noise, noise.rows(torch.tensor([0, 1])), other)]
        quiet = run(made, experts).states
    assert len(merges) == 3 * 4 * DEPTH
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert not torch.equal(states[0], quiet)
    assert torch.equal(states[2], run(made, experts, noise=other).states)


def test_each_layer_has_its_own_part_of_the_noise() -> None:
    """Dense layers between those with experts take none of it."""
    experts = {**settings("attribute"), "layers": [1, 3]}
    made = encoder(experts, depth=4)
    noise = 9 * normal(2, 2, 2, 4)
    segments, conditions, _ = about(experts, PARTS, REAL)
    output = made(normal(2, 7, WIDTH), REAL, segments, conditions=conditions, noise=Noise(gates=noise))
    for (_, layer), usage, own in zip(made.conditional_layers().items(), output.routing, noise, strict=True):
        gates, _ = layer.gates(conditions, own)
        torch.testing.assert_close(usage.load, (gates * conditions.tokens[:, None]).sum(1))


@pytest.mark.parametrize("router", ROUTERS)
def test_recomputed_activations_give_the_same_gradients(router: str) -> None:
    experts = settings(router)
    made = encoder(experts).train()
    noise = Noise(gates=9 * normal(DEPTH, 2, 2, 4))
    outcomes = []
    for made.gradient_checkpointing in (False, True):
        with made.sharing():
            states = run(made, experts, noise=noise), run(made, experts, 2 * normal(2, 7, WIDTH), noise=noise)
        made.zero_grad()
        balance = sum(usage.probability.square().sum() for usage in states[0].routing)
        (states[0].states.square().sum() + states[1].states.square().sum() + balance).backward()
        outcomes.append({name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None})
    assert outcomes[0].keys() == outcomes[1].keys()
    for name, gradient in outcomes[0].items():
        torch.testing.assert_close(outcomes[1][name], gradient, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("router", ROUTERS)
def test_the_same_input_gives_the_same_outputs_and_gradients_bit_for_bit(router: str) -> None:
    experts = settings(router)
    outcomes = []
    for _ in range(2):
        made = encoder(experts)
        output = run(made, experts)
        outcomes.append({"states": output.states.detach(), **learned(made, output)})
    assert outcomes[0].keys() == outcomes[1].keys()
    assert all(torch.equal(outcomes[0][name], outcomes[1][name]) for name in outcomes[0])


@pytest.mark.parametrize("router", ROUTERS)
def test_a_sample_does_not_depend_on_those_beside_it_nor_on_padding(router: str) -> None:
    experts = settings(router)
    made, x = encoder(experts), normal(2, 7, WIDTH)
    together = run(made, experts, x).states
    changed = run(made, experts, torch.where(REAL[..., None], x, 30.0)).states
    torch.testing.assert_close(changed[REAL], together[REAL], atol=1e-5, rtol=0)
    for sample in range(2):
        real = REAL[sample][None]
        segments, conditions, _ = about(experts, PARTS, real)
        alone = made(x[sample][None], real, segments, conditions=conditions).states
        torch.testing.assert_close(alone[real], together[sample][None][real], atol=1e-5, rtol=0)


@pytest.mark.parametrize("router", ROUTERS)
def test_states_of_words_never_depend_on_later_words(router: str) -> None:
    """Words and their queries in one pass, as captions are learned."""
    given = ("image", "text")
    words = Attributes("text", causal=True, given=given, family="words")
    query = Attributes("text", "query", causal=True, given=given, family="words")
    experts = settings(router)
    made, x = encoder(experts), normal(2, 11, WIDTH)
    real = torch.ones(2, 11, dtype=torch.bool)
    segments, conditions, whole = about(experts, [(IMAGE, 3), (words, 4), (query, 4)], real)
    mask = visibility(whole, torch.device("cpu"))
    assert mask is not None
    mask = mask.expand(2, -1, -1)
    states = made(x, mask, segments, conditions=conditions).states
    changed = x.clone()
    changed[:, 3 + 2] = normal(2, WIDTH, name="another word")
    after = made(changed, mask, segments, conditions=conditions).states
    blind = [0, 1, 2, 3, 4, 7, 8, 9]  # the image, words 0 and 1, queries 0 to 2
    torch.testing.assert_close(after[:, blind], states[:, blind], atol=1e-6, rtol=0)
    for place in (5, 6, 10):
        assert (after[:, place] - states[:, place]).abs().max() > 1e-4


@pytest.mark.parametrize("router", BY_TOKEN)
def test_tokens_of_one_row_go_to_different_experts(router: str) -> None:
    experts = settings(router, top=1)
    made = encoder(experts)
    assert ((run(made, experts).routing[0].load > 0).sum(1) > 1).all()


@pytest.mark.parametrize("router", ROUTERS)
def test_states_under_autocast_are_near_the_exact_ones(router: str) -> None:
    experts = settings(router)
    made = encoder(experts)
    exact = run(made, experts).states
    with torch.autocast("cpu", torch.bfloat16):
        found = run(made, experts)
        gradients = learned(made, found)
    apart = (found.states.float() - exact).abs()
    assert apart.mean() < 0.05
    if router in BY_ROW:  # rounding may send a token elsewhere, never a row
        assert apart.max() < 0.15
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    half = made.bfloat16()
    assert run(half, experts, normal(2, 7, WIDTH).bfloat16()).states.dtype == torch.bfloat16

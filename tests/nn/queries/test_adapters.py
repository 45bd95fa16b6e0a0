"""What tasks share: the gated ladder and the shared attention map against plain formulas; what they cost."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unified.core import seed
from unified.core.errors import UserError
from unified.nn.queries.adapters import ChannelGate, LadderProjector, Refine, SharedAttention, SharedMemory, SpatialGate
from unified.nn.queries.decoder import QueryDecoder
from unified.nn.queries.modules import MapHead, PresenceHead

WIDTH, HEADS = 32, 4


def normal(*shape: int, key: str = "x") -> Tensor:
    return torch.randn(shape, generator=seed.torch_generator(0, key, *shape))


def stirred(module: nn.Module) -> nn.Module:
    """No bias 0, no scale 1: where a mistake would hide."""
    with seed.seeded(0, "stirred"):
        for parameter in module.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def plain_block(x: Tensor, block: nn.Module) -> Tensor:
    """Pre-norm, two heads, of one sample."""
    y = F.layer_norm(x, x.shape[-1:], block.norm1.weight, block.norm1.bias)
    q, k, v = (y @ part.weight.T for part in (block.query, block.key, block.value))
    size, mixed = q.shape[-1] // block.heads, []
    for head in range(block.heads):
        columns = slice(head * size, (head + 1) * size)
        mixed.append((q[:, columns] @ k[:, columns].T / math.sqrt(size)).softmax(dim=1) @ v[:, columns])
    x = x + torch.cat(mixed, dim=1) @ block.out.weight.T + block.out.bias
    y = F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias)
    return x + F.gelu(y @ block.up.weight.T + block.up.bias) @ block.down.weight.T + block.down.bias


def test_ladder_is_the_published_recurrence() -> None:
    ladder = stirred(LadderProjector(WIDTH, levels=4, reduction=4, heads=2))
    states = [normal(2, 6, WIDTH, key=str(level)) for level in range(4)]
    with torch.no_grad():
        found = ladder(states)
        for sample in range(2):
            reduced = [z[sample] @ r.weight.T + r.bias for z, r in zip(states, ladder.reduce, strict=True)]
            f = reduced[0]
            for i in range(1, 4):
                s = 1 / (1 + math.exp(-ladder.gate[i - 1].item()))
                f = plain_block(s * f + (1 - s) * reduced[i], ladder.blocks[i - 1])
            expected = f @ ladder.out.weight.T + ladder.out.bias
            torch.testing.assert_close(found[sample], expected, atol=1e-5, rtol=1e-5)


def test_gates_of_the_ladder_begin_in_the_middle_and_choose_levels() -> None:
    ladder = LadderProjector(WIDTH, levels=2, reduction=4, heads=2)
    assert ladder.gate.tolist() == [0.0]
    low, high, other = (normal(1, 5, WIDTH, key=key) for key in ("low", "high", "other"))
    with torch.no_grad():
        ladder.gate.fill_(40.0)
        torch.testing.assert_close(ladder([low, high]), ladder([low, other]))
        ladder.gate.fill_(-40.0)
        torch.testing.assert_close(ladder([low, high]), ladder([other, high]))
    ladder.reset()
    assert ladder.gate.tolist() == [0.0]


@pytest.mark.parametrize("refine", ["none", "se", "cbam"])
def test_all_of_a_ladder_learns(refine: Refine) -> None:
    ladder = stirred(LadderProjector(WIDTH, levels=3, reduction=2, heads=2, refine=refine))
    states = [normal(2, 6, WIDTH, key=str(level)).requires_grad_() for level in range(3)]
    ladder(states, grid=(2, 3)).square().sum().backward()
    for name, parameter in [*ladder.named_parameters(), *((str(i), z) for i, z in enumerate(states))]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("refine", ["none", "se"])
def test_padding_does_not_reach_real_tokens_of_a_ladder(refine: Refine) -> None:
    ladder = stirred(LadderProjector(WIDTH, levels=3, reduction=2, heads=2, refine=refine))
    states = [normal(2, 6, WIDTH, key=str(level)) for level in range(3)]
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    found = ladder(states, mask)
    torch.testing.assert_close(found[1:, :4], ladder([z[1:, :4] for z in states]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:1], ladder([z[:1] for z in states]), atol=1e-5, rtol=1e-5)


def test_gates_of_channels_and_positions() -> None:
    x = normal(2, 6, WIDTH)
    for maximum in (False, True):
        gate = stirred(ChannelGate(WIDTH, maximum=maximum))
        pooled = [x.mean(1), x.amax(1)][: 1 + maximum]
        logits = sum(gate.up(F.relu(gate.down(p))) for p in pooled)
        torch.testing.assert_close(gate(x, None), x * torch.sigmoid(logits)[:, None])  # type: ignore[arg-type]
        padded, mask = torch.cat([x, 99 * x], dim=1), torch.arange(12).expand(2, 12) < 6
        torch.testing.assert_close(gate(padded, mask)[:, :6], gate(x, None))
    gate = stirred(SpatialGate())
    image = x.transpose(1, 2).unflatten(2, (2, 3))
    seen = torch.cat([image.mean(1, keepdim=True), image.amax(1, keepdim=True)], dim=1)
    torch.testing.assert_close(gate(x, (2, 3)), (image * gate.convolution(seen).sigmoid()).flatten(2).transpose(1, 2))


def test_a_ladder_says_what_it_was_made_for() -> None:
    states = [normal(1, 6, WIDTH)] * 3
    with pytest.raises(UserError, match="states of 3 levels: this projector was made for 4"):
        LadderProjector(WIDTH, 4, 4, 2)(states)
    with pytest.raises(UserError, match="6 states in a grid of None"):
        LadderProjector(WIDTH, 3, 4, 2, "cbam")(states)


def test_shared_attention_of_one_group_is_plain_attention() -> None:
    made = stirred(SharedAttention(WIDTH, HEADS, groups=1))
    reference, memory = normal(2, 5, WIDTH, key="reference"), normal(2, 7, WIDTH, key="memory")
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, 5:] = False

    def heads(x: Tensor) -> Tensor:
        return x.view(2, -1, HEADS, WIDTH // HEADS).transpose(1, 2)

    q, k, v = heads(made.query(reference)), heads(made.key(memory)), heads(made.values[0](memory))
    for chosen in (None, mask):
        attended = F.scaled_dot_product_attention(q, k, v, None if chosen is None else chosen[:, None, None])
        expected = made.outs[0](attended.transpose(1, 2).reshape(2, 5, WIDTH))
        [found] = made(reference, memory, [memory], [0], chosen)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_groups_have_their_own_values_under_one_map() -> None:
    made = stirred(SharedAttention(WIDTH, HEADS, groups=3))
    reference, memory = normal(2, 5, WIDTH, key="reference"), normal(2, 7, WIDTH, key="memory")
    together = made(reference, memory, [memory] * 3, [0, 1, 2])
    for group in range(3):
        [alone] = made(reference, memory, [memory], [group])
        torch.testing.assert_close(together[group], alone, atol=1e-5, rtol=1e-5)
    made.values[2].load_state_dict(made.values[0].state_dict())
    made.outs[2].load_state_dict(made.outs[0].state_dict())
    first, second, third = made(reference, memory, [memory] * 3, [0, 1, 2])
    torch.testing.assert_close(third, first)  # identical values, identical outputs
    assert (second - first).abs().max() > 1e-3


def test_the_loss_of_a_group_teaches_the_reference_and_no_other_group() -> None:
    made = stirred(SharedAttention(WIDTH, HEADS, groups=3))
    reference = normal(2, 5, WIDTH, key="reference").requires_grad_()
    memory = normal(2, 7, WIDTH, key="memory")
    made(reference, memory, [memory] * 3, [0, 1, 2])[1].square().sum().backward()
    assert reference.grad is not None
    for part in (reference.grad, made.query.weight.grad, made.key.weight.grad, made.values[1].weight.grad):
        assert part is not None
        assert part.abs().max() > 0
    for other in (0, 2):
        grad = made.values[other].weight.grad
        assert grad is None or not grad.any()
        assert made.outs[other].weight.grad is None
    with pytest.raises(UserError, match="1 streams for 2 groups"):
        made(reference, memory, [memory], [0, 1])


def test_shared_memory_adds_to_the_states_of_the_trunk() -> None:
    made, memory = stirred(SharedMemory(WIDTH, HEADS, groups=2)), normal(2, 7, WIDTH)
    first, second = made(memory, [0, 1])
    normed = made.norm(memory)
    [added] = made.attention(normed, normed, [normed], [1])
    torch.testing.assert_close(second, memory + added, atol=1e-5, rtol=1e-5)
    assert (second - first).abs().max() > 1e-3


def test_structures_have_the_parameters_of_their_formulas() -> None:
    width, narrow, levels = 768, 96, 13
    block = 4 * narrow + 3 * narrow**2 + (narrow**2 + narrow) + (8 * narrow**2 + 5 * narrow)
    ladder = levels * (width * narrow + narrow) + (levels - 1) * (block + 1) + narrow * width + width
    assert count(LadderProjector(width, levels, 8, 2)) == ladder
    assert count(LadderProjector(width, levels, 8, 2, "se")) == ladder + levels * (2 * 6 * narrow + 6 + narrow)
    assert count(LadderProjector(width, levels, 8, 2, "cbam")) == ladder + levels * (
        2 * 6 * narrow + 6 + narrow + 2 * 49 + 1
    )
    assert count(SharedAttention(width, 12, 3)) == (2 + 2 * 3) * (width**2 + width)
    d, hidden = 256, 2048
    layer = 8 * (d**2 + d) + 2 * d * hidden + hidden + d + 3 * 2 * d
    assert count(QueryDecoder(9, d, 8, hidden)) == 9 * layer + 2 * d
    head = (width * 4 * width + 4 * width + 2 * width) + (width * 4 * d + 4 * d) + 2 * d + (d * 20 + 20)
    assert count(MapHead(width, d, 20, doublings=2)) == head
    assert count(PresenceHead(width, 20)) == width * 20 + 20

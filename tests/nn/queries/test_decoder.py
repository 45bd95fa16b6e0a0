"""The query decoder against a plain restatement of the published layer."""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from unified.core import seed
from unified.nn.queries.decoder import QueryAttention, QueryDecoder

WIDTH, HEADS = 32, 4


def normal(*shape: int, key: str = "x") -> Tensor:
    return torch.randn(shape, generator=seed.torch_generator(0, key, *shape))


def decoder(depth: int = 3, norm: Literal["post", "pre"] = "post", **sizes: int) -> QueryDecoder:
    shape = {"width": WIDTH, "heads": HEADS, "hidden": 48} | sizes
    with seed.seeded(0, "decoder"):
        made = QueryDecoder(depth, norm=norm, activation="relu" if norm == "post" else "gelu", **shape)
        for parameter in made.parameters():  # so that no bias is 0 and no scale 1, where a mistake would hide
            parameter.data += 0.05 * torch.randn_like(parameter)
    return made


def plain_norm(x: Tensor, norm: torch.nn.Module) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def plain_attention(q: Tensor, k: Tensor, v: Tensor, weights: QueryAttention) -> Tensor:
    """One sample, head by head, with the softmax written out."""
    q, k, v = (x @ part.weight.T + part.bias for x, part in ((q, weights.query), (k, weights.key), (v, weights.value)))
    size, heads = q.shape[-1] // weights.heads, []
    for head in range(weights.heads):
        columns = slice(head * size, (head + 1) * size)
        raw = (q[:, columns] @ k[:, columns].T / math.sqrt(size)).exp()
        heads.append(raw / raw.sum(dim=1, keepdim=True) @ v[:, columns])
    return torch.cat(heads, dim=1) @ weights.out.weight.T + weights.out.bias


def plain(made: QueryDecoder, q: Tensor, q_pos: Tensor, m: Tensor, m_pos: Tensor) -> list[Tensor]:
    """§ q ← LN(q + XAttn(q + q_pos, m + pos, m));  q ← LN(q + SAttn(q + q_pos, q + q_pos, q));  q ← LN(q + FFN q)."""
    states = [plain_norm(q, made.norm)]
    for layer in made.layers:
        first, second, third = layer.norms
        q = plain_norm(q + plain_attention(q + q_pos, m + m_pos, m, layer.cross), first)
        q = plain_norm(q + plain_attention(q + q_pos, q + q_pos, q, layer.own), second)
        hidden = (q @ layer.up.weight.T + layer.up.bias).clamp(min=0)
        q = plain_norm(q + hidden @ layer.down.weight.T + layer.down.bias, third)
        states.append(plain_norm(q, made.norm))
    return states


@pytest.mark.parametrize("official", [False, True])
def test_post_norm_is_the_published_layer(official: bool) -> None:
    made = decoder(9, width=256, heads=8, hidden=2048) if official else decoder()
    width = made.norm.normalized_shape[0]
    queries, place = normal(2, 5, width, key="queries"), normal(1, 5, width, key="place")
    memory, where = normal(2, 7, width, key="memory"), normal(1, 7, width, key="where")
    with torch.no_grad():
        found = made(queries, place, memory, where)
        for sample in range(2):
            expected = plain(made, queries[sample], place[0], memory[sample], where[0])
            assert len(found) == len(expected) == len(made.layers) + 1
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours[sample], theirs, atol=2e-5, rtol=1e-5)


def test_pre_norm_adds_branches_of_normed_states() -> None:
    made = decoder(1, "pre")
    queries, place, memory, where = (normal(1, n, WIDTH, key=str(i)) for i, n in enumerate((5, 5, 7, 7)))
    with torch.no_grad():
        found = made(queries, place, memory, where)[1][0]
        layer, q = made.layers[0], queries[0]
        y = plain_norm(q, layer.norms[0])
        q = q + plain_attention(y + place[0], (memory + where)[0], memory[0], layer.cross)
        y = plain_norm(q, layer.norms[1])
        q = q + plain_attention(y + place[0], y + place[0], y, layer.own)
        hidden = plain_norm(q, layer.norms[2]) @ layer.up.weight.T + layer.up.bias
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        q = q + hidden @ layer.down.weight.T + layer.down.bias
    torch.testing.assert_close(found, plain_norm(q, made.norm), atol=1e-5, rtol=1e-5)


def test_masked_memory_changes_nothing_and_an_empty_one_stays_finite() -> None:
    made = decoder()
    queries, place = normal(2, 5, WIDTH), normal(2, 5, WIDTH, key="place")
    memory, where = normal(2, 7, WIDTH, key="memory"), normal(2, 7, WIDTH, key="where")
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, 4:] = False
    short = made(queries[:1], place[:1], memory[:1, :4], where[:1, :4])[-1]
    torch.testing.assert_close(made(queries, place, memory, where, mask)[-1][:1], short, atol=1e-5, rtol=1e-5)
    mask[0] = False
    state = made(queries.requires_grad_(), place, memory, where, mask)[-1]
    state.square().sum().backward()
    assert state.isfinite().all()
    assert queries.grad is not None
    assert queries.grad.isfinite().all()


def test_a_remembered_memory_serves_several_groups_of_queries() -> None:
    made = decoder()
    memory, where = normal(2, 7, WIDTH, key="memory"), normal(1, 7, WIDTH, key="where")
    seen = made.remember(memory, where)
    for count in (1, 4):
        queries, place = normal(2, count, WIDTH), normal(1, count, WIDTH, key="place")
        torch.testing.assert_close(
            made.decode(queries, place, seen), made(queries, place, memory, where), atol=0, rtol=0
        )


def test_every_state_can_be_learned_from_and_all_parameters_take_part() -> None:
    made = decoder()
    states = made(*(normal(2, n, WIDTH, key=str(i)) for i, n in enumerate((5, 5, 7, 7))))
    sum((state * normal(*state.shape, key="weight")).sum() for state in states).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("key.bias"):  # added to all keys alike, which softmax does not see
            assert parameter.grad.abs().max() > 0, name

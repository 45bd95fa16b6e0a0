"""Positions, memory, pyramid, interpreter and heads against plain formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unified.core import seed
from unified.modalities.image.patches import patches
from unified.nn.queries.modules import (
    Interpreter,
    MapHead,
    Memory,
    PixelDetail,
    PointEmbedding,
    PresenceHead,
    Pyramid,
    grid_points,
    inverse_sigmoid,
    sampled_at,
    sincos_xy,
)


def normal(*shape: int, key: str = "x") -> Tensor:
    return torch.randn(shape, generator=seed.torch_generator(0, key, *shape))


def test_codes_of_points_are_the_published_ones() -> None:
    x, y = 0.3, 0.8
    expected = []
    for coordinate in (y, x):
        for k in range(128):
            angle = 2 * math.pi * coordinate / 10000 ** (2 * (k // 2) / 128)
            expected.append(math.cos(angle) if k % 2 else math.sin(angle))
    found = sincos_xy(torch.tensor([[x, y]]), 256)
    torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-6, rtol=0)


def test_points_of_a_grid_are_the_centres_of_its_cells_row_by_row() -> None:
    expected = torch.tensor([[1 / 6, 0.25], [0.5, 0.25], [5 / 6, 0.25], [1 / 6, 0.75], [0.5, 0.75], [5 / 6, 0.75]])
    torch.testing.assert_close(grid_points(2, 3), expected)


def test_point_embedding_tells_points_apart_and_takes_any_shape() -> None:
    embed = PointEmbedding(16)
    points = torch.rand(2, 3, 2, generator=seed.torch_generator(0))
    found = embed(points)
    assert found.shape == (2, 3, 16)
    torch.testing.assert_close(found[1, 2], embed(points[1, 2]))
    assert torch.pdist(found.flatten(0, 1)).min() > 1e-3


def test_memory_marks_its_level() -> None:
    memory, states = Memory(12, 8, levels=3), normal(2, 5, 12)
    difference = memory(states, 2) - memory(states, 0)
    torch.testing.assert_close(difference, (memory.level.weight[2] - memory.level.weight[0]).expand(2, 5, 8))
    torch.testing.assert_close(memory(states) - memory.level.weight[0], memory.linear(states))


@pytest.mark.parametrize("doublings", [0, 1, 2, 3])
def test_pyramid_is_a_stack_of_transposed_convolutions(doublings: int) -> None:
    made, states = Pyramid(12, 8, doublings), normal(2, 3, 5, 12)
    x = states.permute(0, 3, 1, 2)
    for number, step in enumerate(made.steps):
        if doublings == 0:
            x = F.conv2d(x, step.weight[:, :, None, None], step.bias)
            continue
        inputs = x.shape[1]
        weight = step.linear.weight.view(2, 2, -1, inputs).permute(3, 2, 0, 1)  # as ConvTranspose2d keeps it
        x = F.conv_transpose2d(x, weight, stride=2) + step.linear.bias.view(2, 2, -1).permute(2, 0, 1).repeat(
            1, x.shape[2], x.shape[3]
        )
        if number < doublings - 1:
            x = F.gelu(F.layer_norm(x.permute(0, 2, 3, 1), (12,), eps=1e-6).permute(0, 3, 1, 2))
    found = made(states)
    assert found.shape == (2, 3 * 2**doublings, 5 * 2**doublings, 8)
    torch.testing.assert_close(found, x.permute(0, 2, 3, 1), atol=1e-5, rtol=1e-5)


def test_interpreter_reads_presence_maps_boxes_and_classes() -> None:
    read, states, features = Interpreter(8), normal(2, 3, 8), normal(2, 4, 5, 8, key="features")
    expected = states @ read.presence_logit.weight[0] + read.presence_logit.bias
    torch.testing.assert_close(read.presence(states), expected)
    filters, maps = read.map_filter(states), read.maps(states, features)
    assert maps.shape == (2, 3, 4, 5)
    for b, q, y, x in ((0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 2, 3)):
        assert maps[b, q, y, x].item() == pytest.approx(torch.dot(filters[b, q], features[b, y, x]).item(), abs=1e-5)
    rows = normal(7, 8, key="rows")
    logits = read.classes(states, rows)
    assert logits.shape == (2, 3, 7)
    torch.testing.assert_close(read.classes(states, rows[2:3]), logits[:, :, 2:3])  # a class's logit is its row's alone
    scaled = read.classes(states, 5 * rows)
    torch.testing.assert_close(scaled, logits, atol=1e-3, rtol=1e-3)
    row = (rows[4] - rows[4].mean()) / (rows[4].var(unbiased=False) + 1e-5).sqrt()
    similarity = torch.dot(read.class_query(states)[1, 2], row).item() / math.sqrt(8)
    assert logits[1, 2, 4].item() == pytest.approx(similarity + expected[1, 2].item() - 4.6, abs=1e-4)


def test_boxes_are_offsets_of_their_anchors() -> None:
    read = Interpreter(8)
    anchors = torch.tensor([[0.25, 0.5], [0.0, 1.0], [0.9, 0.1]])
    states = normal(2, 3, 8)
    found, offset = read.boxes(states, anchors), read.box_offset(states)
    for b in range(2):
        for q in range(3):
            for i in range(4):
                value = offset[b, q, i].item()
                if i < 2:
                    p = anchors[q, i].item()
                    value += math.log(max(p, 1e-5) / max(1 - p, 1e-5))
                assert found[b, q, i].item() == pytest.approx(1 / (1 + math.exp(-value)), abs=1e-5)
    torch.testing.assert_close(read.boxes(states, anchors.expand(2, 3, 2)), found)
    torch.nn.init.zeros_(read.box_offset.layers[2].weight)
    torch.nn.init.zeros_(read.box_offset.layers[2].bias)
    torch.testing.assert_close(
        read.boxes(states, anchors), torch.cat([anchors, torch.full((3, 2), 0.5)], 1).expand(2, 3, 4), atol=2e-5, rtol=0
    )


def test_inverse_sigmoid_ends_are_finite() -> None:
    p = torch.tensor([0.0, 0.3, 1.0], requires_grad=True)
    found = inverse_sigmoid(p)
    torch.testing.assert_close(found, torch.tensor([math.log(1e-5), math.log(3 / 7), -math.log(1e-5)]))
    found.sum().backward()
    assert p.grad is not None
    assert p.grad.isfinite().all()


def test_heads_of_a_task_see_the_states_and_leave_padding_out() -> None:
    head, states = PresenceHead(6, 4), normal(2, 5, 6)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    found = head(states, mask)
    torch.testing.assert_close(found[0], head.linear(states[0].mean(0)))
    torch.testing.assert_close(found[1], head.linear(states[1, :2].mean(0)))
    assert head(states, torch.zeros_like(mask)).isfinite().all()
    own = MapHead(6, 8, 4, doublings=2)
    assert own(own.pyramid(normal(2, 3, 5, 6))).shape == (2, 4, 12, 20)


def test_details_of_pixels_lie_where_the_pixels_lie() -> None:
    detail = PixelDetail(patch=8, places=4, hidden=3, outputs=5)
    picture, touched = torch.rand(1, 3, 16, 24, generator=seed.torch_generator(0)), (9, 17)
    other = picture.clone()
    other[0, :, touched[0], touched[1]] += 1
    before, after = (detail(patches(p, 8).values.unflatten(1, (2, 3))) for p in (picture, other))
    assert before.shape == (1, 8, 12, 5)
    rows, columns = (before != after).any(-1)[0].nonzero().T  # places of 2 × 2 pixels, of which two convolutions see 6
    assert (rows.unique().tolist(), columns.unique().tolist()) == ([3, 4, 5], [7, 8, 9])


def test_what_lies_at_a_point_is_read_between_centres() -> None:
    cells = grid_points(3, 4).view(1, 3, 4, 2)  # of each cell, where it is
    points = torch.tensor([[0.5, 0.5], [0.3, 0.6], [0.125, 1 / 6]])
    torch.testing.assert_close(sampled_at(cells, points)[0], points)
    assert sampled_at(cells.expand(5, -1, -1, -1), points).shape == (5, 3, 2)


def test_a_model_kept_in_bf16_reads_boxes_in_fp32() -> None:
    read, embed, pyramid = Interpreter(8).bfloat16(), PointEmbedding(8).bfloat16(), Pyramid(12, 8, 2).bfloat16()
    states = normal(2, 3, 8).bfloat16()
    anchors = torch.rand(3, 2, generator=seed.torch_generator(0))
    features = pyramid(normal(2, 2, 2, 12).bfloat16())
    assert read.maps(states + embed(anchors), features).dtype == torch.bfloat16
    assert read.boxes(states, anchors).dtype == torch.float32


def test_maps_of_features_made_under_autocast_can_be_read_after_it() -> None:
    read, pyramid, states = Interpreter(8), Pyramid(12, 8, 2), normal(2, 3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        features = pyramid(normal(2, 2, 2, 12))
    assert features.dtype == torch.bfloat16
    found = read.maps(states, features)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, read.maps(states, features.float()))

"""Values per position: losses against plain formulas, read-outs against what they were made from."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unified.answers.map.maps import (
    bin_centres,
    class_loss,
    density,
    density_loss,
    density_maps,
    direction_loss,
    directions,
    edge_loss,
    expected_value,
    gaussian_maps,
    heat_loss,
    heat_points,
    pixel_loss,
    pixels,
    place_loss,
    resized,
    sig_loss,
    whereabouts_loss,
)
from unified.answers.masks import (
    MaskWeights,
    class_mask_loss,
    class_scores,
    classes_present,
    dice_loss,
    labels_at,
    mask_loss,
    sampled,
)
from unified.answers.regress.attributes import presence_loss
from unified.core import seed
from unified.core.errors import UserError
from unified.core.types import IGNORE

WEIGHTS = MaskWeights(0.25, 5.0, 5.0)
BALANCED = {"map_weight": 1.0, "count_weight": 0.1}


def normal(*shape: int, key: str = "x") -> Tensor:
    return torch.randn(shape, generator=seed.torch_generator(0, key, *shape))


def uniform(*shape: int, key: str = "u") -> Tensor:
    return torch.rand(shape, generator=seed.torch_generator(0, key, *shape))


def some(*shape: int) -> Tensor:
    """Valid positions: some of the first sample, none of the last."""
    valid = uniform(*shape, key="valid") > 0.4
    valid[-1] = False
    return valid


def label_picture() -> Tensor:
    """Three stripes, with a border that has no label; the second sample has none at all."""
    labels = (torch.arange(8) // 3).repeat(2, 8, 1)
    labels[0, :2] = IGNORE
    labels[1] = IGNORE
    return labels


# Losses of predictions of (2, …) whose last sample has nothing that is known, where the target may hold anything.
NAN = float("nan")
VALID = some(2, 1, 8, 8)
VALUES = torch.where(VALID, uniform(2, 1, 8, 8, key="values") + 0.5, NAN)
VECTORS = torch.where(VALID, normal(2, 3, 8, 8, key="vectors"), NAN)
POINTS = torch.tensor([[[0.3, 0.6, 2.0], [0.8, 0.2, 1.0]], [[NAN, NAN, 0.0], [0.5, 1.5, 2.0]]])
CENTRES = bin_centres(8, 0.4, 1.6, log=False)
LOSSES: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "classes": ((2, 3, 8, 8), lambda maps: class_loss(maps, label_picture())),
    "masks": (
        (2, 3, 9, 8),
        lambda maps: class_mask_loss(
            maps[:, :, :8], maps[:, :, 8].mean(-1), label_picture(), uniform(1, 64, 2), WEIGHTS
        ),
    ),
    "heat": ((2, 2, 8, 6), lambda maps: heat_loss(maps, POINTS, 1.5)),
    "place": ((2, 2, 8, 6), lambda maps: place_loss(maps, POINTS, 1.5)),
    "sig": (
        (2, 8, 8, 8),
        lambda maps: sig_loss(expected_value(maps, CENTRES, (8, 8)), VALUES, VALID, warm=True),
    ),
    "directions": ((2, 3, 8, 8), lambda maps: direction_loss(maps, VECTORS, VALID)),
    "edges": ((2, 1, 8, 8), lambda maps: edge_loss(maps, (VALUES > 1).float(), VALID)),
    "pixels": ((2, 12, 4, 4), lambda maps: pixel_loss(pixels(maps, 3), VECTORS, VALID, 1e-3)),
    "pixels, L1": ((2, 12, 4, 4), lambda maps: pixel_loss(pixels(maps, 3), VECTORS, VALID, 0.0)),
    "density": ((2, 1, 8, 8), lambda maps: density_loss(maps, VALUES, VALID, **BALANCED)),
    "presence": ((2, 4), lambda logits: presence_loss(logits, torch.tensor([[1, 0, -1, 1.0], [-1, -1, -1, -1]]))),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_learned_and_what_is_unknown_costs_nothing(name: str) -> None:
    shape, loss = LOSSES[name]
    maps = normal(*shape, key=name).requires_grad_()
    first = loss(maps)
    assert first.shape == (2,)
    assert first.dtype == torch.float32
    assert first[0] > 0.01
    assert first[1] == 0
    first.sum().backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()
    assert not maps.grad[1].any()
    optimizer = torch.optim.Adam([maps], lr=0.3)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 200)
        optimizer.zero_grad()
        now = loss(maps)
        now.sum().backward()
        optimizer.step()
    assert now[0] < 0.06 * first[0]


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_in_fp32_and_samples_do_not_see_each_other(name: str) -> None:
    shape, loss = LOSSES[name]
    maps = normal(*shape, key=name)
    other = torch.cat([maps[:1], 5 * maps[1:] + 1])
    torch.testing.assert_close(loss(other)[0], loss(maps)[0], atol=0, rtol=1e-6)
    assert loss(maps.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(loss(maps.bfloat16())[0], loss(maps)[0], atol=0.05, rtol=0.05)


def test_class_loss_is_the_cross_entropy_over_labelled_pixels() -> None:
    maps, labels = normal(1, 3, 8, 8), label_picture()[:1]
    terms = [
        -maps[0, :, y, x].log_softmax(0)[labels[0, y, x]].item()
        for y in range(8)
        for x in range(8)
        if labels[0, y, x] != IGNORE
    ]
    assert class_loss(maps, labels.to(torch.int16)).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_points_are_sampled_bilinearly_and_labels_by_their_pixel() -> None:
    maps = torch.arange(12.0).view(1, 1, 3, 4)
    points = torch.tensor([[[0.375, 0.5], [0.5, 0.5], [0.0, 0.0], [1.0, 1.0]]])
    torch.testing.assert_close(sampled(maps, points), torch.tensor([[[5.0, 5.5, 0.0, 11.0]]]))
    assert labels_at(torch.arange(12).view(1, 3, 4), points).tolist() == [[5, 6, 0, 11]]
    torch.testing.assert_close(sampled(maps.expand(2, 1, 3, 4), points)[1], sampled(maps, points)[0])


def test_classes_that_are_present() -> None:
    labels = torch.tensor([[[0, 2], [2, IGNORE]], [[IGNORE, IGNORE], [IGNORE, IGNORE]]])
    assert classes_present(labels, 4).tolist() == [[1, 0, 1, 0], [-1, -1, -1, -1]]


def test_dice_and_entropy_are_the_plain_sums() -> None:
    logits, target = [0.4, -1.2, 2.0], [1.0, 0.0, 1.0]
    share = [1 / (1 + math.exp(-x)) for x in logits[:2]]  # the third point is not valid
    valid = torch.tensor([[True, True, False]])
    dice = 1 - (2 * share[0] + 1) / (sum(share) + 1 + 1)
    assert dice_loss(torch.tensor([logits]), torch.tensor([target]), valid).item() == pytest.approx(dice, abs=1e-6)
    entropy = -(math.log(share[0]) + math.log(1 - share[1])) / 2
    assert mask_loss(torch.tensor([logits]), torch.tensor([target]), valid).item() == pytest.approx(entropy, abs=1e-6)


def test_class_mask_loss_counts_masks_of_present_classes_and_presence_of_all() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[:, :, 2:] = 2
    points, everywhere = uniform(1, 50, 2), torch.ones(1, 50, dtype=torch.bool)
    maps, presence = normal(1, 4, 4, 4), normal(1, 4, key="presence")
    expected = 0.0
    for number in (0, 2):
        target = ((points[0, :, 0] >= 0.5) == (number == 2)).float()[None]
        logits = sampled(maps, points)[:, number]
        expected += 5 * mask_loss(logits, target, everywhere).item() + 5 * dice_loss(logits, target, everywhere).item()
    there = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    expected = expected / 2 + 0.25 * F.binary_cross_entropy_with_logits(presence, there).item()
    assert class_mask_loss(maps, presence, labels, points, WEIGHTS).item() == pytest.approx(expected, rel=1e-5)


def test_a_class_that_is_absent_wins_no_pixel() -> None:
    maps, presence = torch.zeros(1, 2, 4, 4), torch.tensor([[-4.0, 4.0]])
    maps[:, 0] = 3.0
    scores = class_scores(maps, presence, (8, 8))
    assert scores.shape == (1, 2, 8, 8)
    assert (scores.argmax(1) == 1).all()
    assert (class_scores(maps, -presence, (8, 8)).argmax(1) == 0).all()


def test_points_are_found_again_between_pixels() -> None:
    points = torch.tensor([[[0.31, 0.62, 2.0], [0.834, 0.243, 1.0], [0.5, 0.5, 2.0]]])
    heat = gaussian_maps(points, (64, 48), 2.0)
    found = heat_points(heat)
    assert ((found - points)[..., :2] * torch.tensor([48, 64])).abs().max() < 0.05
    torch.testing.assert_close(found[..., 2], heat.flatten(2).max(-1).values)
    assert gaussian_maps(points * torch.tensor([1, 1, 0]), (64, 48), 2.0).abs().max() == 0
    corner = torch.tensor([[[0.0, 1.0, 2.0]]])
    assert (heat_points(gaussian_maps(corner, (64, 48), 2.0))[0, 0, :2] - corner[0, 0, :2]).abs().max() < 0.011
    assert heat_points(torch.zeros(1, 1, 1, 1)).tolist() == [[[0.5, 0.5, 0.0]]]


def test_place_loss_is_the_divergence_from_the_heat_map() -> None:
    points, maps = torch.tensor([[[0.31, 0.62, 2.0], [0.9, 0.2, 0.0]]]), normal(1, 2, 6, 5)
    heat = gaussian_maps(points, (6, 5), 1.0)[0, 0].flatten()
    share, found = (heat / heat.sum()).tolist(), maps[0, 0].flatten().softmax(0).tolist()
    expected = sum(t * math.log(t / p) for t, p in zip(share, found, strict=True))
    assert place_loss(maps, points, 1.0).item() == pytest.approx(expected, rel=1e-5)
    exact = gaussian_maps(points, (6, 5), 1.0).clamp(min=1e-30).log()
    assert place_loss(exact, points, 1.0).item() == pytest.approx(0, abs=1e-6)
    assert ((heat_points(exact)[0, 0] - points[0, 0])[:2].abs() < 1e-5).all()  # a bell's logarithm is a parabola


def test_gaussians_have_their_height_and_width() -> None:
    heat = gaussian_maps(torch.tensor([[[0.5 / 9, 4.5 / 9, 1.0]]]), (9, 9), 2.0)[0, 0]
    assert heat[4, 0] == pytest.approx(1.0)
    assert heat[4, 3].item() == pytest.approx(math.exp(-9 / 8), abs=1e-6)
    assert heat[6, 1].item() == pytest.approx(math.exp(-5 / 8), abs=1e-6)


def test_expected_value_lies_between_its_bins() -> None:
    maps = torch.full((1, 3, 2, 2), -30.0)
    maps[:, 0] = 0.0
    maps[:, 2, :, 1] = 0.0
    found = expected_value(maps, torch.tensor([1.0, 5.0, 3.0]), (2, 2))
    torch.testing.assert_close(found, torch.tensor([[[[1.0, 2.0], [1.0, 2.0]]]]))
    torch.testing.assert_close(bin_centres(2, 0.0, 4.0, log=False), torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(bin_centres(2, 1.0, 16.0, log=True), torch.tensor([2.0, 8.0]))
    with pytest.raises(UserError, match="low > 0"):
        bin_centres(2, 0.0, 1.0, log=True)


def test_depth_losses_are_the_published_ones() -> None:
    value, target = uniform(1, 1, 4, 4) + 0.1, uniform(1, 1, 4, 4, key="depth") + 0.1
    valid = uniform(1, 1, 4, 4, key="known") > 0.3
    g = torch.log(value[valid] + 1e-3) - torch.log(target[valid] + 1e-3)
    expected = (g.var() + 0.15 * g.mean() ** 2).sqrt()
    assert sig_loss(value, target, valid, warm=True).item() == pytest.approx(expected.item(), rel=1e-5)
    cold = (0.15 * g.mean() ** 2).sqrt()
    assert sig_loss(value, target, valid, warm=False).item() == pytest.approx(cold.item(), rel=1e-5)
    perfect = target.clone().requires_grad_()
    sig_loss(perfect, target, valid, warm=True).sum().backward()
    assert perfect.grad is not None
    assert perfect.grad.isfinite().all()


def test_directions_are_unit_vectors_and_length_costs_nothing() -> None:
    maps = normal(1, 3, 4, 4)
    torch.testing.assert_close(directions(maps, (4, 4)).norm(dim=1), torch.ones(1, 4, 4))
    valid = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    assert direction_loss(maps, 7 * maps, valid).item() == pytest.approx(0, abs=1e-6)
    assert direction_loss(maps, -maps, valid).item() == pytest.approx(2, abs=1e-6)


def test_rare_edges_count_as_much_as_all_the_rest() -> None:
    target, valid = torch.zeros(1, 1, 10, 10), torch.ones(1, 1, 10, 10, dtype=torch.bool)
    target[0, 0, 0, 0] = 1.0
    logits = torch.full((1, 1, 10, 10), 1.5)
    p = 1 / (1 + math.exp(-1.5))
    assert edge_loss(logits, target, valid).item() == pytest.approx(-(math.log(p) + math.log(1 - p)) / 2, rel=1e-5)
    # HED's own form, − β Σ₊ log p − (1 − β) Σ₋ log(1 − p) with β the share of negatives, up to a factor of the picture
    maps, beta = normal(1, 1, 10, 10), 0.99
    hed = beta * F.softplus(-maps)[target == 1].sum() + (1 - beta) * F.softplus(maps)[target == 0].sum()
    assert edge_loss(maps, target, valid).item() == pytest.approx(hed.item() / (2 * 100 * beta * (1 - beta)), rel=1e-4)


def test_pixels_are_shuffled_and_compared() -> None:
    maps = normal(2, 12, 4, 5)
    image = pixels(maps, 3)
    assert image.shape == (2, 3, 8, 10)
    assert image[1, 2, 5, 7] == maps[1, 2 * 4 + 1 * 2 + 1, 2, 3]
    valid = torch.ones(2, 1, 8, 10, dtype=torch.bool)
    d = image - normal(2, 3, 8, 10)
    charbonnier = ((d**2 + 1e-6).sqrt() - 1e-3).mean(dim=(1, 2, 3))
    torch.testing.assert_close(pixel_loss(image, image - d, valid, 1e-3), charbonnier)
    torch.testing.assert_close(pixel_loss(image, image - d, valid, 0.0), d.abs().mean(dim=(1, 2, 3)))
    with pytest.raises(UserError, match="13 queries are no image of 3 channels"):
        pixels(normal(1, 13, 4, 4), 3)
    with pytest.raises(UserError, match="cannot be compared"):
        pixel_loss(image, normal(2, 3, 4, 5), torch.ones(2, 1, 4, 5, dtype=torch.bool), 0.0)


def test_a_density_sums_to_its_count() -> None:
    points = torch.tensor([[[0.5, 0.5, 1.0], [0.0, 0.0, 1.0], [0.7, 0.1, 2.0], [0.2, 0.2, 0.0]]])
    target = density_maps(points, (12, 16), 1.5)
    assert target.sum().item() == pytest.approx(3.0, rel=1e-5)
    valid = torch.ones(1, 1, 12, 16, dtype=torch.bool)
    exact = (target.clamp(min=1e-9).expm1()).log()  # the inverse of softplus
    torch.testing.assert_close(density(exact), target, atol=1e-6, rtol=0)
    assert density_loss(exact, target, valid, **BALANCED).item() == pytest.approx(0, abs=1e-5)
    twice = ((2 * target).clamp(min=1e-9).expm1()).log()
    found = density_loss(twice, target, valid, map_weight=0.0, count_weight=1.0)
    assert found.item() == pytest.approx(3.0, rel=1e-4)
    with pytest.raises(UserError, match="size of the maps"):
        density_loss(exact, resized(target, (6, 8)), valid[:, :, :6, :8], **BALANCED)


def test_presence_weighs_positives_by_their_rarity() -> None:
    logits, target = torch.tensor([[0.3, -0.7, 1.1, 0.2]]), torch.tensor([[1.0, 0.0, 1.0, -1.0]])
    ratio = torch.tensor([0.1, 0.6, 0.9, 0.5])
    expected = 0.0
    for x, y, r in zip(logits[0].tolist(), target[0].tolist(), ratio.tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        if y == 1:
            expected -= math.exp(1 - r) * math.log(p)
        elif y == 0:
            expected -= math.exp(r) * math.log(1 - p)
    assert presence_loss(logits, target, ratio).item() == pytest.approx(expected / 3, rel=1e-5)


def test_maps_of_another_size_are_brought_to_the_target() -> None:
    maps = normal(1, 3, 4, 6)
    assert resized(maps, (8, 9)).shape == (1, 3, 8, 9)
    assert resized(maps, (4, 6)) is maps
    arguments: Any = (normal(1, 3, 16, 24, key="target"), torch.ones(1, 1, 16, 24, dtype=torch.bool))
    assert direction_loss(maps, *arguments).shape == (1,)


def test_whereabouts_are_shares_whatever_the_number() -> None:
    target = torch.zeros(3, 1, 4, 4)
    target[0, 0, 1, 2] = target[1, 0, 1, 2] = 5.0
    exact = torch.full((3, 1, 4, 4), -40.0)
    exact[0, 0, 1, 2], exact[1, 0, 3, 0] = 7.0, 7.0
    right, wrong, nothing = whereabouts_loss(exact, target).tolist()
    assert right == pytest.approx(0, abs=1e-4)
    assert wrong > 20
    assert nothing == 0
    even = whereabouts_loss(torch.zeros(1, 1, 4, 4), target[:1])
    assert even.item() == pytest.approx(math.log(16), rel=1e-5)

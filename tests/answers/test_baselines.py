"""What is measured of targets, against numbers by hand, and what slots add to answers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from unified.answers import ANSWERS
from unified.answers.baselines import GRID
from unified.answers.boxes import inwards
from unified.answers.kind import QueryKind
from unified.answers.map.maps import bin_centres, density, expected_value, heat_points
from unified.answers.spec import QuerySpec
from unified.answers.table import baseline_shapes, make_spec, measure
from unified.core.types import IGNORE
from unified.nn.queries.modules import RARE, SMALL, Interpreter, ZeroLinear, spread_points

NAMES = ("a", "b")
SIDE = 64


def spec(read: str, queries: int, **more: Any) -> QuerySpec:
    return make_spec(read, queries, names=NAMES, size=(SIDE, SIDE), **more)


def halves(left: float, right: float, channels: int = 1) -> Tensor:
    """Maps of one value at the left and another at the right."""
    values = torch.full((2, channels, SIDE, SIDE), left)
    values[..., SIDE // 2 :] = right
    return values


def points() -> dict[str, Tensor]:
    """Two images of two points; the second point is seen in the first image alone."""
    return {"points": torch.tensor([[[0.2, 0.3, 2.0], [0.7, 0.9, 2.0]], [[0.4, 0.5, 2.0], [0.0, 0.0, 0.0]]])}


def known(values: Tensor) -> dict[str, Tensor]:
    return {"map": values, "valid": torch.ones_like(values[:, :1], dtype=torch.bool)}


def test_all_that_is_measured_has_the_shapes_that_slots_have() -> None:
    box = {"boxes": torch.rand(2, 3, 4), "labels": torch.tensor([[0, 1, IGNORE], [1, IGNORE, IGNORE]])}
    targets = {
        "classes": {"labels": halves(0, 1)[:, 0].long()}, "points": points(), "places": points(), "density": points(),
        "bins": known(halves(1.0, 2.0)), "directions": known(halves(0.0, 1.0, 3)), "share": known(halves(0.0, 1.0)),
        "pixels": known(halves(0.0, 1.0, 3)), "boxes": box, "masks": box,
        "presence": {"presence": torch.tensor([[1, 0], [-1, 1]])},
    }  # fmt: skip
    assert set(targets) == {kind.name for kind in ANSWERS.values() if isinstance(kind, QueryKind)} - {"identity"}
    for read, target in targets.items():
        counts = {"bins": 8, "directions": 3, "share": 1, "density": 1, "boxes": 5, "masks": 5}
        for more in ({}, {"softmax": True}, {"from_names": True}):
            if not more.keys() <= vars(spec(read, 2)).keys():
                continue
            of = spec(read, counts.get(read, 2), **more, **({"limits": (0.5, 4.0)} if read == "bins" else {}))
            found = measure(of, [target], 256)
            assert {slot: tuple(value.shape) for slot, value in found.items()} == baseline_shapes(of), (read, more)
            assert all(value.isfinite().all() for value in found.values())
    assert baseline_shapes(spec("identity", 2)) == baseline_shapes(spec("pixels", 48, residual=True)) == {}


def test_classes_are_as_frequent_as_they_are_at_each_place() -> None:
    labels = halves(0, 1)[:, 0].long()
    labels[1, :, SIDE // 2 :] = 0
    labels[1, : SIDE // 2] = IGNORE
    shares = measure(spec("classes", 2, softmax=True), [{"labels": labels}], 256)["maps"].exp()
    assert shares.sum(0).allclose(torch.ones(GRID, GRID))
    assert shares[0, 0, 0] > 0.9
    assert shares[1, 0, -1] > 0.8  # of the first image alone, as nothing is known in the second
    assert shares[1, -1, -1] == pytest.approx(0.5, abs=0.1)
    found = measure(spec("classes", 2), [{"labels": labels}], 256)
    assert found["logits"].sigmoid().tolist() == pytest.approx([2.5 / 3, 1.5 / 3])
    # of images that have the class: both and the mean of all places, and one
    inside = found["maps"].sigmoid()
    assert inside[1, 0, -1] == pytest.approx((1 + 0.5) / 2, abs=0.01)


def test_means_of_depth_counts_directions_and_colours() -> None:
    bins = spec("bins", 64, limits=(0.5, 4.0))
    maps = measure(bins, [known(halves(1.0, 2.0))], 256)["maps"]
    centres = bin_centres(64, 0.5, 4.0, log=True)
    values = expected_value(maps[None], centres, (GRID, GRID))
    assert (values - 1.5).abs().max() < 0.03
    count = measure(spec("density", 1), [points(), points()], 400)["maps"] + RARE
    assert count.std() == pytest.approx(0, abs=1e-5)
    assert float(density(count[:1, :1, :1, None]).sum() * 400) == pytest.approx(1.5, rel=1e-4)
    colours = measure(spec("pixels", 48), [known(halves(0.2, 0.6, 3))], 256)["colours"]
    assert colours[:, 3, 0].tolist() == pytest.approx([0.2] * 3, abs=0.1)
    assert colours.mean().item() == pytest.approx(0.4, abs=1e-4)
    up = measure(spec("directions", 3), [known(halves(0.0, 0.0, 3) + torch.tensor([0.0, 0, 5]).view(3, 1, 1))], 256)
    assert up["maps"][:, 4, 4].tolist() == pytest.approx([0, 0, 1])


def test_points_lie_at_their_mean_place() -> None:
    for more in ({}, {"softmax": True}):
        found = measure(spec("points", 2, **more), [points()], 256)
        place = heat_points(found["maps"][None])[0, :, :2]
        assert (place - torch.tensor([[0.3, 0.4], [0.7, 0.9]])).abs().max() < 0.5 / GRID + 1e-6
        assert found["logits"].sigmoid().tolist() == pytest.approx([2.5 / 3, 1.5 / 3])
    found = measure(spec("places", 2), [points()], 256)
    assert found["centres"].sigmoid().flatten().tolist() == pytest.approx([0.3, 0.4, 0.7, 0.9])


def test_one_query_begins_at_the_mean_box_and_each_at_that_of_its_surroundings() -> None:
    boxes = torch.tensor([[[0.2, 0.3, 0.1, 0.2], [0.4, 0.3, 0.3, 0.2]]]).expand(50, -1, -1)
    target = {"boxes": boxes, "labels": torch.tensor([[0, 1]]).expand(50, -1)}
    found = measure(spec("boxes", 1), [target], 256)
    centre = (found["centres"] + torch.logit(spread_points(1))).sigmoid()
    assert torch.cat([centre, (found["sides"] + SMALL).sigmoid()], 1)[0].tolist() == pytest.approx(
        [0.3, 0.3, 0.2, 0.2], abs=0.01
    )
    assert (found["logits"] + RARE).sigmoid()[0].tolist() == pytest.approx([0.98, 0.98], abs=0.02)
    many = measure(spec("boxes", 4), [target], 256)
    likely = (many["logits"] + RARE).sigmoid()
    assert likely[0, 0] > 0.9  # both lie in the upper left quarter
    assert likely[3].max() < 0.05


def test_shares_of_edges_are_even_in_the_mean_as_their_loss_counts_them() -> None:
    maps = measure(spec("share", 1), 50 * [known(halves(0.1, 0.3))], 256)["maps"]
    assert maps[0, 2, 0].exp() == pytest.approx((0.1 / 0.9) / (0.2 / 0.8), rel=0.02)
    assert maps[0, 2, -1].exp() == pytest.approx((0.3 / 0.7) / (0.2 / 0.8), rel=0.02)


def test_the_inside_of_boxes_is_where_boxes_are() -> None:
    found = inwards(torch.tensor([[[0.25, 0.5, 0.5, 1.0]]]), (4, 8))
    assert (found > 0).tolist() == [[[[True] * 4 + [False] * 4] * 4]]
    assert found.min() == -1
    assert found.max() < 1


def test_own_filters_and_shifts_are_added_before_they_are_used() -> None:
    with torch.no_grad():
        read = Interpreter(8)
        for module in read.modules():
            if isinstance(module, ZeroLinear):
                module.weight.zero_()
                module.bias.zero_()
        states, features = torch.randn(2, 3, 8), torch.randn(2, 4, 5, 8)
        own = torch.randn(3, 8)
        assert torch.equal(read.maps(states, features), torch.zeros(2, 3, 4, 5))
        torch.testing.assert_close(
            read.maps(states, features, own), torch.einsum("qd,bhwd->bqhw", own, features), atol=1e-5, rtol=1e-5
        )
        shift = torch.tensor([[0.5, -0.5, 1.0, 0.0]]).expand(3, 4)
        boxes = read.boxes(states, torch.full((3, 2), 0.5), shift)
        torch.testing.assert_close(boxes, shift.sigmoid().expand(2, 3, 4))

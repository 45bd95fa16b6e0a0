"""Sets of objects, points and identities against hand-made cases and plain formulas."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pycocotools.mask
import pytest
import torch
from torch import Tensor

from unified.answers.assignment import assign, assignable
from unified.answers.boxes import area, centres, corners, generalised_overlap, overlap
from unified.answers.masks import dice_loss, mask_loss, sampled
from unified.answers.regress.detections import boxes_of, detections, masks_of, panoptic
from unified.answers.regress.set_prediction import (
    ObjectQueries,
    Objects,
    SetWeights,
    costs,
    focal_loss,
    identity_loss,
    point_loss,
    set_loss,
    triplet_loss,
)
from unified.core import seed
from unified.core.errors import UserError
from unified.core.types import IGNORE

BOXES = SetWeights(classes=2.0, box=5.0, overlap=2.0, mask=0.0, dice=0.0)
ALL = SetWeights(classes=2.0, box=5.0, overlap=2.0, mask=5.0, dice=5.0)
POINTS = torch.rand(1, 200, 2, generator=seed.torch_generator(0, "points"))


def normal(*shape: int, key: str = "x") -> Tensor:
    return torch.randn(shape, generator=seed.torch_generator(0, key, *shape))


def drawn_boxes(*shape: int, key: str = "boxes") -> Tensor:
    """(cx, cy, w, h) inside the picture."""
    u = torch.rand(*shape, 4, generator=seed.torch_generator(0, key, *shape))
    return torch.cat([0.25 + 0.5 * u[..., :2], 0.1 + 0.35 * u[..., 2:]], dim=-1)


def queries(batch: int, count: int, classes: int, *, maps: bool = False) -> ObjectQueries:
    drawn = normal(batch, count, 8, 8, key="maps") if maps else None
    return ObjectQueries(normal(batch, count, classes, key="classes"), drawn_boxes(batch, count, key="ours"), drawn)


def objects(labels: list[list[int]], *, masks: bool = False) -> Objects:
    """Padding is NaN, which must not matter."""
    known = torch.tensor(labels)
    boxes = drawn_boxes(*known.shape, key="theirs")
    drawn = normal(*known.shape, 16, 16, key="masks") > 0 if masks else None
    return Objects(known, boxes.where((known != IGNORE)[..., None], torch.nan), drawn)


def test_boxes_have_two_forms() -> None:
    boxes = drawn_boxes(3, 5)
    torch.testing.assert_close(centres(corners(boxes)), boxes)
    torch.testing.assert_close(corners(torch.tensor([0.5, 0.4, 0.2, 0.6])), torch.tensor([0.4, 0.1, 0.6, 0.7]))
    torch.testing.assert_close(area(corners(boxes)), boxes[..., 2] * boxes[..., 3])


def test_overlap_is_that_of_pycocotools() -> None:
    ours, theirs = 100 * corners(drawn_boxes(7)), 100 * corners(drawn_boxes(5, key="others"))

    def as_coco(boxes: Tensor) -> np.ndarray:
        return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).double().numpy()

    expected = pycocotools.mask.iou(as_coco(ours), as_coco(theirs), [False] * 5)
    found, _ = overlap(ours[:, None], theirs[None])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert (expected > 0).any()


def test_generalised_overlap_of_hand_made_boxes() -> None:
    one = torch.tensor([0.0, 0.0, 2.0, 2.0])
    cases = [
        ([0.0, 0.0, 2.0, 2.0], 1.0),
        ([1.0, 0.0, 3.0, 2.0], 2 / 6),  # side by side: the hull is the union
        ([1.0, 1.0, 3.0, 3.0], 1 / 7 - 2 / 9),
        ([3.0, 0.0, 4.0, 2.0], 0 - 2 / 8),
        ([1.0, 1.0, 1.0, 1.0], 0.0),  # a box without extent, inside
    ]
    for box, expected in cases:
        assert generalised_overlap(one, torch.tensor(box)).item() == pytest.approx(expected, abs=1e-6)
    nothing = torch.zeros(4, requires_grad=True)
    generalised_overlap(nothing, nothing).backward()
    assert nothing.grad is not None
    assert nothing.grad.isfinite().all()


def test_focal_loss_is_the_published_formula() -> None:
    for x, y in itertools.product((-3.0, 0.2, 4.0), (0.0, 1.0)):
        p = 1 / (1 + math.exp(-x))
        expected = -0.25 * (1 - p) ** 2 * math.log(p) if y else -0.75 * p**2 * math.log(1 - p)
        assert focal_loss(torch.tensor(x), torch.tensor(y)).item() == pytest.approx(expected, rel=1e-4)


def test_costs_are_those_of_each_pair() -> None:
    ours, theirs = queries(2, 4, 3, maps=True), objects([[0, 2], [1, 1]], masks=True)
    assert ours.boxes is not None
    assert ours.maps is not None
    assert theirs.boxes is not None
    assert theirs.masks is not None
    found = costs(ours, theirs, ALL, POINTS)
    everywhere = torch.ones(200, dtype=torch.bool)
    for b, q, m in itertools.product(range(2), range(4), range(2)):
        logit = ours.classes[b, q, theirs.labels[b, m]]
        expected = 2 * (focal_loss(logit, torch.tensor(1.0)) - focal_loss(logit, torch.tensor(0.0)))
        expected += 5 * (ours.boxes[b, q] - theirs.boxes[b, m]).abs().sum()
        expected -= 2 * generalised_overlap(corners(ours.boxes[b, q]), corners(theirs.boxes[b, m]))
        logits = sampled(ours.maps, POINTS)[b, q]
        target = sampled(theirs.masks.float(), POINTS)[b, m]
        expected += 5 * mask_loss(logits, target, everywhere) + 5 * dice_loss(logits, target, everywhere)
        assert found[b, q, m].item() == pytest.approx(expected.item(), abs=1e-4)


def test_assignment_is_the_cheapest_of_all() -> None:
    theirs = objects([[0, 1, 1], [2, IGNORE, 0], [IGNORE] * 3])
    cost = normal(3, 5, 3)
    (matched,) = assign([assignable(cost, theirs.labels != IGNORE)])
    found = matched.tolist()
    assert found[2] == [IGNORE] * 3
    assert found[1][1] == IGNORE
    for b, held in ((0, [0, 1, 2]), (1, [0, 2])):
        best = min(
            itertools.permutations(range(5), len(held)),
            key=lambda order: sum(cost[b, q, m].item() for q, m in zip(order, held, strict=True)),
        )
        assert tuple(found[b][m] for m in held) == best


def test_batches_of_several_tasks_are_assigned_at_once() -> None:
    first, second, empty = normal(2, 4, 2), normal(3, 3, 1), torch.zeros(2, 4, 0)
    real = torch.tensor([[True, False], [True, True]])
    costs = [assignable(first, real), empty, assignable(second, torch.ones(3, 1, dtype=torch.bool))]
    together = assign(costs)
    for cost, found in zip(costs, together, strict=True):
        torch.testing.assert_close(assign([cost])[0], found)
    assert together[0][0, 1] == IGNORE
    assert assign([]) == []


def test_a_query_that_is_not_finite_is_matched_last() -> None:
    cost = torch.tensor([[[math.nan], [5.0], [-math.inf]]])
    assert assign([assignable(cost, torch.ones(1, 1, dtype=torch.bool))])[0].tolist() == [[2]]
    assert assign([assignable(cost[:, :2], torch.ones(1, 1, dtype=torch.bool))])[0].tolist() == [[1]]


def test_set_loss_of_one_object_is_written_out() -> None:
    ours, theirs = queries(1, 3, 2), objects([[1, IGNORE]])
    assert ours.boxes is not None
    assert theirs.boxes is not None
    query = int(assign([costs(ours, theirs, BOXES)])[0][0, 0])
    expected = 0.0
    for q, c in itertools.product(range(3), range(2)):
        expected += 2 * focal_loss(ours.classes[0, q, c], torch.tensor(float((q, c) == (query, 1)))).item()
    expected += 5 * (ours.boxes[0, query] - theirs.boxes[0, 0]).abs().sum().item()
    giou = generalised_overlap(corners(ours.boxes[0, query]), corners(theirs.boxes[0, 0])).item()
    expected += 2 * (1 - giou)
    assert set_loss(ours, theirs, BOXES).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("width", [0, 2])
def test_a_picture_without_objects_teaches_classes_alone(width: int) -> None:
    logits, boxes = normal(1, 3, 2).requires_grad_(), drawn_boxes(1, 3).requires_grad_()
    maps = normal(1, 3, 4, 4).requires_grad_()
    nothing = Objects(
        torch.full((1, width), IGNORE), torch.full((1, width, 4), torch.nan), torch.zeros(1, width, 8, 8) > 0
    )
    loss = set_loss(ObjectQueries(logits, boxes, maps), nothing, ALL, POINTS)
    expected = 2 * focal_loss(logits, torch.zeros_like(logits)).sum()
    torch.testing.assert_close(loss[0], expected)
    loss.sum().backward()
    for tensor in (boxes, maps):
        assert tensor.grad is not None
        assert not tensor.grad.any()


def test_samples_and_the_order_of_objects_do_not_matter() -> None:
    ours, theirs = queries(2, 6, 3, maps=True), objects([[0, 1, 2], [1, 0, IGNORE]], masks=True)
    whole = set_loss(ours, theirs, ALL, POINTS)
    assert theirs.boxes is not None
    assert theirs.masks is not None
    order = [2, 0, 1]
    shuffled = Objects(theirs.labels[:, order], theirs.boxes[:, order], theirs.masks[:, order])
    torch.testing.assert_close(set_loss(ours, shuffled, ALL, POINTS), whole)
    assert ours.boxes is not None
    assert ours.maps is not None
    alone = ObjectQueries(ours.classes[1:], ours.boxes[1:], ours.maps[1:])
    short = Objects(theirs.labels[1:, :2], theirs.boxes[1:, :2], theirs.masks[1:, :2])
    torch.testing.assert_close(set_loss(alone, short, ALL, POINTS), whole[1:])


def test_more_objects_than_queries_are_refused_with_both_numbers() -> None:
    with pytest.raises(UserError, match="3 objects and the task has 2 queries"):
        set_loss(queries(1, 2, 2), objects([[0, 1, 1]]), BOXES)
    assert set_loss(queries(1, 3, 2), objects([[0, 1, 1]]), BOXES).isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1])
def test_boxes_that_are_none_are_refused(value: float) -> None:
    theirs = objects([[0, 1], [1, 0]])
    assert theirs.boxes is not None
    theirs.boxes[1, 0, 2] = value
    with pytest.raises(UserError, match="sample 1 of the batch, object 0: its box is"):
        set_loss(queries(2, 4, 2), theirs, BOXES)


def test_predictions_that_are_not_finite_give_a_loss_that_is_not() -> None:
    ours = queries(2, 4, 2)
    ours.classes[0, 1] = torch.nan
    loss = set_loss(ours, objects([[0, 1], [1, 0]]), BOXES)
    assert loss.isnan().tolist() == [True, False]


def learned(parameters: dict[str, Tensor], loss: Callable[[], Tensor], steps: int = 120) -> tuple[float, float]:
    """The loss before and after some steps; all gradients stay finite."""
    values = [p.requires_grad_() for p in parameters.values()]
    optimizer, losses = torch.optim.Adam(values, lr=0.2), []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / steps)
        optimizer.zero_grad()
        now = loss().sum()
        now.backward()
        for name, p in parameters.items():
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name
        optimizer.step()
        losses.append(now.item())
    return losses[0], losses[-1]


def test_a_set_of_objects_is_learned_and_read_out_again() -> None:
    theirs = objects([[0, 2, 1], [1, IGNORE, 1]], masks=False)
    stripes = torch.zeros(2, 3, 16, 16, dtype=torch.bool)
    for place in range(3):
        stripes[:, place, :, 5 * place : 5 * place + 5] = True
    assert theirs.boxes is not None
    theirs = Objects(theirs.labels, theirs.boxes, stripes)
    state = {"classes": normal(2, 6, 3), "boxes": normal(2, 6, 4), "maps": normal(2, 6, 16, 16)}

    def ours() -> ObjectQueries:
        return ObjectQueries(state["classes"], state["boxes"].sigmoid(), state["maps"])

    first, last = learned(state, lambda: set_loss(ours(), theirs, ALL, POINTS))
    assert last < 0.1 * first
    with torch.no_grad():
        made = ours()
        assert made.boxes is not None
        assert made.maps is not None
        best = detections(made.classes, 3)
        boxes = boxes_of(best.queries, made.boxes)
        masks, sure = masks_of(best.queries, made.maps, (16, 16))
        for place in range(3):
            near = (boxes[0] - corners(theirs.boxes)[0, place]).abs().sum(-1).argmin()
            assert best.scores[0, near] > 0.5
            assert best.labels[0, near] == theirs.labels[0, place]
            share = (masks[0, near] & stripes[0, place]).sum() / (masks[0, near] | stripes[0, place]).sum()
            assert share > 0.8
            assert sure[0, near] > 0.8


def test_detections_are_the_likeliest_pairs() -> None:
    logits = torch.tensor([[[0.0, 3.0], [2.0, -1.0], [1.0, 2.5]]])
    found = detections(logits, 4)
    assert found.queries.tolist() == [[0, 2, 1, 2]]
    assert found.labels.tolist() == [[1, 1, 0, 0]]
    torch.testing.assert_close(found.scores[0], torch.tensor([3.0, 2.5, 2.0, 1.0]).sigmoid())
    assert detections(logits, 100).scores.shape == (1, 6)


def test_panoptic_gives_each_pixel_one_part() -> None:
    maps = torch.full((5, 4, 4), -9.0)
    maps[0, :, :2] = 9.0  # a thing
    maps[1, :, 2:] = 9.0  # of what has no single things, in two queries
    maps[2, :2, 2:] = 9.0
    maps[3, :, :2] = 8.0  # the first thing once more, less sure: nothing is left to it
    maps[4] = 9.0  # below the threshold
    classes = torch.full((5, 2), -9.0)
    for query, label, logit in ((0, 0, 4.0), (1, 1, 3.0), (2, 1, 3.5), (3, 0, 2.0), (4, 0, -2.0)):
        classes[query, label] = logit
    numbers, parts = panoptic(classes, maps, (8, 8), torch.tensor([True, False]), threshold=0.5, kept=0.4)
    assert [(part.number, part.label) for part in parts] == [(1, 0), (2, 1)]
    assert (numbers[:, :4] == 1).all()
    assert (numbers[:, 4:] == 2).all()
    empty, none = panoptic(classes - 20, maps, (8, 8), torch.tensor([True, False]), threshold=0.5, kept=0.4)
    assert not empty.any()
    assert none == []


def test_point_loss_is_the_distance_of_known_points() -> None:
    found = torch.tensor([[[0.1, 0.2], [0.5, 0.5], [0.9, 0.9]]]).expand(2, 3, 2)
    target = torch.tensor([[[0.2, 0.2, 2.0], [0.5, 0.8, 1.0], [math.nan, math.nan, 0.0]], [[0.0, 0.0, 0.0]] * 3])
    torch.testing.assert_close(point_loss(found, target), torch.tensor([0.2, 0.0]))
    state = {"points": normal(2, 3, 2)}
    first, last = learned(state, lambda: point_loss(state["points"].sigmoid(), target))
    assert last < 0.02 * first


def test_triplets_are_the_hardest_of_the_batch() -> None:
    features, identity = normal(6, 4), torch.tensor([0, 0, 0, 1, 1, 2])
    found = triplet_loss(features, identity, features, identity, torch.arange(6))
    for a in range(6):
        distance = [math.dist(features[a].tolist(), features[i].tolist()) for i in range(6)]
        same = [distance[i] for i in range(6) if i != a and identity[i] == identity[a]]
        other = [distance[i] for i in range(6) if identity[i] != identity[a]]
        expected = math.log1p(math.exp(max(same) - min(other))) if same else 0.0
        assert found[a].item() == pytest.approx(expected, rel=1e-4)
    part = triplet_loss(features[2:4], identity[2:4], features, identity, torch.tensor([2, 3]))
    torch.testing.assert_close(part, found[2:4])  # what each of several processes computes


def test_identities_are_learned_and_unknown_ones_cost_nothing() -> None:
    identity = torch.tensor([0, 0, 1, 1, IGNORE, IGNORE])
    state = {"features": normal(6, 4), "rows": normal(2, 4, key="rows")}

    def loss() -> Tensor:
        features = state["features"]
        triplets = triplet_loss(features, identity, features, identity, torch.arange(6))
        return identity_loss(features @ state["rows"].T, identity) + triplets

    assert loss()[4:].tolist() == [0, 0]
    first, last = learned(state, loss)
    assert last < 0.05 * first
    same = torch.zeros(4, 3, requires_grad=True)  # equal features: a distance of 0 has a finite gradient
    triplet_loss(same, identity[:4], same, identity[:4], torch.arange(4)).sum().backward()
    assert same.grad is not None
    assert same.grad.isfinite().all()

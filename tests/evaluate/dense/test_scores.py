"""Scores of hand-made answers whose scores are known."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from unified.answers.table import make_spec
from unified.core.types import IGNORE
from unified.data.augment.geometric import Scene
from unified.data.samples.annotations import Objects
from unified.evaluate.dense.attributes import PresenceScores
from unified.evaluate.dense.identity import IdentityScores
from unified.evaluate.dense.keypoints import PointScores
from unified.evaluate.dense.objects import ObjectScores
from unified.evaluate.dense.objects import _classes as matched_classes
from unified.evaluate.dense.semantic import ClassScores
from unified.evaluate.dense.table import DENSE
from unified.evaluate.dense.targets import Truth

CLASSES = ("sky", "road", "car", "boat")


def truth(height: int = 8, width: int = 10, **known: Any) -> Truth:
    picture = torch.zeros(3, height, width, dtype=torch.uint8)
    outside = {name: known.pop(name) for name in ("target", "objects") if name in known}
    return Truth(picture, Scene(picture, **known), **outside)


def blank(height: int = 8, width: int = 10) -> Tensor:
    return torch.zeros(3, height, width, dtype=torch.uint8)


def scores(scored: Any, clusters: Any = None) -> dict[str, float]:
    return {measure.name: measure.value for measure in scored.measures("test", clusters)}


def test_miou_is_that_of_the_summed_matrix_and_leaves_out_what_is_nowhere() -> None:
    scored = ClassScores(CLASSES)
    scored.add(
        {"labels": torch.tensor([[0, 0, 1], [1, 1, 2]])}, truth(labels=torch.tensor([[0, 0, 0], [1, 1, IGNORE]]))
    )
    scored.add({"labels": torch.tensor([[2, 2]])}, truth(labels=torch.tensor([[2, 1]])))
    found = scores(scored)
    # sky: 2 of 3; road: 2 right, 3 said, 3 true; car: 1 right, 2 said, 1 true; no boat.
    assert found["miou"] == pytest.approx((2 / 3 + 2 / 4 + 1 / 2) / 3)
    assert found["pixel_accuracy"] == pytest.approx(5 / 7)
    assert scored.per_class() == pytest.approx({"sky": 2 / 3, "road": 1 / 2, "car": 1 / 2, "boat": None})
    assert scored.notes()["absent_classes"] == 1
    (miou, _) = scored.measures("test", None)
    assert miou.interval.method == "bootstrap"
    assert miou.interval.low <= miou.value <= miou.interval.high
    assert miou.interval.n == 2


def test_depth_is_averaged_over_pictures_that_have_a_reading() -> None:
    scored = DENSE["bins"].scores(())
    known = torch.ones(1, 1, 4, dtype=torch.bool)
    true = torch.tensor([[[1.0, 2.0, 4.0, 9.0]]])
    known[0, 0, 3] = False
    scored.add({"values": torch.tensor([[1.0, 2.4, 8.0, 1.0]])}, truth(values=true, valid=known))
    scored.add({"values": torch.tensor([[1.0, 2.0, 4.0, 9.0]])}, truth(values=true, valid=~known))
    scored.add({"values": torch.ones(1, 4)}, truth(values=true, valid=torch.zeros_like(known)))
    found = scores(scored)
    assert found["rmse"] == pytest.approx(math.sqrt((0.16 + 16) / 3) / 2, rel=1e-6)
    assert found["abs_rel"] == pytest.approx((0.2 + 1) / 3 / 2, rel=1e-6)
    assert found["delta1"] == pytest.approx((2 / 3 + 1) / 2)
    assert scored.notes()["pictures_without_truth"] == 1


def test_directions_are_scored_by_their_angles() -> None:
    angles = torch.tensor([0.0, 10.0, 20.0, 25.0, 90.0]).deg2rad()
    ours = torch.stack([angles.sin(), torch.zeros(5), angles.cos()])[:, None]
    theirs = torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(3, 1, 5)
    scored = DENSE["directions"].scores(())
    scored.add({"vectors": ours}, truth(values=theirs, valid=torch.ones(1, 1, 5, dtype=torch.bool)))
    expected = {"angle_mean": 29, "angle_median": 20, "within_11.25": 0.4, "within_22.5": 0.6, "within_30": 0.8}
    assert scores(scored) == pytest.approx(expected, abs=1e-3)


def test_edges_are_found_within_the_tolerance_at_the_best_threshold() -> None:
    edges, near, far = torch.zeros(3, 100, 100)
    edges[:, 50] = 0.2  # one of five people
    near[:, 51] = 0.8  # a pixel off: the tolerance is 1 % of 141
    near[:, 10] = 0.3  # nothing is there, below the best threshold
    far[:, 60] = 0.8
    valid = torch.ones(1, 100, 100, dtype=torch.bool)
    for share, best in ((near, 1.0), (far, 0.0)):
        scored = DENSE["share"].scores(())
        scored.add({"share": share}, truth(100, 100, values=edges[None], valid=valid))
        assert scores(scored)["ods_f"] == pytest.approx(best)
    scored = DENSE["share"].scores(())
    scored.add({"share": near}, truth(100, 100, values=edges[None], valid=valid))
    assert scores(scored)["edge_ap"] == pytest.approx(1.0)
    half = edges.clone()
    half[50:] = 0
    scored = DENSE["share"].scores(())
    scored.add({"share": near * (near > 0.5)}, truth(100, 100, values=half[None], valid=valid))
    precision = (50 + 1) / 100  # the line reaches one pixel beyond the half that is there
    assert scores(scored)["ods_f"] == pytest.approx(2 * precision / (1 + precision))


def test_pictures_have_psnr_and_ssim() -> None:
    scored, right = DENSE["pixels"].scores(()), torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    asked = truth(values=right, valid=torch.ones(1, 16, 16, dtype=torch.bool))
    scored.add({"image": right + 0.1}, asked)
    assert scores(scored)["psnr"] == pytest.approx(20, abs=1e-4)
    equal = DENSE["pixels"].scores(())
    equal.add({"image": right}, asked)
    assert scores(equal) == pytest.approx({"psnr": 100, "ssim": 1})
    assert scores(scored)["ssim"] < 1


def test_counts_have_mean_and_squared_errors() -> None:
    scored = DENSE["density"].scores(())
    for count, there in ((3.0, 3), (5.0, 2), (0.0, 1)):
        scored.add({"count": count}, truth(boxes=torch.zeros(there, 4)))
    assert scores(scored) == pytest.approx({"count_mae": 4 / 3, "count_rmse": math.sqrt(10 / 3)})


def objects(*given: tuple[list[float], int, bool], points: Tensor | None = None) -> Objects:
    """Boxes by corners, labels, and whether they are crowds, in a picture of 8 × 10."""
    masks = []
    for (x0, y0, x1, y1), _, _ in given:
        mask = np.zeros((8, 10), dtype=np.uint8, order="F")
        mask[int(y0) : int(y1), int(x0) : int(x1)] = 1
        masks.append(coco_mask.encode(mask))
    return Objects(
        torch.tensor([box for box, *_ in given]).reshape(-1, 4), torch.tensor([label for _, label, _ in given]).long(),
        torch.tensor([crowd for *_, crowd in given], dtype=torch.bool), tuple(masks),
        points if points is not None else torch.zeros(len(given), 0, 3),
    )  # fmt: skip


def detections(*given: tuple[list[float], int, float], masks: bool = False) -> dict[str, Tensor]:
    boxes, labels, sure = zip(*given, strict=True)
    found = {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), "scores": torch.tensor(sure)}
    if masks:
        found["masks"] = torch.stack([torch.zeros(8, 10, dtype=torch.bool) for _ in given])
        for mask, (x0, y0, x1, y1) in zip(found["masks"], boxes, strict=True):
            mask[int(y0) : int(y1), int(x0) : int(x1)] = True
    return found


def test_average_precision_of_boxes() -> None:
    scored = ObjectScores(CLASSES, masks=False)
    # A perfect box, a wrong one that is less sure, one in a crowd that does not count, and an object of two missed.
    scored.add(
        detections(([0.0, 0, 4, 4], 2, 0.9), ([6.0, 0, 8, 2], 2, 0.5), ([0.0, 4, 4, 8], 2, 0.95)),
        truth(objects=objects(([0.0, 0, 4, 4], 2, False), ([0.0, 4, 10, 8], 2, True))),
    )
    scored.add(detections(([0.0, 0, 1, 1], 2, 0.1)), truth(objects=objects(([4.0, 4, 8, 8], 2, False))))
    found = scores(scored)
    assert found["box_ap"] == pytest.approx(51 / 101)  # precision 1 up to a recall of a half, at 101 points
    assert found["box_ap50"] == pytest.approx(51 / 101)
    assert scored.per_class() == {"sky": None, "road": None, "car": pytest.approx(51 / 101), "boat": None}
    assert scored.notes()["objects"] == 2


def test_a_box_that_is_half_right_counts_at_low_overlaps_alone() -> None:
    scored = ObjectScores(CLASSES, masks=False)
    scored.add(detections(([0.0, 0, 8, 6], 0, 0.9)), truth(objects=objects(([0.0, 0, 8, 8], 0, False))))  # IoU 0.75
    found = scores(scored)
    assert found["box_ap50"] == pytest.approx(1)
    assert found["box_ap"] == pytest.approx(0.6)  # 0.5, 0.55, 0.6, 0.65, 0.7 and 0.75 of ten


def test_masks_are_compared_pixel_by_pixel_and_the_interval_resamples_pictures() -> None:
    scored = ObjectScores(CLASSES, masks=True)
    right = ([1.0, 1, 5, 5], 1, False)
    for number in range(6):
        found = detections(([1.0, 1, 5, 5], 1, 0.9), masks=True)
        if number >= 3:
            found["masks"][:] = False
            found["masks"][:, 6:, 6:] = True
        scored.add(found, truth(objects=objects(right)))
    measures = {measure.name: measure for measure in scored.measures("test", None)}
    assert measures["box_ap"].value == pytest.approx(1)
    interval = measures["mask_ap"].interval
    assert 0 < interval.value < 0.6
    assert interval.low < interval.value < interval.high
    assert interval.n == 6


def test_resamples_add_up_as_pycocotools_does() -> None:
    draw = np.random.default_rng(0)

    def scored_on(pictures: list[int], made: list[tuple[Any, Any]]) -> ObjectScores:
        scored = ObjectScores(CLASSES, masks=False)
        for number in pictures:
            scored.add(*made[number])
        return scored

    made = []
    for _ in range(5):
        corner = draw.integers(0, 4, (4, 2)).astype(float)
        there = [([x, y, x + 4.0, y + 4.0], int(draw.integers(3)), bool(draw.random() < 0.2)) for x, y in corner]
        found = [([x + draw.normal(), y, x + 4.0, y + 4.0], int(draw.integers(3)), draw.random()) for x, y in corner]
        found += [(box, label, draw.random()) for box, label, _ in there[:2]]
        made.append((detections(*found), truth(objects=objects(*there))))
    picked = np.array([0, 3, 3, 1, 0])
    first, again = scored_on([0, 1, 2, 3, 4], made), scored_on(picked.tolist(), made)
    for rows, name in ((slice(None), "box_ap"), (slice(1), "box_ap50")):
        weights = np.bincount(picked, minlength=5)
        values = [of.precision(weights, rows) for of in matched_classes(first.boxes._matched()) if weights @ of.objects]
        assert np.mean(values) == pytest.approx(scores(again)[name], abs=1e-12)
        assert 0 < scores(again)[name] < 1


def test_no_detections_and_no_objects_are_scores_too() -> None:
    scored, nothing = ObjectScores(CLASSES, masks=True), detections(([0.0, 0, 1, 1], 0, 0.1), masks=True)
    nothing = {name: value[:0] for name, value in nothing.items()}
    scored.add(nothing, truth(objects=objects()))
    assert scores(scored) == {}
    scored.add(nothing, truth(objects=objects(([1.0, 1, 5, 5], 1, False))))
    assert scores(scored) == dict.fromkeys(("mask_ap", "mask_ap50", "box_ap", "box_ap50"), 0.0)


def test_points_are_near_within_a_tenth_of_the_diagonal_of_picture_or_body() -> None:
    points = torch.tensor([[10.0, 10, 2], [30, 40, 1], [0, 0, 0]])
    answer = {"points": torch.tensor([[13.0, 14], [30, 48], [99, 99]]), "scores": torch.ones(3)}
    scored = PointScores(("a", "b", "c"))
    scored.add(answer, truth(60, 80, points=points))  # diagonal 100
    assert scores(scored) == pytest.approx({"pck@0.1": 1.0, "distance_px": 6.5})
    assert "picture" in scored.notes()["how"]
    body = Objects(
        torch.tensor([[5.0, 5, 41, 53]]), torch.zeros(1).long(), torch.zeros(1).bool(), (None,), points[None]
    )  # diagonal 60
    scored = PointScores(("a", "b", "c"))
    scored.add(answer, truth(60, 80, points=points, objects=body))
    found = scores(scored)
    assert found["pck@0.1"] == 0.5
    # OKS by hand: e^(−d² / (2 s² k²)), s² the area, k twice sigma; 0.69 counts at 4 of ten thresholds.
    area, k = 36 * 48, 2 * 0.05
    similar = (math.exp(-25 / (2 * area * k**2)) + math.exp(-64 / (2 * area * k**2))) / 2
    passed = sum(similar >= t for t in np.linspace(0.5, 0.95, 10)) / 10
    assert found["oks_ap"] == pytest.approx(passed)
    assert "body" in scored.notes()["how"]


def test_presence_counts_what_is_known() -> None:
    scored = PresenceScores(("a", "b", "c"))
    for shares, there in (([0.9, 0.2, 0.5], [1, 0, -1]), ([0.8, 0.6, 0.1], [0, 0, -1]), ([0.1, 0.7, 0.1], [1, 1, -1])):
        scored.add({"presence": torch.tensor(shares)}, truth(target=torch.tensor(there).float()))
    found = scores(scored)
    # a: one of two found, the one that is not there is said; b: found, one of two that are not there is said.
    assert found["mA"] == pytest.approx(((0.5 + 0) / 2 + (1 + 0.5) / 2) / 2)
    assert found["map"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert scored.notes()["attributes"] == 2


def test_identities_are_looked_for_among_all_other_pictures() -> None:
    scored = IdentityScores()
    for angle, who in ((0, "a"), (10, "a"), (25, "b"), (50, "b"), (180, "c")):
        radians = math.radians(angle)
        scored.add({"features": torch.tensor([math.cos(radians), math.sin(radians)])}, truth(target=who))
    # The nearest of b at 25 is a at 10, then a at 0 or b at 50 (25 off each: the order of ties decides nothing here).
    found = scores(scored)
    assert found["rank1"] == pytest.approx(3 / 4)
    assert 1 - (1 - 1 / 3) / 4 <= found["retrieval_map"] <= 1 - (1 - 1 / 2) / 4
    assert scored.notes()["alone"] == 1
    (precision, _) = scored.measures("test", None)
    assert precision.interval.clusters == 2  # nobody looks for c


def test_baselines_answer_without_looking() -> None:
    known = torch.ones(1, 4, 4, dtype=torch.bool)
    left = torch.tensor([0, 0, 1, 1]).expand(4, 4)

    def fitted(read: str, training: list[Truth], names: tuple[str, ...] = CLASSES) -> Any:
        found = DENSE[read].baselines(make_spec(read, 1, **({"scale": 2} if read == "pixels" else {})), names, training)
        assert [*found][-1] == "nearest training picture"
        return found["mean at each place"] if "mean at each place" in found else next(iter(found.values()))

    majority = fitted("classes", [truth(4, 4, labels=left), truth(4, 4, labels=left), truth(4, 4, labels=1 - left)])
    assert torch.equal(majority(blank(8, 8))["labels"], torch.tensor([0] * 4 + [1] * 4).expand(8, 8))
    depths = [truth(4, 4, values=torch.full((1, 4, 4), d), valid=known) for d in (1.0, 3.0)]
    torch.testing.assert_close(fitted("bins", depths)(blank(6, 5))["values"], torch.full((6, 5), 2.0))
    halves = [truth(2, 2, values=torch.tensor([[[1.0, d], [1.0, d]]]), valid=known[:, :2, :2]) for d in (2.0, 4.0)]
    of_all = DENSE["bins"].baselines(make_spec("bins", 1), (), halves)["mean of all"]
    torch.testing.assert_close(of_all(blank(4, 6))["values"], torch.full((4, 6), 2.0))
    torch.testing.assert_close(fitted("bins", halves)(blank(2, 2))["values"], torch.tensor([[1.0, 3.0], [1.0, 3.0]]))
    colours = [truth(4, 4, values=torch.full((3, 4, 4), c), valid=known) for c in (0.2, 0.6)]
    torch.testing.assert_close(fitted("pixels", colours)(blank(6, 5))["image"], torch.full((3, 12, 10), 0.4))
    points = [truth(8, 10, points=torch.tensor([[x, 4.0, 2], [1, 1, 0]])) for x in (2.0, 4.0)]
    torch.testing.assert_close(
        fitted("points", points, ("a", "b"))(blank(16, 20))["points"], torch.tensor([[6.0, 8.0], [10.0, 8.0]])
    )
    assert fitted("density", [truth(boxes=torch.zeros(n, 4)) for n in (1, 4)])(blank())["count"] == 2.5
    shares = fitted("presence", [truth(target=torch.tensor(p)) for p in ([1.0, -1], [0.0, 1])])(blank())["presence"]
    assert shares.tolist() == [0.5, 1.0]
    boxes = fitted("masks", [truth(objects=objects(([0.0, 0, 4, 4], 1, False))), truth(objects=objects())])(
        blank(16, 20)
    )
    assert boxes["boxes"][1].tolist() == [0, 0, 8, 8]
    assert boxes["scores"].tolist() == [0, 0.5, 0, 0]
    assert int(boxes["masks"][1].sum()) == 64
    assert DENSE["classes"].baselines(make_spec("classes", 3), CLASSES, None) == {}
    for read, training, name in (("pixels", None, "input itself"), ("identity", [], "8 × 8 pixels")):
        assert [*DENSE[read].baselines(make_spec(read, 1), (), training)] == [name]

"""OKS beside pycocotools' own evaluation of keypoints, and the areas that it divides by."""

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dense_sources import build, samples
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from unified.answers.table import make_spec
from unified.core.errors import DataError
from unified.data.augment.geometric import Scene
from unified.data.samples.annotations import Objects
from unified.evaluate.dense.evaluation import Truths
from unified.evaluate.dense.keypoints import COCO_JOINTS, COCO_SIGMAS, PointScores, joint_sigmas
from unified.evaluate.dense.table import DENSE
from unified.evaluate.dense.targets import Truth
from unified.modalities.image.tokenizer import ImageSpec, ImageTokenizer

DATA = Path(__file__).parents[4] / "shared" / "data" / "coco_mini"
TOKENIZER = ImageTokenizer(ImageSpec(64, 64, (0.5,) * 3, (0.5,) * 3), 16)
PICTURE = torch.zeros(3, 120, 80, dtype=torch.uint8)


def body(points: torch.Tensor, mask: Any = None, **area: Any) -> Truth:
    """A body whose box is 40 × 100."""
    box, label, crowd = torch.tensor([[0.0, 0, 40, 100]]), torch.tensor([0]), torch.tensor([False])
    there = Objects(box, label, crowd, (mask,), points[None], **area)
    return Truth(PICTURE, Scene(PICTURE, points=points), objects=there)


def joints() -> torch.Tensor:
    """17 labelled joints that span the box."""
    places = torch.rand(17, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([40.0, 100])
    places[0], places[1] = torch.tensor([0.0, 0.0]), torch.tensor([40.0, 100.0])
    return torch.cat([places, torch.full((17, 1), 2.0)], dim=1)


def oks_ap(area: float, off: float = 4.0) -> float:
    """AP of one body all of whose joints are `off` pixels away."""
    oks = np.exp(-(off**2) / (2 * area * (2 * np.array(COCO_SIGMAS) / 10) ** 2)).mean()
    return float(np.mean([oks >= threshold for threshold in np.arange(0.5, 1, 0.05)]))


def pixels(area: int) -> dict[str, Any]:
    """Run lengths of so many pixels."""
    flat = np.zeros(120 * 80, dtype=np.uint8)
    flat[:area] = 1
    return coco_mask.encode(np.asfortranarray(flat.reshape(120, 80)))


@pytest.mark.parametrize(
    ("mask", "given", "area", "source"),
    [
        (None, {"area": torch.tensor([1480.0])}, 1480, "annotation"),
        (pixels(900), {"area": torch.tensor([1480.0])}, 1480, "annotation"),
        (pixels(900), {}, 900, "mask"),
        (None, {}, 4000, "box"),
    ],
)
def test_oks_takes_the_area_of_the_annotation_else_of_the_mask_else_of_the_box(
    mask: Any, given: dict[str, Any], area: float, source: str
) -> None:
    points = joints()
    scored = PointScores([str(number) for number in range(17)])
    answer = {"points": points[:, :2] + torch.tensor([4.0, 0.0]), "scores": torch.ones(17)}
    scored.add(answer, body(points, mask, **given))
    assert {one.name: one.value for one in scored.measures("x", None)}["oks_ap"] == pytest.approx(oks_ap(area))
    assert scored.notes()["areas"] == {source: 1}
    assert f"1 from the {source}" in scored.notes()["how"]
    assert len({oks_ap(area) for area in (1480, 900, 4000)}) == 3


def test_sigmas_go_by_the_names_of_joints() -> None:
    assert joint_sigmas(COCO_JOINTS[::-1]) == COCO_SIGMAS[::-1]
    assert joint_sigmas(["right_ankle", "nose"]) == (0.89, 0.26)
    assert joint_sigmas(["snout", "tail"]) == (0.5, 0.5)


def reader() -> Truths:
    spec = make_spec("points", 17, names=COCO_JOINTS)
    return Truths("pose", DENSE["points"], spec, COCO_JOINTS, "png", None, TOKENIZER)


def test_crowds_and_bodies_without_a_labelled_joint_are_not_counted_against() -> None:
    item = {"label": "person", "box": [0, 0, 40, 100], "crowd": False, "points": {"nose": [10, 10, 2]}}
    elsewhere = {**item, "box": [40, 0, 80, 100]}
    listed = [
        item, {**elsewhere, "points": {}}, {**elsewhere, "crowd": True}, {"label": "car", "box": [0, 0, 80, 120]},
    ]  # fmt: skip
    facts = {"width": 80, "height": 120, "points": {"nose": [10, 10, 2]}, "objects": listed}
    truth = reader()({"__key__": "a", "png": PICTURE, "json": facts}, 0)
    assert truth.objects is not None
    assert len(truth.objects.boxes) == 3  # no car
    right, beside = torch.full((17, 2), 10.0), torch.full((17, 2), 60.0)
    for places, expected in ((right, 1.0), (beside, 0.0)):
        scored = PointScores(COCO_JOINTS)
        scored.add({"points": places, "scores": torch.ones(17)}, truth)
        assert {one.name: one.value for one in scored.measures("x", None)}["oks_ap"] == pytest.approx(expected)
        assert scored.notes()["areas"] == {"box": 1}


@pytest.mark.parametrize("wrong", [{"area": "wide"}, {"area": -1.0}, {"area": 9, "area_source": "guess"}])
def test_wrong_areas_are_named(wrong: dict[str, Any]) -> None:
    item = {"label": "person", "box": [0, 0, 40, 100], "points": {"nose": [10, 10, 2]}, **wrong}
    facts = {"width": 80, "height": 120, "points": {}, "objects": [item]}
    with pytest.raises(DataError, match=r"s\.tar: a: column 'json': area"):
        reader()({"__key__": "a", "__shard__": "s.tar", "png": PICTURE, "json": facts}, 0)


def test_cuts_of_one_image_are_matched_and_resampled_as_that_image() -> None:
    item = {"label": "person", "box": [0, 0, 40, 60], "crowd": False, "area": 900, "points": {"nose": [10, 10, 2]}}
    cut = {"image": "a", "left": 100, "top": 50, "beside": [{"box": [500, 0, 540, 90], "area": 3000, "crowd": False}]}
    facts = {"width": 80, "height": 120, "points": item["points"], "objects": [item]}
    scored = PointScores(COCO_JOINTS)
    for name, left, place in (("a", 100, 10.0), ("a", 110, 0.0), ("a", 500, 20.0), ("b", 0, 10.0)):
        sample = {"__key__": "k", "png": PICTURE, "json": {**facts, "cut": {**cut, "image": name, "left": left}}}
        answer = {"points": torch.tensor([[place, 10.0]]).expand(17, -1), "scores": torch.full((17,), 0.5)}
        scored.add(answer, reader()(sample, 0))
    # The second answer is at the nose of the first body, which is taken; the third lies on a body that nobody labelled.
    (ap, _) = [one for one in scored.measures("x", None) if one.name.startswith("oks")]
    assert len(scored.bodies.pictures) == 2
    assert ap.interval.n == 2
    assert len(scored.bodies.truths) == 6  # four bodies, and the one beside them once an image
    clustered = scored.measures("x", np.array([0, 0, 0, 1]))
    assert clustered[-1].interval.n == 2


@pytest.mark.parametrize("cut", [{}, [], {"image": "a", "left": "x", "top": 0, "beside": []}, {"image": "a"}])
def test_wrong_cuts_are_named(cut: Any) -> None:
    facts = {"width": 80, "height": 120, "points": {}, "objects": [], "cut": cut}
    with pytest.raises(DataError, match=r"s\.tar: a: column 'json': cut: expected image, left, top and beside"):
        reader()({"__key__": "a", "__shard__": "s.tar", "png": PICTURE, "json": facts}, 0)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")
def test_oks_of_bodies_cut_out_is_that_of_cocoeval_on_whole_images(tmp_path: Path) -> None:
    """Joints off by a share of the body's size, the same in both; COCO's document is as it was published."""
    document = json.loads((DATA / "person_keypoints.json").read_text())
    build("coco", DATA, tmp_path / "out", crops="person")
    read, cuts = reader(), sorted(samples(tmp_path / "out").items())
    assert len(cuts) == sum(one["num_keypoints"] > 0 for one in document["annotations"]) == 86
    truths = [read(cut, number) for number, (_, cut) in enumerate(cuts)]
    annotations = [annotation_of(truth, document) for truth in truths]
    draw, found = np.random.default_rng(3), []
    for spread in (0.02, 0.04, 0.08):
        scored, answers = PointScores(COCO_JOINTS), []
        for truth, annotation in zip(truths, annotations, strict=True):
            *_, across, down = annotation["bbox"]
            ours, sure = joints_of(truth) + draw.normal(size=(17, 2)) * spread * np.sqrt(across * down), draw.random()
            scored.add({"points": torch.from_numpy(ours).float(), "scores": torch.full((17,), sure)}, truth)
            theirs = np.concatenate([ours + corner_of(truth), np.ones((17, 1))], axis=1).ravel().tolist()
            answers.append(
                {"image_id": annotation["image_id"], "category_id": 1, "keypoints": theirs, "score": float(sure)}
            )
        expected = cocoeval(document, answers)
        found.append(expected[0])
        measured = {one.name: one for one in scored.measures("x", None)}
        values = [measured[name].value for name in ("oks_ap", "oks_ap50")]
        assert values == pytest.approx([*expected[:2]], abs=1e-6)
        assert measured["oks_ap"].interval.n == len({one["image_id"] for one in annotations})
        assert scored.notes()["areas"] == {"annotation": 86}
    assert 0.9 > found[0] > found[1] > found[2] > 0.02


def annotation_of(truth: Truth, document: dict[str, Any]) -> dict[str, Any]:
    """The published annotation that has the joints of a cut in its image."""
    assert truth.cut is not None
    assert truth.objects is not None
    (images,) = (
        [one["id"] for one in document["images"] if Path(one["file_name"]).stem == Path(truth.cut.image).name],
    )
    known = truth.objects.points[0, :, 2].numpy() > 0
    places = (joints_of(truth) + corner_of(truth))[known]
    (found,) = [
        one for one in document["annotations"]
        if one["image_id"] in images and one["num_keypoints"] == known.sum()
        and np.allclose(np.reshape(one["keypoints"], (17, 3))[known, :2], places, atol=1.01)
        and abs(one["area"] - float(truth.objects.area[0])) < 0.1
    ]  # fmt: skip
    return found


def corner_of(truth: Truth) -> np.ndarray:
    """Where the cut lies in its image."""
    assert truth.cut is not None
    return np.array([truth.cut.left, truth.cut.top])


def joints_of(truth: Truth) -> np.ndarray:
    """The places of the one body's joints in the cut."""
    assert truth.objects is not None
    return truth.objects.points[0, :, :2].numpy().astype(float)


def cocoeval(document: dict[str, Any], answers: list[dict[str, Any]]) -> np.ndarray:
    """COCO's ten numbers."""
    truth = COCO()
    truth.dataset = copy.deepcopy(document)  # the evaluator writes into it
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(answers), "keypoints")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats

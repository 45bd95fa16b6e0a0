"""What is known of a picture moves with its pixels, and becomes the target of a batch."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from squares import LISTS, PEOPLE, picture, png, tasks

from unified.config.labels import partners
from unified.config.task import Task
from unified.core.errors import DataError, RecipeError
from unified.core.schema import build
from unified.core.types import IGNORE, Batch, Sample
from unified.data.augment.geometric import CropScene, FlipScene, Scene, cut, flipped, padded, resized
from unified.data.samples.decode import decode
from unified.modalities.image.tokenizer import ImageSpec, ImageTokenizer
from unified.pipeline.dense_collate import SceneCollator

SPEC = ImageSpec(height=32, width=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resample=2)
TOKENIZER = ImageTokenizer(SPEC, patch=8)
NAMES = {"left eye": (5.0, 3.0), "right eye": (11.0, 4.0), "tail": (8.0, 9.0)}


def scene() -> Scene:
    """A white block in each of three channels for a box, a mask, a class, a value, and a dot at each point."""
    image = torch.zeros(3, 12, 16, dtype=torch.uint8)
    rows, columns = slice(2, 7), slice(3, 9)
    image[:, rows, columns] = 255
    there = image[0] > 0
    return Scene(
        image=image,
        labels=torch.where(there, 2, IGNORE),
        values=torch.stack([there * 1.0, there * 2.0, there * 3.0]),
        valid=there[None],
        boxes=torch.tensor([[3.0, 2.0, 9.0, 7.0]]),
        classes=torch.tensor([4]),
        masks=there[None],
        areas=there.sum()[None].float(),
        points=torch.tensor([[x, y, 2.0] for x, y in NAMES.values()]),
    )


def assert_agreement(found: Scene) -> None:
    """Everything lies where the white pixels are."""
    white = found.image[0] > 127
    rows, columns = torch.where(white)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert found.boxes is not None
    assert found.boxes.tolist() == [[float(edge) for edge in expected]]
    assert found.masks is not None
    assert found.masks[0].equal(white)
    assert found.labels is not None
    assert (found.labels == 2).equal(white)
    assert found.valid is not None
    assert found.valid[0].equal(white)
    assert found.values is not None
    assert found.values[1].equal(white * 2.0)


def test_everything_moves_with_the_pixels() -> None:
    start = scene()
    assert_agreement(start)
    mirrored = flipped(start, [0, 1, 2])
    assert_agreement(mirrored)
    assert_agreement(cut(start, 1, 2, 10, 12))
    assert_agreement(cut(mirrored, 4, 9, 8, 7))  # through the object
    assert_agreement(resized(start, 24, 48, "bilinear"))
    assert_agreement(resized(cut(start, 0, 1, 12, 14), 12, 7, "bilinear"))


def test_a_mirror_exchanges_left_and_right_points() -> None:
    assert partners(list(NAMES)) == [1, 0, 2]
    assert partners(["left_hip", "nose", "right_knee", "right_hip"]) == [3, 1, 2, 0]  # a knee alone stays itself
    assert partners(["LeftEye", "RightEye", "leftear", "rightear"]) == [1, 0, 3, 2]
    start = scene()
    found = flipped(start, partners(list(NAMES)))
    assert found.points is not None
    assert found.points.tolist() == [[5, 4, 2], [11, 3, 2], [8, 9, 2]]
    twice = flipped(found, partners(list(NAMES)))
    assert all(getattr(twice, name).equal(getattr(start, name)) for name in ("image", "points", "boxes", "masks"))


def test_directions_turn_in_a_mirror_and_other_values_do_not() -> None:
    start = scene()
    assert start.values is not None
    bare = replace(start, points=None)
    turned = flipped(replace(bare, vectors=True), []).values
    kept = flipped(bare, []).values
    assert kept is not None
    assert kept.equal(start.values.flip(-1))
    assert turned is not None
    assert turned.equal(kept * torch.tensor([-1.0, 1, 1])[:, None, None])


def test_areas_are_of_whole_objects_and_grow_with_the_picture() -> None:
    start = scene()
    assert start.areas is not None
    for changed, factor in (
        (flipped(start, [0, 1, 2]), 1.0),
        (cut(start, 0, 4, 12, 12), 1.0),
        (cut(start, 4, 2, 8, 12), 1.0),  # through the object
        (resized(start, 24, 48, "bilinear"), 6.0),  # of 12 × 16
        (resized(cut(start, 0, 4, 12, 12), 6, 12, "bilinear"), 0.5),
    ):
        assert changed.areas is not None
        assert changed.areas.tolist() == pytest.approx([float(start.areas[0]) * factor])


def test_a_cut_drops_objects_of_which_little_is_left_and_forgets_points_outside() -> None:
    start = scene()
    most = cut(start, 0, 4, 12, 12)
    assert most.points is not None
    assert most.points.tolist() == [[1, 3, 2], [7, 4, 2], [4, 9, 2]]
    assert_agreement(most)
    little = cut(start, 0, 8, 12, 8)  # a sixth of the object
    assert little.boxes is not None
    assert little.masks is not None
    assert little.classes is not None
    assert little.areas is not None
    assert (len(little.boxes), len(little.classes), len(little.masks), len(little.areas)) == (0, 0, 0, 0)
    assert little.points is not None
    assert little.points.tolist() == [[0, 0, 0], [3, 4, 2], [0, 9, 2]]
    empty = resized(flipped(little, [0, 1, 2]), 3, 5, "bilinear")
    assert empty.boxes is not None
    assert empty.masks is not None
    assert (empty.boxes.shape, empty.masks.shape) == ((0, 4), (0, 3, 5))


def test_random_cuts_stay_inside_and_have_the_size_that_was_asked_for() -> None:
    change, start = CropScene(area=(0.25, 0.25), ratio=(1.0, 1.0)), scene()
    corners = []
    for draws in np.random.default_rng(0).random((20, 5)):
        found = change(start, draws, [0, 1, 2])
        assert found.size == (6, 8)
        corners.append(found.image.float().mean().item())
    assert len(set(corners)) > 3
    assert change(start, np.array([0, 0, 1 - 1e-9, 1 - 1e-9, 0]), [0, 1, 2]).image.equal(start.image[:, 6:, 8:])
    assert FlipScene().probability == 0.5


@pytest.mark.parametrize("size", [(1, 1), (8000, 50), (3, 700)])
def test_pictures_of_any_size_are_resized(size: tuple[int, int]) -> None:
    height, width = size
    whole = Scene(
        image=torch.full((3, height, width), 200, dtype=torch.uint8),
        labels=torch.ones(height, width, dtype=torch.long),
        boxes=torch.tensor([[0.0, 0.0, width, height]]),
        classes=torch.zeros(1, dtype=torch.long),
    )
    draws = np.array([0.0, 0.9, 0.5, 0.5, 0.0])
    found = resized(CropScene()(whole, draws, []), 32, 32, "bilinear")
    assert (found.image == 200).all()
    assert found.labels is not None
    assert (found.labels == 1).all()
    assert found.boxes is not None
    torch.testing.assert_close(found.boxes, torch.tensor([[0.0, 0.0, 32, 32]]))


# batches


def sample(number: int, side: int = 32, **changes: Any) -> Sample:
    columns = {**picture(number, side), **changes}
    columns |= {"json": json.dumps(columns["json"]).encode(), "txt": columns["txt"].encode()}
    return decode({"__key__": f"k{number}", "__shard__": "s.tar", **columns}, tuple(columns))


def collator(name: str, **changes: Any) -> SceneCollator:
    task = build(Task, {**tasks(Path("lists"))[name], **changes}, name)
    names = {"softmax": "classes", "named": "classes", "classes": "classes"}.get(name, "colours")
    if name == "count":
        return SceneCollator(name, task, TOKENIZER, (), (), 3)
    return SceneCollator(name, task, TOKENIZER, LISTS[names], PEOPLE, 3)


def batch(name: str, samples: list[Sample], start: int = 0, **changes: Any) -> Batch:
    made = collator(name, **changes)
    return made.batch([made.example(each) for each in samples], np.arange(start, start + len(samples)))


def test_targets_of_every_reading() -> None:
    samples = [sample(0), sample(3)]  # the second one has no green square
    found = {name: batch(name, samples).target for name in tasks(Path())}
    assert found["classes"]["labels"].shape == (2, 32, 32)
    assert found["classes"]["labels"].amax((1, 2)).tolist() == [2, 1]
    assert found["boxes"]["labels"].tolist() == [[0, 1], [0, IGNORE]]
    assert found["masks"]["masks"].shape == (2, 2, 8, 8)
    assert not found["masks"]["masks"][1, 1].any()
    assert found["points"]["points"][..., 2].tolist() == [[2, 2], [2, 0]]  # a missing one is unknown
    assert found["count"]["points"][..., 2].sum(1).tolist() == [2, 1]
    assert found["attributes"]["presence"].tolist() == [[1, 1], [1, 0]]
    assert found["who"]["identity"].tolist() == [1, 0]
    assert found["depth"]["map"].unique().tolist() == pytest.approx([1.0, 1.5, 2.0])
    assert found["depth"]["valid"].all()
    assert found["edges"]["map"].unique().tolist() == [0, 1]
    norms = found["normals"]["map"].norm(dim=1, keepdim=True)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    assert found["denoise"]["map"].shape == (2, 3, 32, 32)
    assert found["larger"]["map"].shape == (2, 3, 64, 64)


@pytest.mark.parametrize("side", [32, 50])
def test_boxes_masks_and_points_of_a_batch_lie_on_its_pixels(side: int) -> None:
    changes = [{"kind": "flip"}, {"kind": "crop", "area": [0.6, 1.0]}]
    samples = [sample(number, side) for number in range(8)]
    seen = 0
    for start in (0, 8):
        boxes = batch("masks", samples, start, augment=changes)
        labels = batch("classes", samples, start, augment=changes)  # other draws: by the name of the task
        pixels = boxes.inputs["image"].values.view(8, 4, 4, 8, 8, 3).permute(0, 5, 1, 3, 2, 4).reshape(8, 3, 32, 32)
        for row in range(8):
            for place, label in enumerate(boxes.target["labels"][row].tolist()):
                if label == IGNORE:
                    continue
                bright = pixels[row, label] > 140
                rows, columns = torch.where(bright)
                x, y, w, h = (32 * boxes.target["boxes"][row, place]).tolist()
                ours = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
                theirs = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                assert (ours - theirs).abs().max() <= 1.5
                coarse = torch.nn.functional.avg_pool2d(bright[None, None].float(), 4)[0, 0]
                mask = boxes.target["masks"][row, place]
                assert (mask[(coarse > 0.95)]).all()
                assert not (mask[(coarse < 0.05)]).any()
                seen += 1
        assert labels.target["labels"].shape == (8, 32, 32)
    assert seen > 20


def test_a_batch_is_a_function_of_samples_and_indices_alone() -> None:
    changes = [{"kind": "flip"}, {"kind": "crop"}, {"kind": "contrast", "contrast": [0.7, 1.3]}]
    samples = [sample(number) for number in range(4)]
    whole = batch("boxes", samples, 10, augment=changes)
    parts = [batch("boxes", samples[i : i + 2], 10 + i, augment=changes) for i in (0, 2)]
    assert torch.cat([part.inputs["image"].values for part in parts]).equal(whole.inputs["image"].values)
    again = batch("boxes", samples, 14, augment=changes)
    assert not again.inputs["image"].values.equal(whole.inputs["image"].values)


def test_operators_are_asked_about_the_changed_picture() -> None:
    contrast = [{"kind": "contrast", "contrast": [0.5, 0.5]}]
    found = batch("larger", [sample(0)], augment=contrast, answer={"map": "pixels", "operator": "identity"})
    pixels = found.inputs["image"].values.view(1, 4, 4, 8, 8, 3).permute(0, 5, 1, 3, 2, 4).reshape(1, 3, 32, 32)
    torch.testing.assert_close(found.target["map"], pixels / 255)


def test_coarse_masks_and_counts_of_named_classes() -> None:
    made = SceneCollator(
        "count",
        build(Task, {**tasks(Path("lists"))["count"], "answer": {"map": "density", "names": "x"}}, "count"),
        TOKENIZER, ("green",), (), 3,
    )  # fmt: skip
    found = made.batch([made.example(sample(0)), made.example(sample(3))], np.arange(2))
    assert found.target["points"][..., 2].sum(1).tolist() == [1, 0]


def test_pictures_without_objects_and_crowds() -> None:
    facts = picture(0)["json"]
    empty = sample(0, json={**facts, "objects": []})
    crowd = sample(0, json={**facts, "objects": [{**facts["objects"][0], "crowd": True}, facts["objects"][1]]})
    found = batch("masks", [empty, crowd]).target
    assert found["labels"].tolist() == [[IGNORE], [1]]
    assert found["masks"].shape == (2, 1, 8, 8)
    none = batch("boxes", [empty, empty]).target
    assert none["labels"].tolist() == [[IGNORE]] * 2
    assert none["boxes"].shape == (2, 1, 4)
    assert batch("count", [empty]).target["points"].tolist() == [[[0, 0, 0]]]


def test_rows_are_filled_up_at_the_end() -> None:
    found = padded([torch.tensor([[1, 2]]), torch.zeros(0, 2, dtype=torch.long)], IGNORE)
    assert found.tolist() == [[[1, 2]], [[IGNORE, IGNORE]]]
    assert found.dtype == torch.long


def changed(name: str, **facts: Any) -> Sample:
    return sample(0, json={**picture(0)["json"], **facts})


@pytest.mark.parametrize(
    ("name", "facts", "message"),
    [
        ("boxes", {"objects": [{"label": "blue", "box": [0, 0, 4, 4]}]}, "'blue' is none of the 2 classes"),
        ("boxes", {"objects": [{"label": "red", "box": [0, 0, 4, float("nan")]}]}, "not four finite numbers"),
        ("boxes", {"objects": [{"label": "red", "box": [20, 0, 44, 4]}]}, "box outside the image"),
        ("masks", {"objects": [{"label": "red", "box": [0, 0, 4, 4], "mask": {"size": [4, 4], "counts": ""}}]}, "mask"),
        ("points", {"points": {"red": [1, 2]}}, "expected .x, y, 0 . 1 . 2."),
        ("attributes", {"attributes": {"red": 3}}, "expected 1, 0 or -1"),
        ("who", {"identity": 7}, "expected a text"),
        ("depth", {"depth_unit": 0}, "depth_unit"),
        ("classes", {"width": 31}, "its facts say 31×32"),
    ],
)
def test_bad_samples_say_where_they_are(name: str, facts: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"k0.*{message}"):
        collator(name).example(changed(name, **facts))


def test_class_numbers_beyond_the_list_and_pictures_that_are_none() -> None:
    with pytest.raises(DataError, match="class 3 is beyond the list of 3"):
        collator("classes").example(sample(0, **{"classes.png": png(np.full((32, 32), 3, np.uint8))}))
    with pytest.raises(DataError, match="column 'png': expected an image"):
        collator("classes").example({**sample(0), "png": "text"})
    with pytest.raises(DataError, match=r"column 'depth.png': missing"):
        collator("depth").example({key: value for key, value in sample(0).items() if key != "depth.png"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": [{"kind": "affine"}]}, "'affine' cannot change what is known of places"),
        ({"augment": [{"kind": "flop"}]}, "did you mean 'flip'"),
    ],
)
def test_recipes_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        collator("denoise", **changes)


def test_depth_keeps_sixteen_bits() -> None:
    stored = np.full((32, 32), 40000, np.uint16)
    found = batch("depth", [sample(0, **{"depth.png": png(stored)})]).target
    assert found["map"].unique().tolist() == pytest.approx([40.0])


def test_more_objects_than_queries_are_told_by_their_sample() -> None:
    answer = {"regress": "boxes", "names": "x", "queries": 1}
    made = collator("boxes", answer=answer)
    assert made.example(sample(3)).scene.boxes is not None
    with pytest.raises(DataError, match="k0: 2 objects, and task 'boxes' has 1 queries"):
        made.example(sample(0))

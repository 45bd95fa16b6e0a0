"""COCO documents as they come: several kinds in one, nulls, texts for numbers, skeletons, repeated numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
from dense_sources import HEIGHT, WIDTH, build, fill, picture, samples

from unified.core.errors import DataError

CATEGORIES = [{"id": 1, "name": "dog"}, {"id": 90, "name": "cat"}]
JOINTS = ["nose", "left_ear", "right_ear"]


def image(number: Any, name: str = "a.png", **changes: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT} | changes


def instance(number: Any = 1, of: Any = 1, **changes: Any) -> dict[str, Any]:
    return {"id": number, "image_id": of, "category_id": 1, "bbox": [1, 1, 3, 3], "iscrowd": 0} | changes


def caption(number: int, text: Any, **changes: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "caption": text} | changes


def source(folder: Path, *annotations: dict[str, Any], images: Any = None, categories: Any = None) -> Path:
    listed = images or [image(1)]
    files: dict[str, Any] = {one["file_name"]: picture(seed=n) for n, one in enumerate(listed) if one.get("file_name")}
    document = {"images": listed, "annotations": list(annotations), "categories": categories or CATEGORIES}
    return fill(folder, {**files, "i.json": document})


def packed(
    folder: Path, *annotations: dict[str, Any], skip_bad: bool = False, **parts: Any
) -> dict[str, dict[str, Any]]:
    """The facts of each sample."""
    build("coco", source(folder / "s", *annotations, **parts), folder / "out", skip_bad=skip_bad)
    return {key: one["json"] for key, one in samples(folder / "out").items()}


def test_a_document_may_hold_objects_and_captions(tmp_path: Path) -> None:
    facts = packed(tmp_path, instance(), caption(2, "a dog on grass"))["a"]
    assert (len(facts["objects"]), facts["captions"]) == (1, ["a dog on grass"])


@pytest.mark.parametrize("text", ["the dog", None])
def test_an_object_with_a_caption_stays_an_object(tmp_path: Path, text: str | None) -> None:
    facts = packed(tmp_path, instance(caption=text))["a"]
    assert len(facts["objects"]) == 1
    assert facts.get("captions") == (["the dog"] if text else None)


@pytest.mark.parametrize("empty", [{"bbox": [], "segmentation": [], "category_id": 0}, {"bbox": None}])
def test_a_caption_with_empty_fields_is_no_object(tmp_path: Path, empty: dict[str, Any]) -> None:
    facts = packed(tmp_path, caption(1, "a dog", **empty))["a"]
    assert facts == {"width": WIDTH, "height": HEIGHT, "captions": ["a dog"]}


@pytest.mark.parametrize("text", [None, "", "  ", 7, ["a"], "half \ud83d"])
def test_a_caption_that_is_no_text_is_one_problem(tmp_path: Path, text: Any) -> None:
    notes = [caption(1, text), caption(2, "ok", image_id=2)]
    images = [image(1), image(2, "b.png")]
    with pytest.raises(DataError, match=r"(missing|unreadable) caption: i\.json: annotation 1"):
        build("coco", source(tmp_path / "s", *notes, images=images), tmp_path / "out")
    assert packed(tmp_path / "kept", *notes, images=images, skip_bad=True)["b"]["captions"] == ["ok"]


@pytest.mark.parametrize("mask", [[[]], [], None, [[], []]])
def test_polygons_that_are_not_there_are_no_mask(tmp_path: Path, mask: Any) -> None:
    (item,) = packed(tmp_path, instance(segmentation=mask))["a"]["objects"]
    assert item == {"label": "dog", "box": [1, 1, 4, 4], "crowd": False}


def test_an_empty_polygon_among_others_is_left_out(tmp_path: Path) -> None:
    (item,) = packed(tmp_path, instance(segmentation=[[], [1, 1, 4, 1, 4, 4]]))["a"]["objects"]
    assert "mask" in item


@pytest.mark.parametrize(
    "wrong",
    [
        {"bbox": [1, 1, 3, 0]},
        {"bbox": [1, 1, 30, 3]},
        {"bbox": [1, 1, "wide", 3]},
        {"bbox": [1, 1, 3]},
        {"category_id": 5},
        {"area": -1},
        {"segmentation": [[1, 1, 2, 2]]},
        {"bbox": [1, 1, 10**400, 3]},
        {"segmentation": [[1, 1, 4, 1, 4, 10**400]]},
        {"segmentation": [[1, 1, 4, 1, 4, 1e12]]},
        {"segmentation": {"size": 7, "counts": "x"}},
    ],
)
def test_a_bad_object_leaves_the_others(tmp_path: Path, wrong: dict[str, Any]) -> None:
    images = [image(1), image(2, "b.png")]
    several = [instance(1, **wrong), instance(2), instance(3, category_id=90), instance(4, 2)]
    with pytest.raises(DataError, match=r"i\.json: annotation 1"):
        build("coco", source(tmp_path / "s", *several, images=images), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    manifest = build("coco", tmp_path / "s", tmp_path / "out", skip_bad=True)[""]
    kept = {key: [item["label"] for item in one["json"]["objects"]] for key, one in samples(tmp_path / "out").items()}
    assert kept == {"a": ["dog", "cat"], "b": ["dog"]}
    assert len(manifest["skipped"]) == 1


def test_an_image_whose_objects_are_all_bad_is_left_out(tmp_path: Path) -> None:
    images = [image(1), image(2, "b.png"), image(3, "c.png")]
    found = packed(tmp_path, instance(1, bbox=[1, 1, 0, 3]), instance(2, 2), images=images, skip_bad=True)
    assert {key: len(facts["objects"]) for key, facts in found.items()} == {"b": 1, "c": 0}


def test_a_bad_object_is_listed_once_where_bodies_are_cut_out(tmp_path: Path) -> None:
    body = [{"id": 1, "name": "dog", "keypoints": JOINTS}]
    points = [1, 1, 2, 2, 2, 2, 3, 3, 2]
    several = [instance(n, keypoints=points, bbox=[1, 1, 3, n]) for n in range(4)]
    manifest = build(
        "coco", source(tmp_path / "s", *several, categories=body), tmp_path / "out", skip_bad=True, crops="dog"
    )
    assert manifest[""]["samples"] == 3
    assert len(manifest[""]["skipped"]) == 1


def test_exact_repetitions_are_told_and_kept_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"duplicate object: i\.json: annotation 2"):
        build("coco", source(tmp_path / "s", instance(1), instance(2)), tmp_path / "out")
    assert len(packed(tmp_path / "kept", instance(1), instance(2), skip_bad=True)["a"]["objects"]) == 1


def test_numbers_may_be_texts(tmp_path: Path) -> None:
    listed = instance("1", "1", category_id="90", bbox=["1", "1", "2.5", "3"], area="7.5", iscrowd="0")
    pictures = [image(1, width=str(WIDTH), height=f"{HEIGHT}.0")]
    (item,) = packed(tmp_path, listed, images=pictures)["a"]["objects"]
    assert item == {"label": "cat", "box": [1, 1, 3.5, 4], "crowd": False, "area": 7.5}


@pytest.mark.parametrize(
    ("flag", "crowd"), [(1, True), ("1", True), (True, True), ("0", False), (False, False), (None, False)]
)
def test_flags_of_crowds(tmp_path: Path, flag: Any, crowd: bool) -> None:
    (item,) = packed(tmp_path, instance(iscrowd=flag))["a"]["objects"]
    assert item["crowd"] is crowd


@pytest.mark.parametrize(
    ("skeleton", "bones"),
    [
        ([[0, 1], [0, 2]], [["nose", "left_ear"], ["nose", "right_ear"]]),
        ([[1, 2], [1, 3]], [["nose", "left_ear"], ["nose", "right_ear"]]),
        ([["1", "2"]], [["nose", "left_ear"]]),
        ([], []),
        (None, []),
    ],
)
def test_bones_are_counted_from_one_or_all_from_zero(tmp_path: Path, skeleton: Any, bones: list[list[str]]) -> None:
    body = [{"id": 1, "name": "dog", "keypoints": JOINTS, "skeleton": skeleton}]
    manifest = build("coco", source(tmp_path / "s", instance(), categories=body), tmp_path / "out")[""]
    assert manifest["skeleton"] == bones


@pytest.mark.parametrize("skeleton", [[[0, 3]], [[1, 4]], [[-1, 1]], [[1, 2, 3]], [["a", "b"]], [1, 2], "bones"])
def test_bones_that_fit_neither_count_are_a_problem(tmp_path: Path, skeleton: Any) -> None:
    body = [{"id": 1, "name": "dog", "keypoints": JOINTS, "skeleton": skeleton}]
    with pytest.raises(DataError, match=r"wrong skeleton: i\.json: category dog"):
        build("coco", source(tmp_path / "s", instance(), categories=body), tmp_path / "out")
    manifest = build("coco", tmp_path / "s", tmp_path / "out", skip_bad=True)[""]
    assert (manifest["skeleton"], manifest["points"]) == ([], JOINTS)


def test_joints_at_minus_one_have_no_label(tmp_path: Path) -> None:
    body = [{"id": 1, "name": "dog", "keypoints": JOINTS}]
    (item,) = packed(tmp_path, instance(keypoints=[1, 1, 2, -1, -1, 2, -0.5, 3, 2]), categories=body)["a"]["objects"]
    assert item["points"] == {"nose": [1, 1, 2], "right_ear": [0, 3, 2]}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"images": [image(1), image(1, "b.png")]}, r"images of one number: i\.json: image 1: a\.png, b\.png"),
        ({"images": [image(1), image("1", "b.png")]}, "images of one number"),
        ({"images": [image(1), image(2, None)]}, r"unreadable image entry: i\.json: images\[1\]: expected an id"),
        (
            {"categories": [{"id": 1, "name": "dog"}, {"id": 1, "name": "cat"}]},
            "categories of different numbers, got 1",
        ),
        ({"categories": [{"id": 1, "name": None}]}, r"i\.json: expected a name of category 1, got None"),
        (
            {"categories": [{"id": 1, "name": "dog", "keypoints": ["eye", "eye"]}]},
            "joints of different names, got .'eye', 'eye'",
        ),
        ({"categories": [{"id": 1, "name": "\ud83d"}]}, "lone surrogate"),
    ],
)
def test_repeated_numbers_and_missing_names_are_told(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build("coco", source(tmp_path / "s", instance(), **parts), tmp_path / "out")


def test_images_of_one_number_do_not_become_images_without_objects(tmp_path: Path) -> None:
    images = [image(1), image(1, "b.png"), image(2, "c.png")]
    found = packed(tmp_path, instance(1, 1), instance(2, 2), images=images, skip_bad=True)
    assert {key: len(facts["objects"]) for key, facts in found.items()} == {"c": 1}


def test_documents_say_different_things_of_one_image(tmp_path: Path) -> None:
    files = {
        "images/a.png": picture(),
        "annotations/captions.json": {"images": [image(5)], "annotations": [caption(1, "a dog", image_id=5)]},
    }
    files["annotations/instances.json"] = {
        "images": [image(1, "images/a.png")],
        "annotations": [instance()],
        "categories": CATEGORIES,
    }
    build("coco", fill(tmp_path / "s", files), tmp_path / "out")
    facts = samples(tmp_path / "out")["a"]["json"]
    assert (facts["captions"], len(facts["objects"])) == (["a dog"], 1)


def test_an_object_of_two_documents_is_one(tmp_path: Path) -> None:
    body = [{"id": 1, "name": "dog", "keypoints": JOINTS}]
    points = instance(bbox=[1.0, "1", 3, 3.0], keypoints=[1, 1, 2, 0, 0, 0, 3, 3, 1])
    files = {"a.png": picture()}
    for name, listed in {"instances": instance(area=5), "keypoints": points}.items():
        files[f"{name}.json"] = {"images": [image(1)], "annotations": [listed], "categories": body}
    build("coco", fill(tmp_path / "s", files), tmp_path / "out")
    (item,) = samples(tmp_path / "out")["a"]["json"]["objects"]
    assert (item["area"], item["points"]) == (5, {"nose": [1, 1, 2], "right_ear": [3, 3, 1]})


@pytest.mark.parametrize(
    "change",
    [
        {"categories": 5},
        {"categories": [None]},
        {"categories": {"a": 1}},
        {"categories": [{"id": 1, "name": ["a"]}]},
        {"categories": [{"id": 1, "name": "a", "keypoints": 5}]},
        {"categories": [{"id": 1, "name": "a", "keypoints": [1, 2]}]},
        {"images": [{"id": {"a": 1}, "file_name": "0.png"}]},
        {"images": [{"id": 0, "file_name": None}]},
        {"images": [None]},
        {"images": [[]]},
        {"annotations": [{"image_id": [0], "category_id": 1, "bbox": [1, 1, 2, 2]}]},
        {"annotations": [{"image_id": 0, "category_id": {"a": 1}, "bbox": [1, 1, 2, 2]}]},
        {"annotations": [{"image_id": 0, "category_id": 1, "id": [1], "bbox": {"a": 1}}]},
        {"annotations": [{"image_id": 0, "category_id": 1, "bbox": ["a", None, True, []]}]},
        {"annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 1, float("nan"), 2]}]},
        {"annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 1, 10**400, 2]}]},
        {"annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 1, 2, 2], "segmentation": {"size": 5}}]},
        {"annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 1, 2, 2], "segmentation": [[1e8] * 6]}]},
        {"annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 1, 2, 2], "segmentation": "abc"}]},
        {
            "annotations": [
                {
                    "image_id": 0,
                    "category_id": 1,
                    "bbox": [1, 1, 2, 2],
                    "segmentation": {"size": [8, 8], "counts": [-1, 65]},
                }
            ]
        },
        {"annotations": [{"image_id": 0, "segments_info": 5}]},
        {"annotations": [{"image_id": 0, "segments_info": [1], "file_name": []}]},
        {"annotations": [{"image_id": 0, "caption": {"a": 1}}]},
        {"annotations": {"a": 1}},
    ],
)
def test_documents_of_other_kinds_are_told_in_the_words_of_the_data(tmp_path: Path, change: dict[str, Any]) -> None:
    document = {
        "images": [{"id": 0, "file_name": "0.png"}],
        "annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 1, 2, 2]}],
        "categories": [{"id": 1, "name": "a"}],
    }
    fill(tmp_path / "s", {"0.png": picture(), "i.json": json.dumps({**document, **change})})
    with pytest.raises(DataError) as caught:
        build("coco", tmp_path / "s", tmp_path / "o")
    assert "Error" not in str(caught.value)
    assert not (tmp_path / "o").exists()

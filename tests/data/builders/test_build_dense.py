"""Shards of objects and class maps: COCO, YOLO, VOC and mask folders, the held-out part, and what can be wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dense_sources import HEIGHT, WIDTH, build, fill, picture, png, samples
from PIL import Image
from pycocotools import mask as coco_mask

from unified.core.errors import DataError
from unified.data.commands.inspect import contact_sheet
from unified.data.commands.visualize import name_colour, overlay
from unified.data.samples import annotations as scene
from unified.data.samples.decode import decode_column
from unified.data.shards.shards import Shards
from unified.data.shards.verify import verify
from unified.data.shards.write import ShardWriter

SQUARE = [2, 1, 6, 1, 6, 4, 2, 4]  # corners of a polygon: pixels 2 ≤ x < 6, 1 ≤ y < 4
PIXELS = np.zeros((HEIGHT, WIDTH), bool)
PIXELS[1:4, 2:6] = True


def instance(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 1, 4, 3], "segmentation": [SQUARE]} | changes


def coco(*annotations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    names = [{"id": 3, "name": "dog"}, {"id": 9, "name": "person"}]
    images = [{"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}]
    return {"images": images, "categories": names, "annotations": list(annotations)} | changes


BODY = {
    "categories": [{"id": 9, "name": "person", "keypoints": ["left_eye", "right_eye", "nose"], "skeleton": [[1, 3]]}]
}
PERSON = {"id": 2, "image_id": 7, "category_id": 9, "bbox": [0, 0, 4.5, 3], "keypoints": [1, 1, 2, 0, 0, 0, 3, 2, 1]}


def coco_files() -> dict[str, Any]:
    uncompressed = {"size": [HEIGHT, WIDTH], "counts": [1, 5, HEIGHT * WIDTH - 6]}
    crowd = instance(id=3, iscrowd=1, segmentation=uncompressed)
    repeated = {name: value for name, value in PERSON.items() if name != "keypoints"}
    captions = [{"id": n, "image_id": 7, "caption": text} for n, text in enumerate([" A dog. ", "Dog"])]
    numbers = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    numbers[PIXELS] = (5, 1, 0)  # 5 + 256
    panoptic = coco(
        {"image_id": 7, "file_name": "a.png", "segments_info": [{"id": 261, "category_id": 4}]},
        categories=[{"id": 4, "name": "sky", "isthing": 0}, {"id": 3, "name": "dog", "isthing": 1}],
    )
    empty = {"id": 8, "file_name": "b.png", "width": 3, "height": 3}
    instances = coco(instance(), repeated, crowd)
    instances["images"].append(empty)
    return {
        "images/a.png": picture(),
        "images/b.png": picture(3, 3),
        "instances.json": instances,
        "person_keypoints.json": coco(PERSON, **BODY),
        "captions.json": coco(*captions, categories=[]),
        "panoptic.json": panoptic,
        "panoptic/a.png": png(numbers),
        "notes.json": {"not": "COCO"},
    }


def test_coco_documents_are_merged_by_image(tmp_path: Path) -> None:
    files = coco_files()
    del files["panoptic.json"]
    manifest = build("coco", fill(tmp_path / "s", files), tmp_path / "out")[""]
    found = samples(tmp_path / "out")
    facts = found["a"]["json"]
    assert facts["captions"] == ["A dog.", "Dog"]
    dog, person, crowd = facts["objects"]
    assert (dog["label"], dog["box"], dog["crowd"]) == ("dog", [2, 1, 6, 4], False)
    assert np.array_equal(coco_mask.decode(dog["mask"]), PIXELS)
    assert person == {
        "label": "person",
        "box": [0, 0, 4.5, 3],
        "crowd": False,
        "points": {"left_eye": [1, 1, 2], "nose": [3, 2, 1]},
    }
    assert crowd["crowd"]
    assert coco_mask.decode(crowd["mask"])[:, 0].tolist() == [0, 1, 1, 1, 1, 1]
    assert found["b"]["json"] == {"width": 3, "height": 3, "objects": [], "captions": []}
    assert manifest["classes"] == ["dog", "person"]
    assert manifest["points"] == ["left_eye", "right_eye", "nose"]
    assert (manifest["skeleton"], manifest["flip"]) == ([["left_eye", "nose"]], [["left_eye", "right_eye"]])
    assert (tmp_path / "out" / "pointnames.txt").read_text() == "left_eye\nright_eye\nnose\n"
    assert verify(tmp_path / "out").problems == []


def test_areas_are_those_of_the_annotations(tmp_path: Path) -> None:
    nobody = PERSON | {"id": 5, "area": 7.25, "keypoints": [0] * 9}
    files = {
        "images/a.png": picture(),
        "instances.json": coco(instance(area=11.5), instance(id=4)),
        "person_keypoints.json": coco(PERSON | {"area": 9}, nobody, **BODY),
    }
    build("coco", fill(tmp_path / "s", files), tmp_path / "out")
    (found,) = samples(tmp_path / "out").values()
    listed = found["json"]["objects"]
    assert [item.get("area") for item in listed] == [11.5, None, 9, 7.25]
    assert listed[3]["points"] == {}  # a body, but nobody labelled its joints
    objects = scene.objects(found, {"dog": 0, "person": 1})
    assert objects.area.tolist() == [11.5, 12, 9, 7.25]  # the second is that of its mask
    assert objects.area_sources == ("annotation", "mask", "annotation", "annotation")
    assert verify(tmp_path / "out").problems == []


@pytest.mark.parametrize("area", ["12 px", -1, float("nan"), True])
def test_wrong_areas_are_named(tmp_path: Path, area: Any) -> None:
    files = {"images/a.png": picture(), "instances.json": coco(instance(area=area))}
    with pytest.raises(DataError, match=r"wrong area: instances\.json: annotation 1: .*expected square pixels"):
        build("coco", fill(tmp_path / "s", files), tmp_path / "out")


def test_panoptic_segments(tmp_path: Path) -> None:
    files = {name: data for name, data in coco_files().items() if "panoptic" in name or name == "images/a.png"}
    manifest = build("coco", fill(tmp_path / "s", files), tmp_path / "out")[""]
    facts = samples(tmp_path / "out")["a"]["json"]
    (segment,) = facts["segments"]
    assert (segment["label"], segment["thing"]) == ("sky", False)
    assert np.array_equal(coco_mask.decode(segment["mask"]), PIXELS)
    assert "objects" not in facts
    assert (manifest["classes"], manifest["stuff"]) == (["dog", "sky"], ["sky"])


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([{"id": 5, "category_id": 4}], r"segment without an entry: panoptic/a\.png: \[261\]"),
        ([{"id": 261, "category_id": 5}], r"label beyond the list: panoptic/a\.png: category 5"),
        ([{"id": 261, "category_id": 4}, {"id": 9, "category_id": 4}], "segment without pixels: .*: 9, sky"),
        ([{"category_id": 4}], "segment without a number"),
    ],
)
def test_wrong_segments_are_named(tmp_path: Path, segments: list[dict[str, Any]], message: str) -> None:
    files = {name: data for name, data in coco_files().items() if "panoptic" in name or name == "images/a.png"}
    files["panoptic.json"]["annotations"][0]["segments_info"] = segments
    with pytest.raises(DataError, match=message):
        build("coco", fill(tmp_path / "s", files), tmp_path / "out")


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (instance(bbox=[-3, 0, 5, 3]), "box outside the image: instances.json: annotation 1"),
        (instance(bbox=[2, 1, -1, 3]), "box without area"),
        (instance(bbox=[2, 1, 0, 3]), "box without area"),
        (instance(bbox=[2, 1, float("nan"), 3]), "box that is not four finite numbers"),
        (instance(bbox=None), "box that is not four finite numbers"),
        (instance(segmentation=[[1, 1, 2, 2]]), "broken polygon"),
        (instance(segmentation=7), "broken polygon"),
        (instance(segmentation=["polygon"]), "broken polygon"),
        (instance(keypoints=["a", 2, 2]), "wrong joint"),
        (instance(segmentation={"size": [8, 6], "counts": [48]}), "mask of another size than the image: .* 6×8"),
        (instance(segmentation={"size": [6, 8], "counts": [40]}), "broken mask"),
        (instance(category_id=99), "label beyond the list: .* category 99"),
        (instance(image_id=99), "annotation without image: .* image 99"),
        (instance(keypoints=[1, 2, 2]), "missing joints"),
        (
            {"image_id": 7, "file_name": "none.png", "segments_info": []},
            "missing image: instances.json: annotation none.png: none.png",
        ),
    ],
)
def test_wrong_coco_annotations_are_named(tmp_path: Path, annotation: dict[str, Any], message: str) -> None:
    fill(tmp_path / "s", {"a.png": picture(), "instances.json": coco(annotation)})
    with pytest.raises(DataError, match=message):
        build("coco", tmp_path / "s", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_coco_images_are_named_and_can_be_left_out(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(4)]
    files = {"0.png": picture(), "1.png": picture(5, 5), "2.png": picture()[:60], "i.json": coco(images=images)}
    fill(tmp_path / "s", files)
    with pytest.raises(DataError) as caught:
        build("coco", tmp_path / "s", tmp_path / "out")
    for part in (
        "image of another size: 1.png: the JSON says 8×6",
        "unreadable image",
        "missing image: i.json: images: 3.png",
    ):
        assert part in str(caught.value)
    manifest = build("coco", tmp_path / "s", tmp_path / "out", skip_bad=True)[""]
    assert (manifest["samples"], len(manifest["skipped"])) == (1, 3)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.json": "{"}, r"a\.json: expected JSON, got damaged"),
        ({}, "no COCO JSON"),
        (
            {"a.json": {"images": [{"id": 1}], "annotations": []}},
            r"unreadable image entry: a\.json: images\[0\]: expected an id and a file_name",
        ),
        ({"a.json": {"images": [], "annotations": [1]}}, r"unreadable annotation: a\.json: annotations\[0\]"),
        (
            {"a.json": {"images": [], "annotations": [], "categories": [1]}},
            r"a\.json: categories\[0\]: expected an id and a name",
        ),
    ],
)
def test_sources_without_coco(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build("coco", fill(tmp_path / "s", {"a.png": picture(), **files}), tmp_path / "out")


def yolo_files() -> dict[str, Any]:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[PIXELS] = 200
    shares = " ".join(str(value / (HEIGHT if n % 2 else WIDTH)) for n, value in enumerate(SQUARE))
    return {
        "images/v/a.png": picture(),
        "images/v/b.png": picture(),
        "object_detection/v/a.txt": f"0 0.5 {2.4 / 6} 0.5 0.5\n\n1 0.9 0.9 0.2 0.2\n",
        "object_detection/config.yaml": "names: [dog, car]",
        "instance_segmentation/v/a.txt": f"18 {shares}\n18 0 0 0.1 0 0.1 0.2\n",
        "instance_segmentation/config.yaml": "names: {18: dog, 3: car}",
        "semantic_segmentation/masks/v/a.png": png(labels),
        "semantic_segmentation/masks/v/b.png": png(labels * 0),
        "semantic_segmentation/config.yaml": "classes: {0: unlabeled, 18: dog, 200: sky}",
    }


def test_yolo_merges_boxes_and_polygons(tmp_path: Path) -> None:
    manifest = build("yolo", fill(tmp_path / "s", yolo_files()), tmp_path / "out")[""]
    assert manifest["classes"] == ["dog", "car", "sky"]
    found = samples(tmp_path / "out")
    dog, car, other = found["v/a"]["json"]["objects"]
    assert (dog["label"], dog["box"]) == ("dog", [2, 0.9, 6, 3.9])  # of the box; the mask is the polygon's
    assert np.array_equal(coco_mask.decode(dog["mask"]), PIXELS)
    assert car == {"label": "car", "box": [6.4, 4.8, 8, 6], "crowd": False}
    assert (other["label"], other["box"]) == ("dog", [0, 0, 0.8, 1.2])
    assert scene.class_map(found["v/a"], 3).tolist() == np.where(PIXELS, 2, -1).tolist()
    assert found["v/b"]["json"]["objects"] == []
    assert verify(tmp_path / "out").problems == []


def test_yolo_with_labels_alone(tmp_path: Path) -> None:
    files = {"images/a.png": picture(), "labels/a.txt": "1 0.5 0.5 1 1", "data.yaml": "names: [dog, car]"}
    build("yolo", fill(tmp_path / "s", files), tmp_path / "out")
    (found,) = samples(tmp_path / "out")["a"]["json"]["objects"]
    assert (found["label"], found["box"]) == ("car", [0, 0, 8, 6])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"object_detection/v/a.txt": "0 0.5 0.5 1.5 1"}, "box outside the image: object_detection/v/a.txt:1"),
        ({"object_detection/v/a.txt": "0 0.5 0.5 nan 1"}, "not four finite numbers"),
        ({"object_detection/v/a.txt": "0 0.5 0.5 -0.1 1"}, "box without area"),
        ({"object_detection/v/a.txt": "2 0.5 0.5 0.1 1"}, "label beyond the list: .*class 2"),
        ({"object_detection/v/a.txt": "0 0.5 0.5"}, "broken polygon"),
        ({"object_detection/v/a.txt": "dog 1"}, "unreadable line"),
        ({"object_detection/v/c.txt": ""}, "labels without image: object_detection/v/c.txt"),
        ({"object_detection/config.yaml": "path: ."}, "no class names for object_detection"),
        ({"semantic_segmentation/masks/v/a.png": png(np.zeros((5, 5), np.uint8))}, "mask of another size"),
        ({"semantic_segmentation/masks/v/a.png": png(np.full((6, 8), 7, np.uint8))}, "label beyond the list: .*: 7;"),
        ({"panoptic_segmentation/p.json": "[1]"}, r"p\.json: expected an object, got a list"),
        ({"panoptic_segmentation/p.json": "{}"}, "no panoptic JSON"),
        ({"semantic_segmentation/masks/v/a.png": picture()}, "unreadable mask: .*a picture in colours"),
    ],
)
def test_wrong_yolo_files_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    fill(tmp_path / "s", yolo_files() | changes)
    with pytest.raises(DataError, match=message):
        build("yolo", tmp_path / "s", tmp_path / "out")


def voc(box: str = "3 2 6 4", name: str = "dog", width: int = WIDTH) -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=True)
    inside = "".join(f"<{corner}>{value}</{corner}>" for corner, value in corners)
    return (
        f"<annotation><size><width>{width}</width><height>{HEIGHT}</height></size><object><name>{name}</name>"
        f"<difficult>1</difficult><bndbox>{inside}</bndbox></object></annotation>"
    )


def test_voc_counts_pixels_from_one(tmp_path: Path) -> None:
    files = {"J/a.png": picture(), "A/a.xml": voc(), "J/b.png": picture(1, 1), "A/b.xml": "<annotation/>"}
    manifest = build("voc", fill(tmp_path / "s", files), tmp_path / "out")[""]
    found = samples(tmp_path / "out")
    assert found["a"]["json"]["objects"] == [
        {"label": "dog", "box": [2, 1, 6, 4], "crowd": False, "attributes": {"difficult": 1}}
    ]
    assert found["b"]["json"] == {"width": 1, "height": 1, "objects": []}
    assert manifest["classes"] == ["dog"]


@pytest.mark.parametrize(
    ("annotation", "options", "message"),
    [
        (voc("3 2 3 4"), {}, "box without area: A/a.xml: object 0"),
        (voc("3 2 11 4"), {}, "box outside the image"),
        (voc("3 2 x 4"), {}, "box that is not of finite numbers: .* xmax is 'x'"),
        (voc(width=9), {}, "annotation of another size"),
        (voc(), {"classes": "cat,car"}, "label beyond the list: .* 'dog'"),
        ("<annotation>", {}, "unreadable annotation"),
    ],
)
def test_wrong_voc_files_are_named(tmp_path: Path, annotation: str, options: dict[str, Any], message: str) -> None:
    fill(tmp_path / "s", {"J/a.png": picture(), "A/a.xml": annotation, "A/c.xml": voc(), "J/d.png": picture()})
    with pytest.raises(DataError, match=message) as caught:
        build("voc", tmp_path / "s", tmp_path / "out", **options)
    assert "annotation without image: A/c.xml" in str(caught.value)
    assert "missing annotation: J/d.png" in str(caught.value)


def test_masks_of_a_folder(tmp_path: Path) -> None:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[0, :3] = 1, 11, 255
    indexed = Image.fromarray(labels)
    indexed.putpalette([0, 0, 0, 255, 0, 0] + [9] * 762)
    indexed.save(tmp_path / "palette.png")
    files = {
        "images/v/a.png": picture(),
        "labels/v/a.png": png(labels),
        "images/b.png": picture(),
        "labels/b.png": (tmp_path / "palette.png").read_bytes(),
    }
    manifest = build("masks", fill(tmp_path / "s", files), tmp_path / "out", classes="sky,road", ignore=11)[""]
    found = samples(tmp_path / "out")
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[0, :3] = 1, -1, -1
    for name in ("v/a", "b"):
        assert np.array_equal(scene.class_map(found[name], 2), expected)
    assert manifest["classes"] == ["sky", "road"]


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (png(np.full((6, 8), 2, np.uint8)), {}, "label beyond the list: labels/a.png: 2; the list has 2 classes"),
        (png(np.zeros((8, 6), np.uint8)), {}, "mask of another size than the image: labels/a.png: 6×8"),
        (picture(), {}, "unreadable mask"),
        (png(np.zeros((6, 8), np.uint8))[:40], {}, "unreadable mask"),
        (png(np.zeros((6, 8), np.uint8)), {"classes": None}, "--classes sky,road,car"),
        (png(np.zeros((6, 8), np.uint8)), {"classes": "sky,sky"}, "different names"),
        (png(np.zeros((6, 8), np.uint8)), {"ignore": 1}, "--ignore 1 is the class 'road'"),
    ],
)
def test_wrong_masks_are_named(tmp_path: Path, mask: bytes, options: dict[str, Any], message: str) -> None:
    files = {"images/a.png": picture(), "labels/a.png": mask, "images/b.png": picture(), "labels/c.png": mask}
    with pytest.raises(DataError, match=message) as caught:
        build("masks", fill(tmp_path / "s", files), tmp_path / "out", **{"classes": "sky,road", **options})
    if not options:
        assert "missing mask: images/b.png" in str(caught.value)
        assert "mask without image: labels/c.png" in str(caught.value)


def many(folder: Path, count: int = 20) -> Path:
    files: dict[str, Any] = {"data.yaml": "names: [dog]"}
    for number in range(count):
        files |= {f"images/{number}.png": picture(2, 2, number), f"labels/{number}.txt": ""}
    return fill(folder, files)


def test_a_part_is_held_out_by_key_or_at_the_end(tmp_path: Path) -> None:
    source = many(tmp_path / "s")
    parts = {}
    for how in ("key", "end"):
        manifests = build("yolo", source, tmp_path / how, held_out=0.25, held_out_by=how)
        parts[how] = {split: set(samples(tmp_path / how / split)) for split in manifests}
        assert [len(parts[how][split]) for split in ("train", "test")] == [15, 5]
        assert not parts[how]["train"] & parts[how]["test"]
        assert (tmp_path / how / "test" / "classnames.txt").read_text() == "dog\n"
    assert parts["end"]["test"] == {"15", "16", "17", "18", "19"}
    assert parts["key"]["test"] != parts["end"]["test"]
    build("yolo", source, tmp_path / "again", held_out=0.25)
    assert set(samples(tmp_path / "again" / "test")) == parts["key"]["test"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 1.5}, "expected a fraction between 0 and 1, got 1.5"),
        ({"held_out": 0.0}, "expected a fraction between 0 and 1, got 0"),
        ({"held_out": -0.1}, "expected a fraction between 0 and 1, got -0.1"),
        ({"held_out": float("nan")}, "expected a fraction between 0 and 1, got nan"),
        ({"held_out": 0.5, "held_out_by": "video"}, "expected key, end, identity, got 'video'"),
        ({"held_out": 0.99}, "no sample of the part 'train'"),
        ({"held_out": 0.5, "held_out_by": "identity"}, "names no identities"),
    ],
)
def test_wrong_shares(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build("yolo", many(tmp_path / "s", 4), tmp_path / "out", **options)


def test_images_of_any_shape_are_packed_and_drawn(tmp_path: Path) -> None:
    files: dict[str, Any] = {"data.yaml": "names: [dog]"}
    for name, size in {"dot": (1, 1), "strip": (50, 8000)}.items():
        files |= {f"images/{name}.png": picture(*size), f"labels/{name}.txt": "0 0.5 0.5 1 1"}
    build("yolo", fill(tmp_path / "s", files), tmp_path / "out")
    assert samples(tmp_path / "out")["strip"]["json"]["objects"][0]["box"] == [0, 0, 8000, 50]
    shards = Shards.open(tmp_path / "out")
    assert contact_sheet([shards[0], shards[1]], tmp_path / "sheet.png") == 2


def test_annotations_are_drawn(tmp_path: Path) -> None:
    build("yolo", fill(tmp_path / "s", yolo_files()), tmp_path / "out")
    shards = Shards.open(tmp_path / "out")
    raw = next(shards[number] for number in range(2) if shards[number]["__key__"] == "v/a")
    assert contact_sheet([raw], tmp_path / "drawn.png") == 2  # the picture and its class map
    facts = decode_column(raw, "json")
    bare = Image.new("RGB", (320, 320 * facts["height"] // facts["width"]), "white")
    drawn = np.asarray(overlay(bare, {**raw, "json": facts})).astype(int)
    assert (drawn != 255).any(-1).mean() > 0.1


def test_classes_stand_at_their_boxes() -> None:
    boxes = {"cup": [20, 40, 120, 90], "dog": [30, 45, 150, 140]}
    facts = {"width": 200, "height": 150, "objects": [{"label": name, "box": box} for name, box in boxes.items()]}
    drawn = np.asarray(overlay(Image.new("RGB", (400, 300), "white"), {"json": facts})).astype(int)
    for name, (left, top, _, _) in boxes.items():
        rows, columns = np.where((drawn == name_colour(name)).all(-1))
        label = (rows < 2 * top) & (columns >= 2 * left)  # the ground of the text, above the line of the box
        assert label.sum() > 100


def test_a_table_may_have_sizes_of_its_own(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "d", kind="table", source="here") as writer:
        writer.write("1", {"png": picture(), "json": {"width": "640", "height": "480"}})
    assert verify(tmp_path / "d").problems == []
    assert contact_sheet([Shards.open(tmp_path / "d")[0]], tmp_path / "sheet.png") == 1


def test_verify_names_wrong_annotations(tmp_path: Path) -> None:
    mask = {"size": [3, 3], "counts": "9"}
    facts = {
        "a": {"objects": [{"label": "dog", "box": [0, 0, 2, 2], "mask": mask}]},
        "b": {"objects": [{"label": "cat", "box": [0, 0, 2, 2]}]},
        "c": {"points": {"nose": [1, 2]}},
        "d": {"attributes": {"red": 3}},
        "e": {"width": 9},
    }
    with ShardWriter(tmp_path / "d", kind="test", source="here") as writer:
        writer.manifest["classes"] = ["dog"]
        for key, fact in facts.items():
            sample = {"png": picture(), "json": {"width": WIDTH, "height": HEIGHT, **fact}}
            writer.write(key, {**sample, "classes.png": png(np.full((HEIGHT, WIDTH), int(key == "d"), np.uint8))})
    problems = verify(tmp_path / "d").problems
    for key, part in {"a": "mask of", "b": "'cat' is none", "c": "point 'nose'", "d": "class 1 is beyond"}.items():
        assert any(f": {key}: " in problem and part in problem for problem in problems)
    assert any(": e: column 'png': 8×6 pixels" in problem for problem in problems)
    assert any("attribute 'red'" in problem for problem in problems)


def test_objects_with_joints_are_cut_out(tmp_path: Path) -> None:
    files = {"images/a.png": picture(), "person_keypoints.json": coco(PERSON, **BODY)}
    manifest = build("coco", fill(tmp_path / "s", files), tmp_path / "out", crops="person")[""]
    assert manifest["points"] == ["left_eye", "right_eye", "nose"]
    (found,) = samples(tmp_path / "out").values()
    facts = found["json"]
    assert found["__key__"].endswith("a-0")
    assert (facts["width"], facts["height"]) == (found["png"].shape[2], found["png"].shape[1]) == (5, 3)
    assert scene.joints(found, manifest["points"]).tolist() == [[1, 1, 2], [0, 0, 0], [3, 2, 1]]
    assert verify(tmp_path / "out").problems == []


def test_cuts_hold_the_body_with_its_area_and_joints_beyond_the_cut(tmp_path: Path) -> None:
    far = PERSON | {"bbox": [3, 2, 2, 2], "keypoints": [4, 3, 2, 0, 0, 0, 7, 5, 1]}
    joints = {"left_eye": [2, 2, 2], "nose": [5, 4, 1]}
    for number, (given, area, source) in enumerate(
        (({"area": 3.5}, 3.5, "annotation"), ({"segmentation": [SQUARE]}, 12, "mask"), ({}, 4, "box"))
    ):
        files = {"images/a.png": picture(), "person_keypoints.json": coco(far | given, **BODY)}
        build("coco", fill(tmp_path / f"s{number}", files), tmp_path / f"out{number}", crops="person")
        (found,) = samples(tmp_path / f"out{number}").values()
        (body,) = found["json"]["objects"]
        assert (body["box"], body["points"], found["json"]["points"]) == ([1, 1, 3, 3], joints, {"left_eye": [2, 2, 2]})
        assert found["json"]["cut"] == {"image": "a", "left": 2, "top": 1, "beside": []}
        objects = scene.objects(found, {"person": 0}, ["nose"])
        assert (objects.area.tolist(), objects.area_sources) == ([area], (source,))
        assert verify(tmp_path / f"out{number}").problems == []


def test_cuts_tell_of_the_bodies_that_have_none(tmp_path: Path) -> None:
    nobody = PERSON | {"id": 5, "bbox": [1, 1, 3, 2], "area": 4, "keypoints": [0] * 9}
    crowd = PERSON | {"id": 6, "bbox": [0, 0, 8, 6], "area": 30, "iscrowd": 1, "keypoints": [0] * 9}
    files = {"images/a.png": picture(), "person_keypoints.json": coco(PERSON, nobody, crowd, **BODY)}
    build("coco", fill(tmp_path / "s", files), tmp_path / "out", crops="person")
    (found,) = samples(tmp_path / "out").values()
    assert found["json"]["cut"]["beside"] == [
        {"box": [1, 1, 4, 3], "area": 4, "crowd": False},
        {"box": [0, 0, 8, 6], "area": 30, "crowd": True},
    ]


def test_cuts_begin_at_their_margin(tmp_path: Path) -> None:
    person = PERSON | {"bbox": [3, 2, 2, 2], "keypoints": [4, 3, 2, 0, 0, 0, 3.5, 2, 1]}
    files = {"images/a.png": picture(), "person_keypoints.json": coco(person, **BODY)}
    build("coco", fill(tmp_path / "s", files), tmp_path / "out", crops="person")
    (found,) = samples(tmp_path / "out").values()
    assert scene.joints(found, ["left_eye", "nose"]).tolist() == [[2, 2, 2], [1.5, 1, 1]]

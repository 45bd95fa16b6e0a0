"""Images and their annotations are told by paths below the source: equal names, devkits, splits, written paths."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dense_sources import HEIGHT, WIDTH, build, fill, picture, png, samples
from scipy.io import savemat

from unified.core.errors import DataError
from unified.data.builders.pairing import Words, by_place, pair_files, pair_places, place, sample_keys
from unified.data.builders.references import Reference, find_files
from unified.data.builders.sources import BadSampleError, Problems
from unified.data.shards.verify import verify

WORDS = Words("annotation", "missing annotation", "annotation without image")


def voc(left: int = 1, name: str = "dog", file_name: str = "") -> str:
    box = f"<xmin>{left}</xmin><ymin>1</ymin><xmax>{left + 2}</xmax><ymax>4</ymax>"
    said = f"<filename>{file_name}</filename>" * bool(file_name)
    return f"<annotation>{said}<object><name>{name}</name><bndbox>{box}</bndbox></object></annotation>"


def matlab(row: int) -> bytes:
    cells = np.empty((1, 1), dtype=object)
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    drawn[row] = 1
    cells[0, 0] = {"Boundaries": drawn, "Segmentation": drawn}
    buffer = io.BytesIO()
    savemat(buffer, {"groundTruth": cells})
    return buffer.getvalue()


def coco(name: str, label: str = "dog", **changes: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 0, "file_name": name, "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 1, 3, 3]}],
        "categories": [{"id": 1, "name": label}],
    } | changes


def lefts(out: Path) -> dict[str, float]:
    """The left edge of the first box of each sample."""
    return {key: one["json"]["objects"][0]["box"][0] for key, one in samples(out).items()}


def paired(images: list[str], annotations: list[str], **options: Any) -> tuple[dict[str, str], set[str]]:
    """The annotation of each image, and the kinds of problems."""
    problems = Problems(Path("s"), skip=False)
    found = pair_files(images, annotations, problems, WORDS, **options)
    return {pair.image: pair.annotation for pair in found}, set(problems.counts())


@pytest.mark.parametrize("devkit", ["", "VOCdevkit/VOC2012/"])
@pytest.mark.parametrize("masks", ["SegmentationClass", "SegmentationObject", "SegmentationClassPNG", "masks"])
def test_masks_of_a_devkit_are_no_images(tmp_path: Path, devkit: str, masks: str) -> None:
    photo, mask = picture(), png(np.full((HEIGHT, WIDTH), 12, np.uint8))
    files = {f"JPEGImages/{n}.png": photo for n in range(2)} | {f"Annotations/{n}.xml": voc() for n in range(2)}
    files |= {f"{masks}/0.png": mask, f"{masks}/7.png": mask}
    build("voc", fill(tmp_path / "s", {devkit + name: data for name, data in files.items()}), tmp_path / "out")
    found = samples(tmp_path / "out")
    assert set(found) == {f"{devkit.rstrip('/')}/{n}".lstrip("/") for n in range(2)}
    for one in found.values():
        assert one["png"].float().std() > 1  # the noise of the photo, not the one number of the mask


@pytest.mark.parametrize("annotation", ["masks/{}a.xml", "masks/annotations/a.xml"])
def test_images_of_masks_stay_images(tmp_path: Path, annotation: str) -> None:
    inside = "images/" * ("annotations" in annotation)
    files = {f"masks/{inside}a.png": picture(), annotation.format(inside): voc(3)}
    build("voc", fill(tmp_path / "s", files), tmp_path / "out")
    assert lefts(tmp_path / "out") == {"masks/a": 2}


@pytest.mark.parametrize(
    ("image", "annotation"),
    [
        ("{v}/{n}.png", "{v}/{n}.xml"),
        ("JPEGImages/{v}/{n}.png", "Annotations/{v}/{n}.xml"),
        ("{v}/images/{n}.png", "{v}/annotations/{n}.xml"),
        ("frames/{v}/{n}.png", "boxes/{v}/{n}.xml"),
        ("{v}/{n}.png", "{v}/notes/{n}.xml"),
        ("set/Images/{v}/{n}.png", "Labels/set/{v}/{n}.xml"),
    ],
)
def test_frames_of_several_videos_keep_their_own_boxes(tmp_path: Path, image: str, annotation: str) -> None:
    files: dict[str, Any] = {}
    for left, video in enumerate("abc", start=1):
        for number in range(2):
            files[image.format(v=video, n=f"{number:04d}")] = picture()
            files[annotation.format(v=video, n=f"{number:04d}")] = voc(left)
    build("voc", fill(tmp_path / "s", files), tmp_path / "out")
    found = lefts(tmp_path / "out")
    assert len(found) == 6
    assert {key: left for key, left in found.items() if left != "abc".index(key.split("/")[-2])} == {}


def test_an_image_takes_no_annotation_of_another_folder() -> None:
    images = ["JPEGImages/a/1.png", "JPEGImages/b/1.png"]
    found, problems = paired(images, ["Annotations/a/1.xml"])
    assert found == {"JPEGImages/a/1.png": "Annotations/a/1.xml"}
    assert problems == {"missing annotation"}
    for image in ("JPEGImages/a/1.png", "J/a/1.png", "train/1.png", "train/images/1.png"):
        annotation = image.replace("/a/", "/b/").replace("train", "test").replace("J", "A").replace("images", "labels")
        found, problems = paired([image], [annotation.replace(".png", ".xml")])
        assert not found, (image, annotation)
        assert problems == {"missing annotation", "annotation without image"}


def test_one_folder_of_annotations_may_be_of_several_of_images() -> None:
    images = ["images/train/1.jpg", "images/val/2.jpg", "images/val/3.jpg"]
    found, problems = paired(images, ["Annotations/1.xml", "Annotations/2.xml", "Annotations/val/3.xml"])
    assert found == {images[0]: "Annotations/1.xml", images[2]: "Annotations/val/3.xml"}
    assert problems == {"missing annotation", "annotation without image"}  # images/val has annotations of its own
    found, problems = paired(["images/train/1.jpg", "images/val/1.jpg"], ["Annotations/1.xml"])
    assert not found
    assert problems == {"ambiguous image"}
    assert paired(["a/1.jpg"], ["1.xml"])[0] == {"a/1.jpg": "1.xml"}


def test_folders_of_any_name_are_learned_from_what_lies_in_them() -> None:
    found, problems = paired(["J/1.png", "J/2.png", "readme.png"], ["A/1.xml", "A/2.xml"])
    assert found == {"J/1.png": "A/1.xml", "J/2.png": "A/2.xml"}
    assert problems == {"missing annotation"}


def test_what_stays_ambiguous_is_told() -> None:
    assert paired(["1.png", "1.jpg"], ["1.xml"]) == ({}, {"ambiguous image"})
    assert paired(["1.png", "1.jpg"], ["1.xml"], file_names={"1.xml": "1.jpg"})[0] == {"1.jpg": "1.xml"}
    assert paired(["images/1.png"], ["labels/1.xml", "Annotations/1.xml"]) == ({}, {"ambiguous annotation"})
    said = {"2.xml": "1.jpg"}  # the name that the image had before: it has an annotation of its own
    assert paired(["1.jpg"], ["1.xml", "2.xml"], file_names=said) == ({"1.jpg": "1.xml"}, {"annotation without image"})
    found, _ = paired(["images/1.png"], ["labels/1_boxes.xml"], file_names={"labels/1_boxes.xml": "1.png"})
    assert found == {"images/1.png": "labels/1_boxes.xml"}
    problems = Problems(Path("s"), skip=False)
    places = by_place(["images/a.png", "img/a.png"], place)
    assert not pair_places(places, by_place(["labels/a.xml"], place), problems, WORDS)
    assert problems.found[0][1].startswith("images/a.png, img/a.png, labels/a.xml")


def test_keys_are_paths_below_the_source() -> None:
    names = ["images/a.b.png", "images/v/1.png", "img/v/1.png", "2.png"]
    assert list(sample_keys(names).values()) == ["a_b", "images/v/1", "img/v/1", "2"]


def test_composed_and_decomposed_names_are_one() -> None:
    assert paired(["images/cafe\u0301.png"], ["labels/caf\u00e9.xml"])[0] == {
        "images/cafe\u0301.png": "labels/caf\u00e9.xml"
    }


@pytest.mark.parametrize(
    ("image", "truth"),
    [("images/{s}/1.png", "groundTruth/{s}/1.mat"), ("{s}/1.png", "{s}/1.mat"), ("d/{s}/i/1.png", "d/{s}/t/1.mat")],
)
def test_boundaries_of_equal_names_stay_apart(tmp_path: Path, image: str, truth: str) -> None:
    files: dict[str, Any] = {}
    for row, split in enumerate(("train", "test")):
        files |= {image.format(s=split): picture(), truth.format(s=split): matlab(row)}
    build("boundaries", fill(tmp_path / "s", files), tmp_path / "out")
    found = {
        key.split("/")[-2]: one["edges.png"].argmax().item() // WIDTH for key, one in samples(tmp_path / "out").items()
    }
    assert found == {"train": 0, "test": 1}


@pytest.mark.parametrize(
    ("kind", "files", "options"),
    [
        ("yolo", {"data.yaml": "names: [dog]", "labels/a.txt": "0 0.5 0.5 0.5 0.5"}, {}),
        ("masks", {"labels/a.png": png(np.zeros((HEIGHT, WIDTH), np.uint8))}, {"classes": "sky,road"}),
        ("depth", {"depth/a.png": png(np.ones((HEIGHT, WIDTH), np.uint16))}, {}),
        ("voc", {"labels/a.xml": voc()}, {}),
        ("boundaries", {"labels/a.mat": matlab(0)}, {}),
    ],
)
def test_two_images_of_one_name_are_told(tmp_path: Path, kind: str, files: dict[str, Any], options: Any) -> None:
    fill(tmp_path / "s", {"images/a.png": picture(), "images/a.bmp": picture(seed=1), **files})
    with pytest.raises(DataError, match=r"ambiguous image.*images/a\.bmp, images/a\.png"):
        build(kind, tmp_path / "s", tmp_path / "out", **options)


def test_yolo_folders_of_splits_at_either_end(tmp_path: Path) -> None:
    for layout in ("{role}/{split}", "{split}/{role}"):
        files: dict[str, Any] = {"data.yaml": "names: [dog]"}
        for n, split in enumerate(("train", "valid")):
            files[layout.format(role="images", split=split) + "/1.png"] = picture()
            files[layout.format(role="labels", split=split) + "/1.txt"] = f"0 {0.25 + 0.5 * n} 0.5 0.5 0.5"
        out = tmp_path / layout[1]
        build("yolo", fill(tmp_path / f"s{layout[1]}", files), out)
        assert lefts(out) == {"train/1": 0, "valid/1": 4}


def test_two_label_files_of_one_image_are_told(tmp_path: Path) -> None:
    files = {
        "images/a.png": picture(),
        "data.yaml": "names: [dog]",
        "labels/a.txt": "",
        "labels/a.TXT": "0 .5 .5 .5 .5",
    }
    with pytest.raises(DataError, match=r"ambiguous labels: labels/a\.TXT, labels/a\.txt"):
        build("yolo", fill(tmp_path / "s", files), tmp_path / "out")


def test_panoptic_pictures_of_equal_names_stay_apart(tmp_path: Path) -> None:
    files: dict[str, Any] = {}
    for number, split in enumerate(("train", "val"), start=1):
        colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        colours[..., 0] = number
        segments = [{"id": number, "category_id": number}]
        document = {
            "images": [],
            "categories": [{"id": 1, "name": "sky"}, {"id": 2, "name": "sea"}],
            "annotations": [{"image_id": 0, "file_name": "1.png", "segments_info": segments}],
        }
        files |= {f"images/{split}/1.png": picture(), f"panoptic_segmentation/{split}/1.png": png(colours)}
        files[f"panoptic_segmentation/{split}/panoptic.json"] = document
    build("yolo", fill(tmp_path / "s", files), tmp_path / "out")
    found = {key: one["json"]["segments"][0]["label"] for key, one in samples(tmp_path / "out").items()}
    assert found == {"train/1": "sky", "val/1": "sea"}


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_documents_may_number_their_categories_differently(tmp_path: Path, kind: str) -> None:
    colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours[..., 0] = 1
    files: dict[str, Any] = {}
    for name, names in {"a": ("sky", "sea"), "b": ("sea", "sky")}.items():
        files |= {f"images/{name}.png": picture(), f"panoptic_segmentation/{name}.png": png(colours)}
        files[f"panoptic_segmentation/{name}.json"] = {
            "images": [{"id": 0, "file_name": f"{name}.png"}],
            "categories": [{"id": number, "name": label} for number, label in enumerate(names)],
            "annotations": [
                {"image_id": 0, "file_name": f"{name}.png", "segments_info": [{"id": 1, "category_id": 0}]}
            ],
        }
    build(kind, fill(tmp_path / "s", files), tmp_path / "out")
    found = {key: one["json"]["segments"][0]["label"] for key, one in samples(tmp_path / "out").items()}
    assert found == {"a": "sky", "b": "sea"}


def test_depth_of_several_scenes_stays_apart(tmp_path: Path) -> None:
    files: dict[str, Any] = {}
    for number, scene in enumerate("ab", start=1):
        files |= {
            f"{scene}/rgb/1.png": picture(),
            f"{scene}/depth/1.png": png(np.full((HEIGHT, WIDTH), number, np.uint16)),
        }
    build("depth", fill(tmp_path / "s", files), tmp_path / "out")
    found = {key: one["depth.png"][0, 0].item() for key, one in samples(tmp_path / "out").items()}
    assert found == {"a/1": 1, "b/1": 2}


@pytest.mark.parametrize(
    ("image", "document", "name"),
    [
        ("{s}/1.png", "{s}/_annotations.coco.json", "1.png"),
        ("{s}/images/1.png", "{s}/annotations/instances.json", "1.png"),
        ("{s}/images/1.png", "{s}/instances.json", "images/1.png"),
        ("images/{s}/1.png", "annotations/{s}/instances.json", "1.png"),
        ("{s}/1.png", "annotations/instances_{s}.json", "1.png"),
        ("images/{s}/1.png", "annotations/instances_{s}.json", "{s}/1.png"),
    ],
)
def test_coco_documents_of_equal_file_names_stay_apart(tmp_path: Path, image: str, document: str, name: str) -> None:
    files: dict[str, Any] = {}
    for split, label in (("train", "dog"), ("valid", "cat")):
        files |= {image.format(s=split): picture(), document.format(s=split): coco(name.format(s=split), label)}
    build("coco", fill(tmp_path / "s", files), tmp_path / "out")
    found = {key: [item["label"] for item in one["json"]["objects"]] for key, one in samples(tmp_path / "out").items()}
    assert found == {"train/1": ["dog"], "valid/1": ["cat"]}


def test_coco_takes_no_image_of_another_document(tmp_path: Path) -> None:
    files = {"train/1.png": picture(), "train/a.json": coco("1.png"), "valid/a.json": coco("1.png", "cat")}
    with pytest.raises(DataError, match=r"missing image: valid/a\.json: images: 1\.png: no file of this name"):
        build("coco", fill(tmp_path / "s", files), tmp_path / "out")
    files = {"v1/1.png": picture(), "v1/a.json": coco("1.png"), "v2/a.json": coco("1.png", "cat")}
    with pytest.raises(DataError, match=r"missing image: v2/a\.json: images: 1\.png: v1/1\.png is that of"):
        build("coco", fill(tmp_path / "u", files), tmp_path / "out")
    files = {"a/1.png": picture(), "b/1.png": picture(), "c.json": coco("1.png")}
    with pytest.raises(DataError, match=r"ambiguous image: c\.json: images: 1\.png: one of a/1\.png, b/1\.png"):
        build("coco", fill(tmp_path / "t", files), tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    [
        "/data/project/images/a.png",
        "../../media/upload/1/a.png",
        "images\\a.png",
        "C:\\Users\\me\\images\\a.png",
        "..\\images\\a.png",
        "./a.png",
    ],
)
def test_written_paths_find_the_image_and_never_become_keys(tmp_path: Path, name: str) -> None:
    build("coco", fill(tmp_path / "s", {"images/a.png": picture(), "i.json": coco(name)}), tmp_path / "out")
    assert set(samples(tmp_path / "out")) == {"a"}
    assert verify(tmp_path / "out").problems == []


def found(names: list[str], *paths: str, document: str = "t.csv") -> list[str | None]:
    references = [Reference("t.csv", path, document) for path in paths]
    return [None if isinstance(file, BadSampleError) else file for file in find_files(names, references)]


def test_written_paths_are_looked_up_from_the_best_to_the_worst() -> None:
    assert found(["a/1.png", "1.png"], "1.png", document="a/t.csv") == ["a/1.png"]
    assert found(["a/1.png", "1.png"], "1.png", document="b/t.csv") == ["1.png"]
    assert found(["m1/1.png", "m2/1.png"], "labeled-data/m2/1.png") == ["m2/1.png"]
    assert found(["images/1.png"], "labeled-data/m/1.png") == ["images/1.png"]
    assert found(["a\\1.png", "a/1.png"], "a\\1.png") == ["a\\1.png"]  # a file of this very name, as Linux allows it
    assert found(["caf\u00e9/1.png"], "cafe\u0301/1.png") == ["caf\u00e9/1.png"]


def test_a_file_is_not_lent_to_another_written_path() -> None:
    assert found(["b/1.png"], "a/1.png", "b/1.png") == [None, "b/1.png"]
    assert found(["c/1.png"], "a/1.png", "b/1.png") == [None, None]
    assert found(["a/2.png", "b/1.png"], "a/1.png", "b/1.png") == [None, "b/1.png"]
    assert found(["a/2.png", "b/1.png"], "a/1.png") == [None]  # the folder is there, and has no such file
    assert found(["a/1.png", "b/1.png"], "1.png", "c/1.png") == [None, None]
    assert found(["train/1.png"], "1.png", document="annotations/instances_val2017.json") == [None]
    assert found(["train/1.png"], "1.png", document="annotations/instances_train2017.json") == ["train/1.png"]
    assert found(["train/images/1.png"], "images/1.png", document="val/a.json") == [None]
    assert found(["a.png"], "", ".", "/", "b.png") == [None] * 4


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        ("keypoints", "image,nose_x,nose_y\nv\\1.png,1,1\nw\\1.png,2,1\n"),
        ("attributes", "image,old\nv\\1.png,1\nw\\1.png,0\n"),
    ],
)
def test_tables_written_on_windows(tmp_path: Path, kind: str, table: str) -> None:
    fill(tmp_path / "s", {"v/1.png": picture(), "w/1.png": picture(), "t.csv": table})
    build(kind, tmp_path / "s", tmp_path / "out")
    facts = {key: one["json"] for key, one in samples(tmp_path / "out").items()}
    values = [fact.get("points", fact.get("attributes")) for _, fact in sorted(facts.items())]
    assert sorted(facts) == ["v/1", "w/1"]
    assert values in ([{"nose": [1, 1, 2]}, {"nose": [2, 1, 2]}], [{"old": 1}, {"old": 0}])
    with pytest.raises(DataError, match="backslashes were read as separators"):
        build(kind, fill(tmp_path / "s", {"t.csv": table.replace("w\\1", "w\\2")}), tmp_path / "again")

"""Labels as tools write them: binary masks, YOLO's lines and names, XML of all kinds, joints and their sides."""

import codecs
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dense_sources import HEIGHT, WIDTH, build, fill, picture, png, samples

from unified.config.labels import partners
from unified.core.errors import DataError
from unified.data.builders.annotations import flip_pairs
from unified.data.samples import annotations

BOX = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"
ANNOTATION = f"<annotation><object><name>dog</name>{BOX}</object></annotation>"


def mask(*numbers: int) -> bytes:
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[0, : len(numbers)] = numbers
    return png(values)


def masks(folder: Path, *each: bytes) -> Path:
    files: dict[str, Any] = {f"images/{n}.png": picture() for n in range(len(each))}
    return fill(folder, files | {f"masks/{n}.png": data for n, data in enumerate(each)})


@pytest.mark.parametrize("each", [(mask(255, 255),), (mask(), mask(255)), (mask(), mask(255), mask())])
def test_masks_of_0_and_255_are_of_two_classes(tmp_path: Path, each: tuple[bytes, ...]) -> None:
    build("masks", masks(tmp_path / "s", *each), tmp_path / "out", classes="background,lesion")
    found = [annotations.class_map(one, 2) for _, one in sorted(samples(tmp_path / "out").items())]
    assert {number for labels in found for number in labels.unique().tolist()} == {0, 1}


def test_255_is_no_label_among_numbers_of_classes(tmp_path: Path) -> None:
    build("masks", masks(tmp_path / "s", mask(1, 255)), tmp_path / "out", classes="background,lesion")
    assert annotations.class_map(samples(tmp_path / "out")["0"], 2)[0, :3].tolist() == [1, -1, 0]
    build("masks", masks(tmp_path / "t", mask(255), mask(1)), tmp_path / "again", classes="sky,road", ignore=255)
    assert annotations.class_map(samples(tmp_path / "again")["0"], 2)[0, :2].tolist() == [-1, 0]


@pytest.mark.parametrize("classes", ["lesion", "a,b,c"])
def test_masks_of_0_and_255_need_two_classes(tmp_path: Path, classes: str) -> None:
    with pytest.raises(DataError, match=r"got 0 and 255 alone\. Hint: name two classes"):
        build("masks", masks(tmp_path / "s", mask(255)), tmp_path / "out", classes=classes)


def test_masks_of_both_sorts_are_told(tmp_path: Path) -> None:
    source = masks(tmp_path / "s", mask(1, 255), mask(255), mask(1))
    with pytest.raises(DataError, match=r"ambiguous mask: masks/1\.png: 0 and 255 alone, .*--ignore 255"):
        build("masks", source, tmp_path / "out", classes="background,lesion")


def yolo(folder: Path, text: str | bytes, names: str | bytes = "names: [dog, cat]", label: str = "a.txt") -> Path:
    return fill(folder, {"images/a.png": picture(), f"labels/{label}": text, "data.yaml": names})


def objects(folder: Path, *source: Any, skip_bad: bool = False) -> list[dict[str, Any]]:
    build("yolo", yolo(folder / "s", *source), folder / "out", skip_bad=skip_bad)
    return samples(folder / "out")["a"]["json"]["objects"]


@pytest.mark.parametrize("label", ["a.TXT", "a.Txt"])
def test_yolo_labels_in_upper_case(tmp_path: Path, label: str) -> None:
    assert len(objects(tmp_path, "0 0.5 0.5 0.2 0.2\n", "names: [dog]", label)) == 1


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ("names: [yes, no, on]", ["yes", "no", "on"]),
        ("names: {0: NO, 1: off, 2: null}", ["NO", "off", "null"]),
        ("names:\n- 1.0\n- 2020-01-01\n- 0x10", ["1.0", "2020-01-01", "0x10"]),
        (codecs.BOM_UTF8 + "names: [狗, cat]".encode(), ["狗", "cat"]),
    ],
)
def test_yolo_names_are_what_is_written(tmp_path: Path, names: str | bytes, classes: list[str]) -> None:
    assert build("yolo", yolo(tmp_path / "s", "", names), tmp_path / "out")[""]["classes"] == classes


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("names: {0: dog, 0: cat}", "'0' is written twice"),
        ("names: {0: dog, 00: cat}", "different class numbers"),
        ("names: {dog: 0}", "expected class numbers, got 'dog'"),
        ("names: [dog, '']", "expected names of classes, got ''"),
        ("names: [[dog]]", "expected names of classes"),
        ("names: [café]".encode("latin-1"), r"data\.yaml: expected text in UTF-8"),
        ("kpt_shape: [17, 3]\nnames: [person]", r"pose labels \(kpt_shape: \['17', '3'\]\)"),
    ],
)
def test_wrong_yolo_names_are_told(tmp_path: Path, names: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build("yolo", yolo(tmp_path / "s", "0 0.5 0.5 0.2 0.2", names), tmp_path / "out")


def test_yolo_names_of_two_files_agree(tmp_path: Path) -> None:
    source = fill(
        yolo(tmp_path / "s", "0 0.5 0.5 0.2 0.2"), {"hyp.yaml": "lr: 0.1", "other.yaml": "names: [dog, cat, cow]"}
    )
    assert build("yolo", source, tmp_path / "out")[""]["classes"] == ["dog", "cat", "cow"]
    with pytest.raises(DataError, match=r"other\.yaml: expected 'dog' as class 0, .* got 'cat'"):
        build("yolo", fill(source, {"other.yaml": "names: [cat, dog]"}), tmp_path / "again")


def test_yolo_names_beside_the_labels(tmp_path: Path) -> None:
    files = {"images/a.png": picture(), "labels/a.txt": "1 0.5 0.5 0.2 0.2", "labels/classes.txt": "dog\r\ncat\r\n\r\n"}
    build("yolo", fill(tmp_path / "s", files), tmp_path / "out")
    assert samples(tmp_path / "out")["a"]["json"]["objects"][0]["label"] == "cat"
    with pytest.raises(DataError, match=r"classes\.txt:2: expected the name of a class, got a blank line"):
        build("yolo", fill(tmp_path / "s", {"labels/classes.txt": "dog\n\ncat\n"}), tmp_path / "again")


def test_yolo_class_numbers_may_be_written_as_floats(tmp_path: Path) -> None:
    found = objects(tmp_path, "0.0 0.5 0.5 0.2 0.2\n1.000e+00 0.2 0.2 0.1 0.1\n")
    assert [item["label"] for item in found] == ["dog", "cat"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2 0.2 0.87", r"box with a confidence: labels/a\.txt:2: .*a sixth number"),
        ("0.5 0.5 0.5 0.2 0.2", r"labels/a\.txt:2: expected a whole number as the class, found 0\.5"),
        ("0 0.5 0.5 0.3 0.3", r"duplicate object: labels/a\.txt:2"),
        ("1 0.5 0.5 0 0.3", r"box without area: labels/a\.txt:2"),
        ("dog 0.5 0.5 0.2 0.2", r"unreadable line: labels/a\.txt:2"),
    ],
)
def test_a_bad_line_leaves_the_others(tmp_path: Path, line: str, message: str) -> None:
    text = f"0 0.5 0.5 0.3 0.3\n{line}\n1 0.5 0.5 0.2 0.2\n"
    with pytest.raises(DataError, match=message):
        objects(tmp_path, text)
    assert [item["label"] for item in objects(tmp_path / "kept", text, skip_bad=True)] == ["dog", "cat"]


def test_labels_that_are_no_text_do_not_leave_an_image_without_objects(tmp_path: Path) -> None:
    source = yolo(tmp_path / "s", "0 0.5 0.5 0.2 0.2".encode("utf-16"))
    with pytest.raises(DataError, match=r"unreadable labels: labels/a\.txt: expected text in UTF-8, got UTF-16"):
        build("yolo", source, tmp_path / "out")


def test_boxes_in_two_folders_are_told(tmp_path: Path) -> None:
    source = yolo(tmp_path / "s", "0 0.5 0.5 0.2 0.2")
    with pytest.raises(DataError, match="got both"):
        build("yolo", fill(source, {"object_detection/a.txt": "1 0.5 0.5 0.2 0.2"}), tmp_path / "out")


@pytest.mark.parametrize(
    ("xml", "label"),
    [
        (("<?xml version='1.0' encoding='GB2312'?>" + ANNOTATION.replace("dog", "狗")).encode("gb2312"), "狗"),
        (('<?xml version="1.0" encoding="ISO-8859-1"?>' + ANNOTATION.replace("dog", "é")).encode("latin-1"), "é"),
        (('<?xml version="1.0" encoding="Shift_JIS"?>' + ANNOTATION.replace("dog", "犬")).encode("shift_jis"), "犬"),
        (('<?xml version="1.0" encoding="utf-16"?>' + ANNOTATION).encode("utf-16"), "dog"),
        (('<?xml version="1.0" encoding="utf-16"?>' + ANNOTATION).encode(), "dog"),
        (codecs.BOM_UTF8 + ANNOTATION.replace("dog", "é").encode(), "é"),
    ],
)
def test_xml_is_read_as_it_declares(tmp_path: Path, xml: bytes, label: str) -> None:
    build("voc", fill(tmp_path / "s", {"a.png": picture(), "a.xml": xml}), tmp_path / "out")
    assert samples(tmp_path / "out")["a"]["json"]["objects"][0]["label"] == label


@pytest.mark.parametrize(
    "xml",
    [
        '<?xml version="1.0" encoding="utf8x"?>' + ANNOTATION,
        '<?xml version="1.0" encoding="ascii"?>' + ANNOTATION.replace("dog", "狗"),
        ANNOTATION.replace("dog", "é").encode("latin-1"),
        ANNOTATION.replace("<annotation>", '<annotation xmlns="http://example.org">'),
        '<image name="b.png"><box label="dog" xtl="5" ytl="6" xbr="30" ybr="40"/></image>',
        "<annotations><image id='0'/></annotations>",
        f"<annotation><objects><item>{BOX}</item></objects></annotation>",
        "<annotation><Object><name>dog</name></Object></annotation>",
        "<annotation>",
        "",
    ],
)
def test_xml_that_is_not_vocs_is_an_unreadable_annotation(tmp_path: Path, xml: str | bytes) -> None:
    fill(tmp_path / "s", {"a.png": picture(), "a.xml": xml, "b.png": picture(), "b.xml": ANNOTATION})
    with pytest.raises(DataError, match=r"1 × unreadable annotation\n  unreadable annotation: a\.xml"):
        build("voc", tmp_path / "s", tmp_path / "out")
    build("voc", tmp_path / "s", tmp_path / "out", skip_bad=True)
    assert set(samples(tmp_path / "out")) == {"b"}


def test_a_bad_box_of_voc_leaves_the_others(tmp_path: Path) -> None:
    bad = "<object><name>cat</name></object><object><name>cow</name>" + BOX.replace("4", "2") + "</object></annotation>"
    fill(tmp_path / "s", {"a.png": picture(), "a.xml": ANNOTATION.replace("</annotation>", bad)})
    with pytest.raises(DataError, match=r"1 × missing box, 1 × box without area"):
        build("voc", tmp_path / "s", tmp_path / "out")
    build("voc", tmp_path / "s", tmp_path / "out", skip_bad=True)
    assert [item["label"] for item in samples(tmp_path / "out")["a"]["json"]["objects"]] == ["dog"]


@pytest.mark.parametrize(
    "names",
    [
        ["L_Eye", "R_Eye", "Nose"],
        ["r_knee", "l_knee"],
        ["Eye.L", "Eye.R", "tail"],
        ["knee l", "knee r"],
        ["LKnee", "RKnee", "Neck"],
        ["KneeL", "KneeR"],
        ["lknee", "rknee", "lip"],
        ["LF hoof", "RF hoof", "LH hoof", "RH hoof"],
        ["L1", "R1", "L2", "R2"],
        ["LEFT_EYE", "RIGHT_EYE"],
        ["eye-left", "eye-right"],
        ["Left Eye", "right eye"],
    ],
)
def test_sides_are_told_by_words_and_letters(names: list[str]) -> None:
    found = partners(names)
    single = [name for name in names if name in ("Nose", "tail", "Neck", "lip")]
    assert [name for name, other in zip(names, found, strict=True) if names[other] == name] == single
    assert all(found[other] == place for place, other in enumerate(found))
    assert sorted(name for pair in flip_pairs(names) for name in pair) == sorted(set(names) - set(single))
    assert partners(["lip", "ear", "L_Eye", "L_Ear", "R_Ear"]) == [0, 1, 2, 4, 3]


@pytest.mark.parametrize("empty", ["-1,-1", "-1.0,-1.0", "nan,NaN", ","])
def test_joints_of_tables_without_a_label(tmp_path: Path, empty: str) -> None:
    table = f"image,nose_x,nose_y,tail_x,tail_y\na.png,{empty},1,2\nb.png,5,0.5,{empty}\n"
    build("keypoints", fill(tmp_path / "s", {"a.png": picture(), "b.png": picture(), "t.csv": table}), tmp_path / "out")
    facts = {key: one["json"]["points"] for key, one in samples(tmp_path / "out").items()}
    assert facts == {"a": {"tail": [1, 2, 2]}, "b": {"nose": [5, 0.5, 2]}}


@pytest.mark.parametrize("path", ["{}", "labeled-data,vid,{}", "labeled-data/vid/{},", "vid,{}"])
def test_deeplabcut_paths_in_any_number_of_columns(tmp_path: Path, path: str) -> None:
    blank = "," * path.count(",")
    heads = f"scorer{blank},X,X,X,X\nbodyparts{blank},nose,nose,tail,tail\ncoords{blank},x,y,x,y\n"
    rows = "".join(f"{path.format(f'img{n}.png')},1,2,3,{n}\n" for n in range(3))
    files: dict[str, Any] = {f"labeled-data/vid/img{n}.png": picture() for n in range(3)}
    build("keypoints", fill(tmp_path / "s", {**files, "labeled-data/vid/C.csv": heads + rows}), tmp_path / "out")
    found = {key[-1]: one["json"]["points"] for key, one in samples(tmp_path / "out").items()}
    assert found == {str(n): {"nose": [1, 2, 2], "tail": [3, n, 2]} for n in range(3)}


def test_names_of_classes_stand_on_one_line(tmp_path: Path) -> None:
    xml = ANNOTATION.replace("dog", "traffic\n   light\u2028red")
    build("voc", fill(tmp_path / "s", {"a.png": picture(), "a.xml": xml}), tmp_path / "out")
    assert (tmp_path / "out" / "classnames.txt").read_text() == "traffic light\u2028red\n"

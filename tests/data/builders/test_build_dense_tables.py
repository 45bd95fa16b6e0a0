"""Shards of joints and attributes from tables, and what can be wrong with these."""

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dense_sources import build, fill, picture, samples
from scipy.io import savemat

from unified.core.errors import DataError
from unified.data.samples import annotations

DEEPLABCUT = "scorer,me,me,me,me\nbodyparts,leftear,leftear,rightear,rightear\ncoords,x,y,x,y\n"
PLAIN = "image,nose_x,nose_y,nose_v,tail_x,tail_y\n"


def test_deeplabcut_tables(tmp_path: Path) -> None:
    rows = "labeled-data/m/img1.png,1.5,2,,\nlabeled-data/m/img2.png,3,4,0.25,1\n"
    files = {"images/img1.png": picture(), "images/img2.png": picture(), "labels.csv": DEEPLABCUT + rows}
    manifest = build("keypoints", fill(tmp_path / "s", files), tmp_path / "out")[""]
    found = samples(tmp_path / "out")
    assert found["images/img1"]["json"]["points"] == {"leftear": [1.5, 2, 2]}
    assert found["images/img2"]["json"]["points"] == {"leftear": [3, 4, 2], "rightear": [0.25, 1, 2]}
    assert (manifest["points"], manifest["flip"]) == (["leftear", "rightear"], [["leftear", "rightear"]])
    assert annotations.joints(found["images/img1"], manifest["points"]).tolist() == [[1.5, 2, 2], [0, 0, 0]]


def test_plain_tables_may_be_named_themselves(tmp_path: Path) -> None:
    rows = "1.png,1,2,1,3,4\n2.png,1,2,0,,\n"
    fill(tmp_path, {"1.png": picture(), "2.png": picture(), "t.csv": PLAIN + rows, "other.csv": "a\n"})
    build("keypoints", tmp_path / "t.csv", tmp_path / "out")
    found = samples(tmp_path / "out")
    assert found["1"]["json"]["points"] == {"nose": [1, 2, 1], "tail": [3, 4, 2]}
    assert found["2"]["json"]["points"] == {}


def matlab(images: list[str], joints: list[str], points: Any) -> bytes:
    buffer = io.BytesIO()
    cells = {"images": np.array(images, dtype=object), "joints": np.array(joints, dtype=object)}
    savemat(buffer, {**cells, "points": np.asarray(points, float)})
    return buffer.getvalue()


@pytest.mark.parametrize("visible", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_matlab_tables(tmp_path: Path, visible: bool, count: int) -> None:
    points = np.array([[[1, 2, 1], [np.nan, np.nan, 2]], [[3, 4, 0], [5, 3, 2]]])[:count, :, : 3 if visible else 2]
    table = matlab(["1.png", "2.png"][:count], ["nose", "tail"], points)
    fill(tmp_path / "s", {"t.mat": table, **{f"{number + 1}.png": picture() for number in range(count)}})
    build("keypoints", tmp_path / "s", tmp_path / "out")
    found = samples(tmp_path / "out")
    assert found["1"]["json"]["points"] == {"nose": [1, 2, 1 if visible else 2]}
    if count == 2:
        expected = {"tail": [5, 3, 2]} if visible else {"nose": [3, 4, 2], "tail": [5, 3, 2]}
        assert found["2"]["json"]["points"] == expected


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (DEEPLABCUT.replace("x,y,x,y", "x,y,x,x"), "no column for rightear_y"),
        ("image,nose_x\n", "no column for nose_y"),
        ("nose_x,nose_y\n1,2\n", "no column 'image'"),
        ("image,nose\n", "column 'nose': expected image, NAME_x"),
        ("scorer,me\nindividuals,a\nbodyparts,nose\ncoords,x\n", "of one individual, found scorer, individuals"),
        ("image\n", "joints of different names, found none"),
        ("", "empty"),
        (PLAIN + "2.png,1,2,2,3,4\n", "missing image: t.csv:2: 2.png"),
        (PLAIN + "1.png,1,2,2,3\n", r"row of another length: t\.csv: row 1 \(line 2\)"),
        (PLAIN + "1.png,1,2,2,3,\n", r"wrong joint: t.csv:2: tail: \[3.0, nan"),
        (PLAIN + "1.png,1,2,7,3,4\n", "wrong joint: t.csv:2: nose"),
        (PLAIN + "1.png,a,2,1,3,4\n", "wrong joint: t.csv:2: nose: expected numbers"),
        (PLAIN + "1.png,1,20,1,3,4\n", r"joint outside the image: t.csv:2: nose: \[1.0, 20.0\]"),
        (PLAIN + "1.png,1,2,2,3,4\n1.png,1,2,2,3,4\n", "duplicate key"),
        (PLAIN + "1.png,1,2,2,3,4\n", "image without a row: other.png"),
    ],
)
def test_wrong_tables_of_joints_are_named(tmp_path: Path, table: str, message: str) -> None:
    fill(tmp_path / "s", {"1.png": picture(), "other.png": picture(), "t.csv": table})
    with pytest.raises(DataError, match=message):
        build("keypoints", tmp_path / "s", tmp_path / "out")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"MATLAB 7.3", "save it with -v7"),
        (matlab(["1.png"], ["nose", "tail"], [[[1, 2]]]), "expected 1 images × 2 joints"),
        (matlab(["1.png"], ["nose"], [[[1, 2, 2, 2]]]), "expected 1 images × 1 joints × 2 or 3"),
        (matlab(["1.png"], ["nose"], [[[1, 2]], [[1, 2]]]), "expected 1 images × 1 joints"),
    ],
)
def test_wrong_matlab_tables_are_named(tmp_path: Path, table: bytes, message: str) -> None:
    fill(tmp_path / "s", {"1.png": picture(), "t.mat": table})
    with pytest.raises(DataError, match=message):
        build("keypoints", tmp_path / "s", tmp_path / "out")


def test_one_table_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected one table .* found a\.csv, b\.csv; name the table itself"):
        build("keypoints", fill(tmp_path / "s", {"a.csv": "", "b.csv": ""}), tmp_path / "out")


def test_binary_attributes(tmp_path: Path) -> None:
    table = "file,smiling,glasses,identity\n1.png,1,0,ann\n2.png,-1,,bob\n"
    fill(tmp_path / "s", {"1.png": picture(), "2.png": picture(), "t.csv": table})
    manifest = build("attributes", tmp_path / "s", tmp_path / "out")[""]
    found = samples(tmp_path / "out")
    assert manifest["attributes"] == ["smiling", "glasses"]
    assert manifest["positives"] == {"smiling": 1.0, "glasses": 0.0}, "among those that are known"
    assert annotations.presence(found["1"], manifest["attributes"]).tolist() == [1, 0]
    assert annotations.presence(found["2"], manifest["attributes"]).tolist() == [-1, -1]
    assert [annotations.identity(found[name]) for name in "12"] == ["ann", "bob"]
    assert (tmp_path / "out" / "attributenames.txt").read_text() == "smiling\nglasses\n"


def test_minus_one_means_no_where_a_table_has_no_zero(tmp_path: Path) -> None:
    fill(tmp_path / "s", {"1.png": picture(), "2.png": picture(), "t.csv": "file,a,b\n1.png,1,-1\n2.png,-1,\n"})
    build("attributes", tmp_path / "s", tmp_path / "out")
    found = samples(tmp_path / "out")
    assert [found[name]["json"]["attributes"] for name in "12"] == [{"a": 1, "b": 0}, {"a": 0, "b": -1}]


def test_categories_in_a_table_with_a_zip(tmp_path: Path) -> None:
    people = ["red ann", " ann", "bald+red bob", "bald bob", "A+ cy", "red dee"]
    rows = [f"{number}.png\t" + person.replace(" ", "\t") for number, person in enumerate(people, start=1)]
    lines = ["file\thair\twho", *rows]
    fill(tmp_path / "s", {"t.tsv": "\n".join(lines)})
    with zipfile.ZipFile(tmp_path / "s" / "images.zip", "w") as file:
        for number in range(1, 7):
            file.writestr(f"{number}.png", picture(seed=number))
    columns = "file=path, hair=attribute, who=identity"
    options = {"columns": columns, "held_out": 0.5, "held_out_by": "identity"}
    manifests = build("attributes", tmp_path / "s", tmp_path / "out", **options)
    assert manifests["train"]["attributes"] == ["hair: A+", "hair: bald", "hair: red"]
    found = {split: samples(tmp_path / "out" / split) for split in manifests}
    for split, manifest in manifests.items():
        said = torch.stack([annotations.presence(one, manifest["attributes"]) for one in found[split].values()])
        known = (said >= 0).sum(0).clamp(min=1)
        expected = ((said > 0).sum(0) / known).tolist()
        assert list(manifest["positives"].values()) == pytest.approx(expected, abs=1e-6)
    assert manifests["train"]["positives"] != manifests["test"]["positives"]
    held = {split: {annotations.identity(one) for one in parts.values()} for split, parts in found.items()}
    assert len(held["test"]) == 2
    assert not held["train"] & held["test"]
    names = manifests["train"]["attributes"]
    answers = {key: annotations.presence(one, names).tolist() for parts in found.values() for key, one in parts.items()}
    assert answers == {
        "1": [0, 0, 1],
        "2": [-1, -1, -1],
        "3": [0, 1, 1],
        "4": [0, 1, 0],
        "5": [1, 0, 0],
        "6": [0, 0, 1],
    }


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        ("file,hair\n1.png,red\n", None, "not of 1, 0 and -1: hair. Say which are categories"),
        ("file,a\n2.png,1\n", None, "missing image: t.csv: row 1: 2.png"),
        ("file,a,who\n1.png,1,\n", "file=path,a=attribute,who=identity", "missing identity: t.csv: row 1"),
        ("file,a\n1.png,1\n", "file=path,b=attribute", "no column 'b'"),
        ("file,a\n1.png,1\n", "file=path,a=atribute", "did you mean 'attribute'"),
        ("file,a\n1.png,1\n", "a=attribute", "expected one path"),
        ("file,a\n", None, "no rows"),
        ("file,a\n1.png,1\n1.png,0\n", None, "duplicate key"),
    ],
)
def test_wrong_tables_of_attributes_are_named(tmp_path: Path, table: str, columns: str | None, message: str) -> None:
    fill(tmp_path / "s", {"1.png": picture(), "t.csv": table})
    with pytest.raises(DataError, match=message):
        build("attributes", tmp_path / "s", tmp_path / "out", columns=columns)


def test_a_quote_that_nobody_closed_takes_no_other_row_of_joints(tmp_path: Path) -> None:
    rows = "".join(f"{name}.png,1,2\n" for name in "bcd")
    fill(
        tmp_path / "s", {**{f"{name}.png": picture() for name in "abcd"}, "t.csv": f'image,a_x,a_y\n"a.png,1,2\n{rows}'}
    )
    with pytest.raises(DataError, match=r"unclosed quote: t\.csv: row 1 \(line 2\)"):
        build("keypoints", tmp_path / "s", tmp_path / "o")
    manifests = build("keypoints", tmp_path / "s", tmp_path / "o", skip_bad=True)
    assert manifests[""]["samples"] == 3


def test_variables_of_gigabytes_are_refused_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unified.data.builders.archives.MOST_BYTES", 1 << 24)
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(17)) + packer.flush()
    data = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed
    fill(tmp_path / "s", {"a.png": picture()})
    (tmp_path / "s" / "t.mat").write_bytes(data)
    with pytest.raises(DataError, match="expected at most 16,777,216 bytes of variables"):
        build("keypoints", tmp_path / "s", tmp_path / "o")

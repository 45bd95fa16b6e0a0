"""Shards of a user's own files: class folders, captioned pictures, tables, and what can be wrong with them."""

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unified.core.errors import DataError
from unified.data.builders.dense import Options
from unified.data.builders.folders import build_imagefolder, build_pairs
from unified.data.builders.sources import Files
from unified.data.builders.table import build_table, parse_columns
from unified.data.shards.shards import Shards

LIMIT = 100


def picture(kind: str = "PNG", colour: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (colour, 0, 255 - colour)).save(buffer, kind)
    return buffer.getvalue()


def options(columns: Mapping[str, str] | None = None, **given: Any) -> Options:
    """Options of a builder; `columns` as the command has them."""
    text = ",".join(f"{name}={target}" for name, target in columns.items()) if columns else None
    return Options(samples_per_shard=LIMIT, columns=text, **given)


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def samples(out: Path) -> dict[str, dict[str, Any]]:
    shards = Shards.open(out)
    found = [shards[number] for number in range(len(shards))]
    return {raw["__key__"]: {name: raw[name] for name in raw if not name.startswith("__")} for raw in found}


ANIMALS = {
    "dog/1.jpg": picture("JPEG", 1),
    "dog/2.png": picture("PNG", 2),
    "cat/1.v2.PNG": picture("PNG", 3),
    "cat/deep/4.webp": picture("WEBP", 4),
    ".DS_Store": b"",
    "cat/notes.md": b"",
}


def test_class_folders(tmp_path: Path) -> None:
    manifests = build_imagefolder(fill(tmp_path / "animals", ANIMALS), tmp_path / "out", options())
    assert samples(tmp_path / "out") == {
        "dog/1": {"jpg": ANIMALS["dog/1.jpg"], "cls": b"1", "txt": b"dog"},
        "dog/2": {"png": ANIMALS["dog/2.png"], "cls": b"1", "txt": b"dog"},
        "cat/1_v2": {"png": ANIMALS["cat/1.v2.PNG"], "cls": b"0", "txt": b"cat"},
        "cat/deep/4": {"webp": ANIMALS["cat/deep/4.webp"], "cls": b"0", "txt": b"cat"},
    }
    assert (tmp_path / "out" / "classnames.txt").read_text() == "cat\ndog\n"
    manifest = manifests[""]
    assert (manifest["classes"], manifest["class_counts"]) == (["cat", "dog"], {"cat": 2, "dog": 2})
    assert (manifest["kind"], manifest["source"], manifest["samples"]) == ("imagefolder", "animals", 4)


@pytest.mark.parametrize("wrapper", ["", "animals/"])
def test_zip_equals_folder(tmp_path: Path, wrapper: str) -> None:
    folder = fill(tmp_path / "animals", ANIMALS)
    with zipfile.ZipFile(tmp_path / "animals.zip", "w") as file:
        for name, data in ANIMALS.items():
            if wrapper == "" or "/" in name:
                file.writestr(wrapper + name, data)
    build_imagefolder(folder, tmp_path / "a", options())
    build_imagefolder(tmp_path / "animals.zip", tmp_path / "b", options())
    assert samples(tmp_path / "a") == samples(tmp_path / "b")
    assert (tmp_path / "a" / "images-00000.tar").read_bytes() == (tmp_path / "b" / "images-00000.tar").read_bytes()


def test_split_folders_share_the_class_list(tmp_path: Path) -> None:
    source = fill(
        tmp_path / "s",
        {"train/b/1.png": picture(), "train/a/1.png": picture(), "val/b/1.png": picture(), "val/b/2.png": picture()},
    )
    manifests = build_imagefolder(source, tmp_path / "out", options())
    assert {split: manifest["samples"] for split, manifest in manifests.items()} == {"train": 2, "val": 2}
    assert samples(tmp_path / "out" / "val")["b/2"]["cls"] == b"1"
    assert (tmp_path / "out" / "classnames.txt").read_text() == "a\nb\n"


def bad_classes(folder: Path) -> Path:
    (folder / "empty").mkdir(parents=True)
    return fill(
        folder,
        {
            "dog/1.png": picture(),
            "dog/1.jpg": picture("JPEG"),
            "cat/2.png": picture()[:40],
            "cat/3.png": b"",
            "loose.png": picture(),
        },
    )


def bad_pairs(folder: Path) -> Path:
    return fill(
        folder,
        {
            "1.png": picture(),
            "1.txt": b"one",
            "2.png": picture(),
            "3.png": picture(),
            "3.txt": b" \n",
            "4.txt": b"no picture",
            "5.png": picture()[:50],
            "5.txt": b"five",
            "6.png": picture(),
            "6.txt": b"\xff\xfe\xfa",
        },
    )


def test_everything_wrong_with_class_folders_is_listed(tmp_path: Path) -> None:
    source = bad_classes(tmp_path / "s")
    with pytest.raises(DataError) as caught:
        build_imagefolder(source, tmp_path / "out", options())
    message = str(caught.value)
    for part in (
        "1 × image outside a class folder",
        "1 × class without images",
        "1 × duplicate key",
        "2 × unreadable image",
        "class without images: empty",
        "duplicate key: dog/1.png and dog/1.jpg would both be sample 'dog/1'",
        "--skip-bad",
    ):
        assert part in message
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_everything_wrong_with_pairs_is_listed(tmp_path: Path) -> None:
    source = bad_pairs(tmp_path / "s")
    with pytest.raises(DataError) as caught:
        build_pairs(source, tmp_path / "out", options())
    for part in (
        "2 × missing caption",
        "1 × caption without image: 4.txt",
        "1 × unreadable image",
        "unreadable caption",
    ):
        assert part.replace("1 × caption without image: ", "caption without image: ") in str(caught.value)


def test_bad_entries_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = build_pairs(bad_pairs(tmp_path / "s"), tmp_path / "out", options(skip_bad=True))[""]
    assert set(samples(tmp_path / "out")) == {"1"}
    assert len(manifest["skipped"]) == 5
    assert any(line.startswith("unreadable image: ") and "5.png" in line for line in manifest["skipped"])
    assert "skipped" in caplog.text
    folders = build_imagefolder(bad_classes(tmp_path / "c"), tmp_path / "out2", options(skip_bad=True))[""]
    assert (folders["samples"], len(folders["skipped"])) == (1, 5)


@pytest.mark.parametrize("build", [build_imagefolder, build_pairs])
def test_nothing_to_pack_is_an_error(tmp_path: Path, build: Callable[..., Any]) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(DataError, match="nothing to pack"):
        build(tmp_path / "s", tmp_path / "out", options(skip_bad=True))


def test_pairs_keep_bytes_and_strip_captions(tmp_path: Path) -> None:
    source = fill(
        tmp_path / "s", {"a/1.jpg": picture("JPEG"), "a/1.txt": "\ufeffein großer Hund\n".encode(), "2.png": picture()}
    )
    (source / "2.txt").write_text("two")
    build_pairs(source, tmp_path / "out", options())
    assert samples(tmp_path / "out") == {
        "a/1": {"jpg": picture("JPEG"), "txt": "ein großer Hund".encode()},
        "2": {"png": picture(), "txt": b"two"},
    }


TABLES = {
    "t.csv": 'image,caption,place,n\nimg/1.png,"one, two",Rome,3\nimg/2.jpg,größe,,4\n',
    "t.tsv": "image\tcaption\tplace\tn\nimg/1.png\tone, two\tRome\t3\nimg/2.jpg\tgröße\t\t4\n",
    "t.jsonl": '{"image": "img/1.png", "caption": "one, two", "place": "Rome", "n": 3}\n\n'
    '{"image": "img/2.jpg", "caption": "größe", "place": "", "n": 4}\n',
}


@pytest.mark.parametrize("name", list(TABLES))
def test_tables(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "s", {"img/1.png": picture(), "img/2.jpg": picture("JPEG"), name: TABLES[name].encode()})
    columns = parse_columns("image=path, caption=txt,place=json,n=cls")
    manifest = build_table(tmp_path / "s" / name, tmp_path / "out", options(columns))[""]
    assert samples(tmp_path / "out") == {
        "00000001": {"png": picture(), "txt": b"one, two", "json": b'{"place": "Rome"}', "cls": b"3"},
        "00000002": {"jpg": picture("JPEG"), "txt": "größe".encode(), "json": b'{"place": ""}', "cls": b"4"},
    }
    assert manifest["mapping"] == columns


def test_text_only_tables(tmp_path: Path) -> None:
    fill(tmp_path, {"t.csv": b"a\nfirst\nsecond\n"})
    build_table(tmp_path / "t.csv", tmp_path / "out", options({"a": "txt"}))
    assert [sample["txt"] for _, sample in sorted(samples(tmp_path / "out").items())] == [b"first", b"second"]


def test_everything_wrong_with_a_table_is_listed(tmp_path: Path) -> None:
    rows = "image,caption,n\n1.png,one,1\nnone.png,two,2\n,three,3\n1.png,,4\n1.png,five,many\nt.csv,six,6\n"
    fill(tmp_path, {"1.png": picture(), "t.csv": rows.encode()})
    columns = {"image": "path", "caption": "txt", "n": "cls"}
    with pytest.raises(DataError) as caught:
        build_table(tmp_path / "t.csv", tmp_path / "out", options(columns))
    for part in (
        "2 × missing image",
        "missing caption: row 4",
        "class is no whole number",
        "unknown image format",
        "row 2: 'none.png': no such file",
    ):
        assert part in str(caught.value)
    manifest = build_table(tmp_path / "t.csv", tmp_path / "out", options(columns, skip_bad=True))[""]
    assert (manifest["samples"], len(manifest["skipped"])) == (1, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "--columns image=path"),
        ("image", "'image' does not fit"),
        ("image=pth", "did you mean 'path'"),
        ("a=txt,b=txt", "two columns become 'txt'"),
    ],
)
def test_wrong_mappings(text: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_columns(text)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", b"image,caption\n1.png,x\n", r"no column 'captoin'; did you mean 'caption'\?"),
        ("t.csv", b"\xff\xff\n", r"t\.csv: line 1: expected text in UTF-8, got b'\\xff' at byte 0"),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', r"row 2 \(line 2\): expected an object of JSON, got '\{\"a\": '"),
        ("t.jsonl", b"[1]\n", r"row 1 \(line 1\): expected an object of JSON, found list"),
        ("t.xls", b"", "expected a table with the suffix"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        build_table(tmp_path / name, tmp_path / "out", options({"captoin" if name == "t.csv" else "a": "txt"}))


def test_sources_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder or zip"):
        Files(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="expected a folder or a zip"):
        Files(tmp_path / "file")

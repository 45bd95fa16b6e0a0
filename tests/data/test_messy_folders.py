"""Folders as people have them: litter, links, names of other systems, and classes called alike everywhere."""

import io
import json
import os
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unified.core.errors import DataError
from unified.data.builders.dense import Options
from unified.data.class_folders import class_name, class_names, split_folders
from unified.data.commands import shards as commands
from unified.data.shards.patterns import parts, shard_paths
from unified.data.shards.shards import Shards
from unified.data.shards.verify import verify
from unified.evaluate.sources import class_names as names_of
from unified.evaluate.sources import open_source

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def png(colour: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (colour, 0, 255 - colour)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(folder: Path, *names: str) -> Path:
    """Images of different colours by name; other files hold their name."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(number) if name.lower().endswith("png") else name.encode())
    return folder


def build(source: Path, kind: str, *, skip_bad: bool = False, **options: Any) -> dict[str, Any]:
    """The samples by key, and the manifest under ""."""
    out = source.parent / f"{source.stem}.out"
    commands.build(str(source), out, kind=kind, options=Options(skip_bad=skip_bad, **options))
    assert verify(out).problems == []
    shards = Shards.open(out)
    found: dict[str, Any] = {raw["__key__"]: raw for raw in (shards[n] for n in range(len(shards)))}
    return {**found, "": json.loads((out / "manifest.json").read_text())}


def same(source: Path) -> list[tuple[str, int, str]]:
    """Key, class number and class name of all samples: those of a folder, which must be those of its shards."""
    found = []
    for data in (source, source.parent / f"{source.stem}.out"):
        opened = open_source(str(data))
        samples = [opened[number] for number in range(len(opened))]
        found.append(sorted((raw["__key__"], int(raw["cls"]), raw["txt"].decode()) for raw in samples))
    assert found[0] == found[1]
    assert names_of(str(source)) == names_of(str(source.parent / f"{source.stem}.out"))
    return found[0]


def test_a_folder_and_its_shards_hold_and_call_the_same(tmp_path: Path) -> None:
    litter = (".ipynb_checkpoints/0.png", "red_fox/._1.png", "@eaDir/1.png", "red_fox/@eaDir/2.png", "Thumbs.db")
    images = ("red_fox/1.PNG", "red_fox/deep/er/2.png", "__background__/3.png", f"{DECOMPOSED}/4.png", "_/5.v2.png")
    source = fill(tmp_path / "photos", *litter, *images)
    found = build(source, "imagefolder")
    assert found[""]["classes"] == ["_", "background", COMPOSED, "red fox"]
    assert same(source) == sorted(
        [
            ("_background_/3", 1, "background"),
            ("_/5_v2", 0, "_"),
            (f"{DECOMPOSED}/4", 2, COMPOSED),
            ("red_fox/1", 3, "red fox"),
            ("red_fox/deep/er/2", 3, "red fox"),
        ]
    )
    assert (tmp_path / "photos.out" / "classnames.txt").read_text() == f"_\nbackground\n{COMPOSED}\nred fox\n"


def test_names_of_shards_that_were_built_with_underscores_are_read_with_spaces(tmp_path: Path) -> None:
    build(fill(tmp_path / "s", "red_fox/1.png"), "imagefolder")
    path = tmp_path / "s.out" / "manifest.json"
    path.write_text(path.read_text().replace("red fox", "red_fox"))
    assert names_of(str(tmp_path / "s.out")) == ["red fox"]


def test_folders_that_differ_in_underscores_alone_keep_them() -> None:
    assert class_names(["a_b", "a b", "c_d"]) == {"a_b": "a_b", "a b": "a b", "c_d": "c d"}
    assert class_names([COMPOSED, DECOMPOSED]) == {COMPOSED: COMPOSED, DECOMPOSED: COMPOSED}
    assert [class_name(name) for name in ("golden__retriever_", "__", "n01440764")] == [
        "golden retriever",
        "__",
        "n01440764",
    ]


def test_parts_beside_folders_without_images_are_parts(tmp_path: Path) -> None:
    source = fill(tmp_path / "s", "Train/a_b/1.png", "Test/a b/1.png", "docs/readme.md")
    commands.build(str(source), tmp_path / "out")
    assert [(Path(part).name, len(Shards.open(part))) for part in parts(tmp_path / "out")] == [
        ("Test", 1),
        ("Train", 1),
    ]
    assert (tmp_path / "out" / "classnames.txt").read_text() == "a b\n"
    assert names_of(str(source / "Test")) == ["a b"]
    assert split_folders(["train/a/1.png", "cats/1.png"], ["train", "train/a", "cats"]) == [""]


def test_parts_number_their_classes_together(tmp_path: Path) -> None:
    source = fill(tmp_path / "s", "train/b/1.png", "train/c/2.png", "test/a/3.png", "test/c/4.png")
    commands.build(str(source), tmp_path / "out")
    for part, labels in (("train", [1, 2]), ("test", [0, 2])):
        for folder in (source, tmp_path / "out"):
            opened = open_source(str(folder / part))
            assert names_of(str(folder / part)) == ["a", "b", "c"]
            assert sorted(int(opened[number]["cls"]) for number in range(2)) == labels


def test_linked_class_folders_are_packed_and_circles_are_problems(tmp_path: Path) -> None:
    fill(tmp_path / "disk", "cats/a.png", "dogs/b.png")
    source = tmp_path / "s"
    source.mkdir()
    for name in ("cats", "dogs"):
        (source / name).symlink_to(f"../disk/{name}")
    assert set(build(source, "imagefolder")) == {"", "cats/a", "dogs/b"}
    (tmp_path / "disk" / "cats" / "again").symlink_to("..")
    (tmp_path / "disk" / "cats" / "c.png").symlink_to("gone.png")
    os.mkfifo(tmp_path / "disk" / "cats" / "pipe.png")
    (tmp_path / "s.out").rename(tmp_path / "old")
    counts = "1 × link in a circle, 1 × link without a target, 1 × neither file nor folder"
    with pytest.raises(DataError, match=counts):
        build(source, "imagefolder")
    with pytest.raises(DataError, match=r"got 3 others\n  link in a circle: 'cats/again': leads to a folder that"):
        open_source(str(source))


@pytest.mark.parametrize("name", [b"cats/caf\xe9.png", b"caf\xe9/b.png", b"cats/caf\xe9/b.png"])
def test_names_that_are_not_utf_8_are_problems(tmp_path: Path, name: bytes) -> None:
    source = fill(tmp_path / "s", "cats/a.png", "dogs/b.png")
    path = Path(os.fsdecode(os.fsencode(source) + b"/" + name))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(png())
    with pytest.raises(DataError, match=r"1 × name that is not UTF-8\n  name that is not UTF-8: '.*caf.udce9"):
        build(source, "imagefolder")
    found = build(source, "imagefolder", skip_bad=True)
    assert set(found) == {"", "cats/a", "dogs/b"}
    assert len(found[""]["skipped"]) == 1
    with pytest.raises(DataError, match="name that is not UTF-8"):
        open_source(str(source))


def test_a_source_whose_name_is_not_utf_8_is_packed(tmp_path: Path) -> None:
    source = fill(Path(os.fsdecode(os.fsencode(tmp_path) + b"/th\xe9")), "cats/a.png")
    commands.build(str(source), tmp_path / "out", kind="imagefolder")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["source"] == r"th\udce9"


def test_litter_of_a_zip_is_no_class(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as file:
        for name in ("s/cats/a.png", "s/Thumbs.db", "__MACOSX/s/cats/._a.png", "s/.DS_Store"):
            file.writestr(name, png())
    assert set(build(tmp_path / "s.zip", "imagefolder")) == {"", "cats/a"}


@pytest.mark.parametrize(("image", "text"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED), ("a.b", "a.b")])
@pytest.mark.parametrize("suffix", ["txt", "TXT"])
def test_captions_of_the_same_name_are_found(tmp_path: Path, image: str, text: str, suffix: str) -> None:
    source = fill(tmp_path / "s", f"{image}.png", f"{text}.{suffix}", f"._{text}.txt")
    commands.build(str(source), tmp_path / "out")  # recognised as pairs
    shards = Shards.open(tmp_path / "out")
    assert [shards[number]["txt"].decode() for number in range(len(shards))] == [f"{text}.{suffix}"]


def test_two_captions_of_one_image_are_a_problem(tmp_path: Path) -> None:
    source = fill(tmp_path / "s", "a.png", "a.txt", "a.TXT", "b.png", "b.txt")
    with pytest.raises(DataError, match=r"several captions: a.png: expected one caption, got a.TXT, a.txt"):
        build(source, "pairs")
    assert set(build(source, "pairs", skip_bad=True)) == {"", "b"}


@pytest.mark.parametrize("folder", ["set [1]", "set {a,b}", "set {0..2}", "what?", "[!x]/y", "a*"])
@pytest.mark.parametrize("pattern", ["", "/0.tar", "/*.tar", "/{0,1}.tar"])
def test_folders_that_exist_are_taken_as_they_are_named(tmp_path: Path, folder: str, pattern: str) -> None:
    build(fill(tmp_path / "s", "cats/a.png"), "imagefolder")
    (tmp_path / folder).parent.mkdir(exist_ok=True)
    (tmp_path / "s.out").rename(tmp_path / folder)
    (tmp_path / folder / "manifest.json").unlink()
    (tmp_path / folder / "images-00000.tar").rename(tmp_path / folder / "0.tar")
    (tmp_path / folder / "images-00000.tar.idx").unlink()
    (tmp_path / folder / "._0.tar").write_bytes(b"litter")
    tar = tmp_path / folder / "0.tar"
    if "1" in pattern:
        (tmp_path / folder / "1.tar").write_bytes(tar.read_bytes())
        assert shard_paths(f"{tmp_path / folder}{pattern}") == [tar, tar.with_name("1.tar")]
    else:
        assert shard_paths(f"{tmp_path / folder}{pattern}") == [tar]


def test_globs_still_name_folders(tmp_path: Path) -> None:
    fill(tmp_path, "s1/0.tar", "s2/0.tar", "s[1]/0.tar", "x/0.tar")
    assert shard_paths(str(tmp_path / "s[12]" / "*.tar")) == [tmp_path / "s1" / "0.tar", tmp_path / "s2" / "0.tar"]
    assert shard_paths(str(tmp_path / "{s1,x}" / "0.tar")) == [tmp_path / "s1" / "0.tar", tmp_path / "x" / "0.tar"]
    assert shard_paths(str(tmp_path / "s[1]" / "*.tar")) == [tmp_path / "s[1]" / "0.tar"]
    assert len(shard_paths(str(tmp_path / "**" / "0.tar"))) == 4
    with pytest.raises(DataError, match=r"no shard .*none\.tar"):
        shard_paths(str(tmp_path / "s1" / "none.tar"))


def test_a_class_list_is_read_in_one_way(tmp_path: Path) -> None:
    source = fill(tmp_path / "m", "images/x.png")
    mask = io.BytesIO()
    Image.new("L", (5, 4), 1).save(mask, "PNG")
    (source / "labels").mkdir()
    (source / "labels" / "x.png").write_bytes(mask.getvalue())
    names = tmp_path / "names.txt"
    names.write_bytes("fond\nforêt\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"names\.txt: expected text in UTF-8, got b'\\xea' at byte 8"):
        build(source, "masks", classes=str(names))
    names.write_bytes("\ufefffond\r\nfor\u2028êt\r\n\r\n".encode())
    assert build(source, "masks", classes=str(names))[""]["classes"] == ["fond", "for\u2028êt"]

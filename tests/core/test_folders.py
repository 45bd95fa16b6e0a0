"""The walk of a folder of users' files: what is taken, what is left out and told, and files found by written names."""

import os
import unicodedata
from pathlib import Path

import pytest

from unified.core.errors import DataError
from unified.core.folders import (
    CIRCLE,
    NO_FILE,
    NO_TARGET,
    NOT_UTF_8,
    FileFinder,
    holds_file,
    is_hidden,
    sort_names,
    subfolders,
    walk_folder,
)

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        *(".DS_Store", "._a.png", ".ipynb_checkpoints", ".git", "__MACOSX", "Icon\r", "@eaDir", "#recycle"),
        *("Thumbs.db", "THUMBS.DB", "desktop.ini", "Desktop.ini", "$RECYCLE.BIN", "System Volume Information"),
    ],
)
def test_hidden_files_and_litter_are_left_out(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "d", "a/1.png", f"{name}/2.png", f"a/{name}/deep/3.png")
    found = walk_folder(tmp_path / "d")
    assert (found.files, found.folders, found.passed_over) == (("a/1.png",), ("a",), ())
    assert found.hidden == tuple(sorted((name, f"a/{name}")))


@pytest.mark.parametrize("name", ["a.png", "__background__", "thumbs", "icon", "c#", "@home", "_"])
def test_other_names_are_no_litter(name: str) -> None:
    assert not is_hidden(name)


def test_a_folder_in_a_hidden_one_is_read(tmp_path: Path) -> None:
    assert walk_folder(touch(tmp_path / ".cache" / "d", "b.png", "a/1.png")).files == ("a/1.png", "b.png")


def test_links_are_followed_and_circles_are_told(tmp_path: Path) -> None:
    touch(tmp_path / "disk", "cats/1.png", "2.png")
    (touch(tmp_path / "d", "dogs/3.png") / "cats").symlink_to("../disk/cats")
    (tmp_path / "d" / "dogs" / "2.png").symlink_to("../../disk/2.png")
    (tmp_path / "d" / "dogs" / "up").symlink_to("..")
    (tmp_path / "d" / "self").symlink_to("self")
    (tmp_path / "d" / "gone.png").symlink_to("nowhere.png")
    found = walk_folder(tmp_path / "d")
    assert found.files == ("cats/1.png", "dogs/2.png", "dogs/3.png")
    assert [(one.name, one.kind) for one in found.passed_over] == [
        ("dogs/up/", CIRCLE),
        ("gone.png", NO_TARGET),
        ("self", CIRCLE),
    ]
    assert "'gone.png': leads to 'nowhere.png'" in found.passed_over[1].where


def test_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    touch(tmp_path / "d", "a/1.png", "b/2.png")
    (tmp_path / "d" / "a" / "to_b").symlink_to("../b")
    (tmp_path / "d" / "b" / "to_a").symlink_to("../a")
    found = walk_folder(tmp_path / "d")
    assert found.files == ("a/1.png", "a/to_b/2.png", "b/2.png", "b/to_a/1.png")
    assert [one.name for one in found.passed_over] == ["a/to_b/to_a/", "b/to_a/to_b/"]
    assert {one.kind for one in found.passed_over} == {CIRCLE}


def test_pipes_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(touch(tmp_path / "d", "a.png") / "pipe.png")
    found = walk_folder(tmp_path / "d")
    assert found.files == ("a.png",)
    assert [(one.name, one.kind, one.suffix) for one in found.passed_over] == [("pipe.png", NO_FILE, ".png")]


def test_names_that_are_not_utf_8_are_told_once_a_folder(tmp_path: Path) -> None:
    touch(tmp_path / "d", "a/1.png")
    folder = os.fsencode(tmp_path / "d")
    for name in (b"a/caf\xe9.png", b"th\xe9/2.png", b"th\xe9/3.png", b".caf\xe9"):
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        Path(os.fsdecode(os.path.join(folder, name))).write_bytes(b"x")
    found = walk_folder(tmp_path / "d")
    assert found.files == ("a/1.png",)
    assert [one.kind for one in found.passed_over] == [NOT_UTF_8, NOT_UTF_8]
    assert [one.where for one in found.passed_over] == [r"'a/caf\udce9.png': rename it", r"'th\udce9/': rename it"]


def test_names_of_an_archive_are_sorted_alike() -> None:
    found = sort_names(["d/b.png", "d/a/", "__MACOSX/d/._b.png", "d/\udce9/1.png", "c/d/e.png"])
    assert found.files == ("c/d/e.png", "d/b.png")
    assert found.folders == ("c", "c/d", "d", "d/a")
    assert [one.name for one in found.passed_over] == ["d/\udce9/"]
    assert found.hidden == ("__MACOSX",)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none: no such folder"):
        walk_folder(tmp_path / "none")


def test_a_file_is_looked_for_by_its_ending(tmp_path: Path) -> None:
    touch(tmp_path / "d", "top.JPG", ".hidden/a/1.png", "b/notes.txt")
    assert holds_file(tmp_path / "d", {".jpg"}, depth=0)
    assert not holds_file(tmp_path / "d", {".jpg", ".png"})
    touch(tmp_path / "d", "b/c/1.PNG")
    assert holds_file(tmp_path / "d", {".png"})
    assert [path.name for path in subfolders(tmp_path / "d")] == ["b"]


@pytest.mark.parametrize("written", ["in/a.png", "in\\a.png", "./in/a.png", "in//a.png"])
def test_files_are_found_with_either_slash(tmp_path: Path, written: str) -> None:
    assert FileFinder(touch(tmp_path, "in/a.png")).find(written) == tmp_path / "in" / "a.png"


def test_a_name_with_a_backslash_comes_before_a_path(tmp_path: Path) -> None:
    touch(tmp_path, "in\\a.png", "in/a.png")
    assert FileFinder(tmp_path).find("in\\a.png").name == "in\\a.png"


@pytest.mark.parametrize(("stored", "written"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_files_are_found_in_the_other_unicode_form(tmp_path: Path, stored: str, written: str) -> None:
    touch(tmp_path, f"{stored}/{stored}.png")
    finder = FileFinder(tmp_path / "x" / "..")
    (tmp_path / "x").mkdir()
    assert finder.find(f"{written}\\{written}.png").samefile(tmp_path / stored / f"{stored}.png")


def test_a_name_in_both_forms_is_the_one_that_is_written(tmp_path: Path) -> None:
    touch(tmp_path, f"{COMPOSED}.png", f"{DECOMPOSED}.png")
    assert FileFinder(tmp_path).find(f"{DECOMPOSED}.png").name == f"{DECOMPOSED}.png"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.png", "'none.png': no such file"),
        ("A.PNG", "no such file; there is 'a.png'"),
        ("in", "expected a file, got a folder"),
        ("C:\\data\\a.png", "got one of a Windows drive"),
        ("https://host/a.png", "expected a file, got a URL"),
        ("a\0.png", r"'a\\x00.png': no such file"),
        ("x" * 5000, "expected the name of a file, got one that none has"),
        ("pipe.png", "expected a regular file, got a link without a target, a pipe or a device"),
    ],
)
def test_what_is_not_found_says_what_is_there(tmp_path: Path, name: str, message: str) -> None:
    os.mkfifo(touch(tmp_path, "a.png", "in/b.png") / "pipe.png")
    with pytest.raises(DataError, match=message):
        FileFinder(tmp_path).find(name)

"""Where nothing more can be written commands end in one line, and what was there is as it was."""

import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from commands import recipe_file, run
from PIL import Image

from unified.cli.export import export
from unified.cli.train import train
from unified.core.atomic_files import replace_file, replacing_files

RECORDS = ("log.txt", ".lock")


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file can be longer than `size` bytes, as if the disk were full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    """All that a folder holds, but for what is printed."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if path.name not in RECORDS and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, an image, a recipe, a spec, a run of two steps and its export."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = recipe_file(folder, train={"log_every": 1, "save_every": 1})
    train([str(recipe), "--out", str(folder / "run")])
    words = {"kind": "masked", "data": str(folder / "data")}
    (folder / "spec.yaml").write_text(yaml.safe_dump({"evaluations": {"words": words}}))
    for name in ("a", "b"):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(3):
            Image.effect_noise((40, 40), 90).convert("RGB").save(folder / "photos" / name / f"{number}.png")
    export(folder / "run", folder / "exported")
    return folder


@pytest.mark.parametrize(
    ("size", "line"),
    [
        pytest.param(60, "train {here}/a.yaml --out {here}/new", marks=pytest.mark.slow),
        (3_000, "train {here}/a.yaml --out {here}/new"),
        pytest.param(3_000, "train {here}/a.yaml --out {here}/run --max-steps 4", marks=pytest.mark.slow),
        pytest.param(20_000, "export {here}/run {here}/out", marks=pytest.mark.slow),
        (20_000, "export {here}/run {here}/exported"),
        pytest.param(500, "export {here}/run {here}/exported", marks=pytest.mark.slow),
        (100, "eval {here}/run {here}/spec.yaml --out {here}/results.json"),
        (100, "predict {here}/run {here}/photos/a/0.png --labels x y --out {here}/predicted"),
        (3_000, "shards build {here}/photos {here}/shards --kind imagefolder"),
        pytest.param(1_000, "report run {here}/run", marks=pytest.mark.slow),
        pytest.param(20_000, "fold {here}/run {here}/folded --keep-experts", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_told_in_one_line(
    size: int,
    line: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here = tmp_path / "here"
    shutil.copytree(trained, here)
    before = contents(here)
    with room_for(size):
        status, told = run(capsys, *line.format(here=here).split())
    assert str(status).startswith((f"error: {here}", f"error: {tempfile.gettempdir()}")), told
    assert "File too large" in str(status)
    assert "\n" not in str(status)
    assert "Traceback" not in told
    after = contents(here)
    assert {name: after.get(name) for name in before} == before, "what was there is as it was"
    assert not [name for name in after if name.endswith((".partial", ".part"))]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("train {here}/a.yaml --out {here}/file/run", marks=pytest.mark.slow),
        "train {here}/a.yaml --out {here}/file",
        pytest.param("export {here}/run {here}/file/out", marks=pytest.mark.slow),
        "export {here}/run {here}/file",
        pytest.param("eval {here}/run {here}/spec.yaml --out {here}/file/r.json", marks=pytest.mark.slow),
        "eval {here}/run {here}/spec.yaml --out /dev/full",
        "predict {here}/run {here}/photos/a/0.png --labels x y --out {here}/file",
        "shards build {here}/photos {here}/file/shards --kind imagefolder",
        "report run {here}/run --out {here}/file",
        pytest.param("fold {here}/run {here}/file/x --keep-experts", marks=pytest.mark.slow),
    ],
)
def test_a_file_in_the_place_of_a_folder_is_told_in_one_line(
    line: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (trained / "file").write_text("kept")
    monkey = line.format(here=trained)
    status, told = run(capsys, *monkey.split())
    assert str(status).startswith("error: "), told
    assert any(place in str(status) for place in (str(trained / "file"), "/dev/full"))
    assert "\n" not in str(status)
    assert "Traceback" not in told
    assert (trained / "file").read_text() == "kept"
    assert Path("/dev/full").is_char_device()


def test_an_export_replaces_an_earlier_one_and_its_other_files(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained / "exported", out)
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "notes.txt"):
        (out / name).write_text("old")
    export(trained / "run", out)
    assert contents(out) == {
        **contents(trained / "exported"),
        "notes.txt": b"old",
        "README.md": contents(out)["README.md"],
    }


def test_files_of_a_folder_are_replaced_together(tmp_path: Path) -> None:
    for name in ("a", "b"):
        replace_file(tmp_path / name, "old")
    with pytest.raises(FileNotFoundError), replacing_files(tmp_path) as part:
        (part / "a").write_text((tmp_path / "none").read_text() if (part / "a").write_text("new") else "")
    assert contents(tmp_path) == {"a": b"old", "b": b"old"}
    with replacing_files(tmp_path) as part:
        (part / "a").write_text("new")
    assert contents(tmp_path) == {"a": b"new", "b": b"old"}
    with pytest.raises(FileNotFoundError), replacing_files(tmp_path / "new") as part:
        (part / "none").read_text()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["/dev/full", "."])
def test_devices_and_folders_are_not_replaced(name: str) -> None:
    with pytest.raises(OSError, match="expected a file or none, got a "):
        replace_file(Path(name), "x")

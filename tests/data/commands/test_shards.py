"""The commands on shards: what they print, and what verify finds."""

import io
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from PIL import Image

from unified.cli.shards import shards_build
from unified.core.errors import DataError
from unified.data.builders.dense import Options
from unified.data.commands import shards as commands
from unified.data.commands.shards import guess_kind, table
from unified.data.shards.index import build_index, index_path, write_index
from unified.data.shards.verify import verify
from unified.data.shards.write import ShardWriter

Capture = pytest.CaptureFixture[str]


def picture(size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((size, size)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Ten samples in three shards."""
    with ShardWriter(tmp_path / "d", kind="test", source="here", samples_per_shard=4) as writer:
        for number in range(10):
            writer.write(f"{number:03d}", {"png": picture(), "txt": f"text {number}", "wav": b"abc"})
    return tmp_path / "d"


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    for name in ("dog", "cat"):
        (tmp_path / "animals" / name).mkdir(parents=True)
        (tmp_path / "animals" / name / "1.png").write_bytes(picture())
    return tmp_path / "animals"


def test_build_prints_what_it_made(animals: Path, tmp_path: Path, capsys: Capture) -> None:
    commands.build(str(animals), tmp_path / "out")
    printed = capsys.readouterr().out
    assert "cls 2, png 2, txt 2" in printed
    assert f"unified shards inspect {tmp_path / 'out'}" in printed
    with pytest.raises(DataError, match="exists already"):
        commands.build(str(animals), tmp_path / "out")
    commands.build(str(animals), tmp_path / "out", skip_existing=True)
    assert "nothing was built" in capsys.readouterr().out
    with pytest.raises(DataError, match="holds shards of imagefolder, not of digits"):
        commands.build("digits", tmp_path / "out", skip_existing=True)


def test_build_of_embedded_digits(tmp_path: Path, capsys: Capture) -> None:
    commands.build("digits", tmp_path / "digits", options=Options(samples_per_shard=300))
    assert "json 896" in capsys.readouterr().out
    assert verify(tmp_path / "digits").problems == []


def test_build_mistakes(animals: Path, tmp_path: Path) -> None:
    for arguments, message in [
        ({"source": "glphs"}, "no embedded data set; did you mean 'glyphs'"),
        ({"source": str(animals), "kind": "imagefoler"}, "did you mean 'imagefolder'"),
        (
            {"source": str(animals), "options": Options(columns="a=txt")},
            "--columns is for table, attributes; this is built as",
        ),
        ({"source": "digits", "options": Options(held_out=0.5)}, "--held-out is for imagefolder"),
        ({"source": str(animals), "options": Options(held_out_by="end")}, "expected --held-out beside it"),
    ]:
        with pytest.raises(DataError, match=message):
            commands.build(out=tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_command_names_all_kinds() -> None:
    kinds, nothing = get_args(get_type_hints(shards_build)["kind"])
    assert (get_args(kinds), nothing) == (commands.KINDS, type(None))


def test_kinds_are_guessed(animals: Path, tmp_path: Path) -> None:
    assert guess_kind(animals) == "imagefolder"
    (animals / "dog" / "1.txt").write_text("a dog")
    assert guess_kind(animals) == "pairs"
    assert guess_kind(tmp_path / "table.tsv") == "table"
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "1.png").write_bytes(picture())
    with pytest.raises(DataError, match="found 1 pictures, but neither"):
        guess_kind(tmp_path / "flat")


def test_inspect_prints_samples_and_draws_a_sheet(shards: Path, tmp_path: Path, capsys: Capture) -> None:
    commands.inspect(str(shards), tmp_path / "deep" / "sheet.png", count=5)
    printed = capsys.readouterr().out
    assert "10 samples in 3 shards; columns: png, txt, wav" in printed
    assert [line.split()[0] for line in printed.splitlines()[3:8]] == ["000", "002", "004", "006", "008"]
    assert "16×16" in printed
    assert "3 bytes" in printed
    with Image.open(tmp_path / "deep" / "sheet.png") as sheet:
        assert sheet.width > 5 * 128
        assert len(sheet.getcolors(100_000) or []) > 20


def test_inspect_shows_the_samples_beside_a_bad_one(tmp_path: Path, capsys: Capture) -> None:
    photo = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 9, 9)).save(photo, "JPEG")
    whole, facts = photo.getvalue(), {"width": 16, "height": 16, "objects": [{"label": "a", "box": [9, 9, 1, 1]}]}
    samples: dict[str, dict[str, Any]] = {
        "0": {"jpg": whole, "txt": "one"},
        "1": {"jpg": whole[: len(whole) // 2], "txt": "two"},
        "2": {"jpg": whole, "txt": "café".encode("latin-1")},
        "3": {"jpg": whole, "cls": b"cat"},
        "4": {"jpg": whole, "json": b"{"},
        "5": {"jpg": whole, "json": facts},
        "6": {"jpg": whole, "txt": "last"},
    }
    with ShardWriter(tmp_path / "d", kind="test", source="here") as writer:
        for key, columns in samples.items():
            writer.write(key, columns)
    with pytest.raises(DataError, match=r"got 5 of 7 that cannot: .*: 1: column 'jpg': .*unified shards verify"):
        commands.inspect(str(tmp_path / "d"), tmp_path / "sheet.png")
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line for line in printed.splitlines()[3:10]}
    assert list(rows) == list(samples)
    assert "one" in rows["0"]
    assert "last" in rows["6"]
    for key, reason in {
        "1": "two",
        "2": "expected text in UTF-8",
        "3": "number of a class, got 'cat'",
    }.items():
        assert reason in rows[key]
        assert rows[key].count("cannot be read: ") == 1
    assert "6 pictures drawn" in printed
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 128


def test_inspect_without_pictures(tmp_path: Path, capsys: Capture) -> None:
    with ShardWriter(tmp_path / "d", kind="test", source="here") as writer:
        writer.write("1", {"txt": "only text"})
    commands.inspect(str(tmp_path / "d"), tmp_path / "sheet.png")
    assert "no pictures" in capsys.readouterr().out
    assert not (tmp_path / "sheet.png").exists()
    with pytest.raises(DataError, match="count: expected at least 1"):
        commands.inspect(str(tmp_path / "d"), tmp_path / "sheet.png", count=0)


def test_verify_of_whole_shards(shards: Path, capsys: Capture) -> None:
    commands.verify(str(shards))
    printed = capsys.readouterr().out
    assert "10 samples in 3 shards are whole" in printed
    assert "read but not decoded: wav" in printed
    assert verify(shards.parent).samples == 10  # a folder of such folders
    assert verify(f"{shards}/shard-0000[01].tar").samples == 8


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def test_verify_names_shard_key_and_column(shards: Path, capsys: Capture) -> None:
    tar = shards / "shard-00001.tar"
    data = tar.read_bytes()
    damage(tar, data.index(b"IHDR") + 1)
    damage(tar, data.index(b"text 6"))
    with pytest.raises(DataError) as caught:
        commands.verify(str(shards))
    message = str(caught.value)
    assert f"{tar}: 004: column 'png': " in message
    assert f"{tar}: 006: column 'txt': " in message
    assert "shard-00001.tar: SHA-256" in message
    assert "changed since it was indexed" in message
    assert "shard-00000" not in message


def test_verify_compares_with_manifest_and_index(shards: Path) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["samples"] = 11
    manifest["columns"]["txt"] = 9
    (shards / "manifest.json").write_text(json.dumps(manifest))
    (shards / "extra.tar").write_bytes((shards / "shard-00002.tar").read_bytes())
    other = build_index(shards / "shard-00002.tar")
    write_index(other, index_path(shards / "shard-00001.tar"))
    found = " | ".join(verify(shards).problems)
    for part in (
        "10 samples can be read, manifest.json says 11",
        "'txt' is in 10 samples, manifest.json says 9",
        "extra.tar: not listed in manifest.json",
        "shard-00001.tar.idx: does not fit its tar",
    ):
        assert part in found


def test_verify_goes_on_after_a_cut_shard(shards: Path) -> None:
    tar = shards / "shard-00000.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    found = verify(shards)
    assert found.samples == 6
    assert any("shard-00000.tar" in problem and "cut off" in problem for problem in found.problems)
    (shards / "shard-00001.tar").unlink()
    assert "missing" in verify(shards).problems[0]


def test_index_is_built_anew(shards: Path, capsys: Capture) -> None:
    for path in shards.glob("*.idx"):
        path.write_bytes(b"old")
    commands.index(str(shards / "shard-00000.tar"))
    assert "shard-00000.tar" in capsys.readouterr().out
    commands.index(str(shards))
    assert verify(shards).problems == []


def test_table_aligns_numbers_right() -> None:
    assert table(["name", "n"], [["a", "1,000"], ["bcdef", "7"]]).splitlines() == [
        "name       n",
        "─────  ─────",
        "a      1,000",
        "bcdef      7",
    ]

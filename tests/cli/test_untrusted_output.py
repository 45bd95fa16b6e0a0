"""What commands print of locations and of data: no secrets, no control characters, no reprs."""

import io
import tarfile
from pathlib import Path

import pytest
from commands import recipe_file, run

from unified.data.shards.write import ShardWriter

SECRET = "Hunter2secret"
URL = f"http://user:{SECRET}@127.0.0.1:9/x.tar"


@pytest.mark.parametrize(
    "command",
    [
        ("shards", "verify", URL),
        ("shards", "index", URL),
        ("shards", "build", URL, "out"),
        ("eval", "nothing/at-all", URL),
        ("eval", URL, "digits"),
        ("push", URL, "org/name"),
        ("push", ".", URL),
        ("fold", URL, "out"),
        ("export", URL, "out"),
        ("predict", URL, "a.png"),
        ("report", "run", URL),
        ("report", "routing", URL),
        ("train", f"https://user:{SECRET}@127.0.0.1:9/x.yaml"),
        ("train", f"https://127.0.0.1:9/x.yaml?sig={SECRET}"),
    ],
    ids=" ".join,
)
def test_no_command_prints_a_password(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, told = run(capfd, *command)
    assert status not in (0, None)
    assert SECRET not in told


def test_a_run_and_its_log_have_no_password(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_file(tmp_path, train={"checkpoints": f"ftp://user:{SECRET}@127.0.0.1:9/run"})
    status, told = run(capfd, "train", str(recipe), "--out", str(tmp_path / "run"))
    assert status not in (0, None)
    assert SECRET not in told
    assert "the run ends: " in (tmp_path / "run" / "log.txt").read_text()
    assert SECRET not in (tmp_path / "run" / "log.txt").read_text()


def test_a_dry_run_prints_the_recipe_without_passwords(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_file(tmp_path, train={"checkpoints": f"s3://key:{SECRET}@bucket/run?token={SECRET}"})
    status, told = run(capfd, "train", str(recipe), "--dry-run")
    assert status == 0
    assert "checkpoints: s3://…@bucket/run?…" in told
    assert SECRET not in told


@pytest.mark.parametrize("base", [f"http://u:{SECRET}@h/x.yaml", f"s3://b/x.yaml?sig={SECRET}"])
def test_extended_recipes_are_named_without_passwords(
    base: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, told = run(capfd, "train", str(recipe_file(tmp_path, extends=base)), "--dry-run")
    assert "extends: " in str(status)
    assert SECRET not in told


def test_control_characters_of_data_do_not_reach_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with ShardWriter(tmp_path / "a", kind="x", source="x") as writer:
        writer.write("k\x1b]0;title\x07", {"txt": "\x1b[2J\x1b[31mcaption", "cls": 1})
        writer.write("a\nerror: forged", {"txt": "\x9b2Jtwo", "cls": 1})
    status, told = run(capfd, "shards", "inspect", str(tmp_path / "a"), "--out", str(tmp_path / "o.png"))
    assert status == 0
    assert "k\\x1b]0;title\\x07" in told
    assert "\\x1b[2J\\x1b[31mcaption" in told
    assert "a\\nerror: forged" in told
    assert not {"\x1b", "\x07", "\x9b"} & set(told)


def test_control_characters_of_names_do_not_reach_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        member = tarfile.TarInfo("\x1b[31ma.png")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    status, told = run(capfd, "shards", "verify", str(tmp_path))
    assert "\\x1b[31ma" in str(status)
    assert "\x1b" not in told


@pytest.mark.parametrize("value", ["x" * 5000, ["x" * 90] * 90, {"a": {"b": "x" * 5000}}, "\x1b]0;t\x07"])
def test_values_of_recipes_are_quoted_short(value: object, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, told = run(capfd, "train", str(recipe_file(tmp_path, max_steps=value)), "--dry-run")
    assert str(status).startswith("error: a.yaml.max_steps: expected int, ")
    assert len(str(status)) < 150
    assert "\x1b" not in told


def test_patterns_are_named_as_people_write_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with tarfile.open(tmp_path / "x.tar", "w"):
        pass
    status, told = run(capfd, "shards", "inspect", str(tmp_path))
    assert status not in (0, None)
    assert "PosixPath" not in told
    assert "[" not in str(status)

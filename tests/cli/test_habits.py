"""Habits that people bring to a command line: versions, modules, misspelt commands, closed pipes, quick help."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unified import __version__
from unified.cli import ends
from unified.cli.main import main
from unified.core.errors import RecipeError
from unified.evaluate.commands import eval_command
from unified.hub import load

ROOT = Path(__file__).parent.parent.parent


def python(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, text=True, capture_output=True, **options)  # type: ignore[call-overload,no-any-return]


def test_the_package_is_a_program_that_tells_its_version() -> None:
    done = python("-m", "unified", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"unified {__version__}\n", "")


def test_help_versions_and_wrong_commands_are_told_without_torch() -> None:
    code = """
import contextlib, io, json, sys
from unified.cli.main import main
found = {}
for line in ["--help", "--version", "eval --help", "shards build --help", "train --help", "help push", "evaluate",
             "export --no-such-flag"]:
    sys.argv = ["unified", *line.split()]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
    found[line] = [status if status in (0, None, 2) else "message", "torch" in sys.modules]
print(json.dumps(found))
"""
    found = json.loads(python("-c", code, check=True).stdout)
    assert not any(torch for _, torch in found.values()), found
    assert [status in (0, None) for status, _ in found.values()] == [True] * 6 + [False] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("evaluate x", r"unified: 'evaluate' is not a command; did you mean 'eval'\? There are: compare, "),
        ("shard build", r"did you mean 'shards'"),
        ("shards biuld x y", r"unified shards: 'biuld' is not a command; did you mean 'build'"),
        ("inspect data", r"did you mean 'unified shards inspect'"),
        ("convert clip", r"There are: uni-perceiver"),
    ],
)
def test_misspelt_commands_name_the_nearest(line: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["unified", *line.split()])
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        main()


def test_a_closed_pipe_ends_a_command_without_a_word() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "unified", "--help"], cwd=ROOT, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (ends.CLOSED_PIPE, b"")


def test_another_pipe_that_breaks_is_an_error() -> None:
    def upload() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(SystemExit, match=r"error: .*Broken pipe"):
        ends.guarded(upload)


def test_the_help_of_eval_shows_that_several_specs_may_follow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["unified", "eval", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert "SPEC [SPEC ...]" in capsys.readouterr().out


@pytest.mark.parametrize("specs", [["digtis"], ["digits", "no/such/folder"]])
def test_a_wrong_spec_is_told_before_the_model_is_loaded(specs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "load", lambda _: pytest.fail("the model was loaded"))
    with pytest.raises(RecipeError, match="neither a name in recipes/eval, a YAML file nor a data folder"):
        eval_command("anything", specs)


def test_push_is_private_or_public_not_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["unified", "push", "out", "org/name", "--private", "--public"])
    with pytest.raises(SystemExit, match="--private and --public exclude each other"):
        main()

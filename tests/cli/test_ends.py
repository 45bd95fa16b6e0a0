"""How commands end when something is wrong: with a message, a status, and no traceback."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from unified.cli import ends
from unified.cli.export import export
from unified.cli.train import TRAIN_HELP, train
from unified.core.errors import RecipeError
from unified.evaluate.commands import eval_command
from unified.hub import load

ROOT = Path(__file__).parent.parent.parent


def interrupted() -> None:
    raise KeyboardInterrupt


def full() -> None:
    raise OSError(28, "No space left on device", "results.json")


def test_ctrl_c_ends_a_command_with_status_130_and_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ends.guarded(interrupted)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_train_takes_the_flag_that_the_launcher_of_deepspeed_adds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train(["--local_rank=0", "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == TRAIN_HELP


def test_errors_of_the_file_system_end_a_command_with_their_message() -> None:
    with pytest.raises(SystemExit, match=r"error: results\.json: No space left on device\. Hint: make room"):
        ends.guarded(full)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (lambda folder: folder, "is a folder; name a file in it"),
        (lambda folder: folder / "file" / "results.json", "file is not a folder"),
    ],
)
def test_a_place_for_results_is_checked_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Callable[[Path], Path], expected: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(load, "load", lambda _: pytest.fail("the model was loaded"))
    with pytest.raises(RecipeError, match=expected):
        eval_command("anything", ["digits"], out=place(tmp_path))


def test_export_does_not_write_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(RecipeError, match="a file is there already"):
        export(tmp_path / "run", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


def test_threads_wait_passively_in_every_command_before_torch_is_loaded() -> None:
    code = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch':\n"
        "            print(os.environ.get('OMP_WAIT_POLICY'), flush=True)\n"
        "            os._exit(0)\n"
        "sys.meta_path.insert(0, Watch())\n"
        "from unified.cli.app import make_ready\n"
        "make_ready()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "PASSIVE\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--dry-run", "--processes", "many"], "--processes: expected int, found 'many'"),
        (["--processes", "4"], "--processes goes with --dry-run"),
        (["--dry-run", "--processes"], "--processes: a value must follow"),
        (["--dry-run", "--processes", "0"], "--processes: expected at least 1, found 0"),
    ],
)
def test_processes_of_a_dry_run_are_a_number(arguments: list[str], expected: str) -> None:
    with pytest.raises(SystemExit, match=f"error: {expected}"):
        train([str(ROOT / "recipes" / "quickstart.yaml"), *arguments])


SECRET = "Hunter2secret"


def broken(url: str) -> None:
    try:
        raise KeyError(url)
    except KeyError as error:
        raise RuntimeError(f"\x1b]0;t\x07 with url: /x?sig={SECRET}") from error


@pytest.mark.parametrize("rank", [None, "0"])
def test_tracebacks_have_no_secrets(
    rank: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises((RuntimeError, SystemExit)) as caught:
        ends.guarded(broken, f"https://user:{SECRET}@host/x?token={SECRET}")
    if rank is None:
        sys.excepthook(caught.type, caught.value, caught.tb)
    told = capsys.readouterr().err
    assert "Traceback (most recent call last):" in told
    assert "KeyError: 'https://…@host/x?…'" in told
    assert "RuntimeError: \\x1b]0;t\\x07 with url: /x?…" in told
    assert SECRET not in told


def test_tracebacks_of_threads_have_no_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    ends.guarded(str)
    thread = threading.Thread(target=broken, args=(f"https://user:{SECRET}@host/x",), name="reader")
    thread.start()
    thread.join()
    told = capsys.readouterr().err
    assert "Exception in thread reader:\nTraceback" in told
    assert "KeyError: 'https://…@host/x'" in told
    assert SECRET not in told


def test_the_hook_of_a_debugger_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", interrupted)
    ends.guarded(str)
    assert sys.excepthook is interrupted

"""A run that is killed goes on as if nothing had happened; every test here runs `train.py` in processes of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import losses, write_recipe

from unified import checkpoint

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parent.parent.parent
STEPS = 24


def launch(recipe: Path, out: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "train.py"), str(recipe), "--out", str(out), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str], expected: int = 0) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == expected, output
    return output


def wait_for_steps(process: subprocess.Popen[str], out: Path, steps: int) -> None:
    """Until the run has told so many steps."""
    metrics = out / "metrics.jsonl"
    limit = time.monotonic() + 90
    while not metrics.exists() or metrics.read_text().count("\n") <= steps:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit, "the run does not get on"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    return write_recipe(folder, max_steps=STEPS, train={"log_every": 1, "save_every": 5, "keep_last": 2})


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    """A run that nothing interrupts."""
    out = recipe.parent / "whole"
    finish(launch(recipe, out))
    assert [row["step"] for row in losses(out)] == list(range(1, STEPS + 1))
    return out


@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.slow), "2"])
def test_a_killed_run_continues_bit_for_bit_whatever_the_workers(recipe: Path, whole: Path, workers: str) -> None:
    out = recipe.parent / f"killed{workers}"
    flags = ("--data.workers", workers)
    process = launch(recipe, out, *flags)
    wait_for_steps(process, out, 7)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = checkpoint.newest(out / "checkpoints")
    assert found is not None
    assert checkpoint.load(found, groups=()).step < STEPS, "the run was killed too late to show anything"
    finish(launch(recipe, out, *flags))
    assert losses(out) == losses(whole)
    for group in ("weights", "exp_avg", "exp_avg_sq", "ema"):
        expected = checkpoint.load(whole / "checkpoints" / f"step_{STEPS:08d}").tensors[group]
        continued = checkpoint.load(out / "checkpoints" / f"step_{STEPS:08d}").tensors[group]
        assert expected.keys() == continued.keys()
        assert all(expected[name].equal(continued[name]) for name in expected), group


def test_sigterm_saves_and_exits_with_0_and_a_second_run_at_the_same_time_is_refused(recipe: Path, whole: Path) -> None:
    out = recipe.parent / "stopped"
    process = launch(recipe, out, "--max-steps", "2000")
    wait_for_steps(process, out, 3)
    refused = finish(launch(recipe, out), expected=1)
    assert f"in use by process {process.pid}" in refused
    process.send_signal(signal.SIGTERM)
    output = finish(process)
    assert "the same command goes on from there" in output
    found = checkpoint.newest(out / "checkpoints")
    assert found is not None
    assert checkpoint.load(found, groups=()).step == losses(out)[-1]["step"]
    model = finish(launch(recipe, out, "--model.width", "64"), expected=1)
    assert "model.width: 32 in the run, 64 in the recipe" in model
    assert "Traceback" not in model


def test_a_misspelt_key_or_flag_ends_with_a_hint_and_without_traceback(recipe: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(recipe.read_text().replace("max_steps", "max_step"))
    output = finish(launch(wrong, tmp_path / "run"), expected=1)
    assert "did you mean 'max_steps'?" in output
    assert "Traceback" not in output
    flag = finish(launch(recipe, tmp_path / "run", "--optim.lrr", "1e-3"), expected=2)
    assert "--optim.lr" in flag
    assert not (tmp_path / "run").exists()
